"""benchmarks/reproduce_commands.py finds the commands of a page, and notices what fails, is missing or stays behind."""

from __future__ import annotations

import importlib
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("psutil")
pytest.importorskip("torch")

from sal360.errors import DataError
from training.analyse import ANALYSES
from training.config import read_config
from training.data.gaze import salient360, sitzmann
from training.data.gaze.hmd_logs import HmdLogsConfig
from training.evaluate import EvaluateConfig
from training.pretrain import PretrainConfig
from training.reproduce import ReproduceConfig
from training.train_decoder import TrainDecoderConfig

SETTINGS: dict[str, Any] = {
    "training.pretrain": PretrainConfig,
    "training.train_decoder": TrainDecoderConfig,
    "training.evaluate": EvaluateConfig,
    "training.reproduce": ReproduceConfig,
    "training.data.gaze.hmd_logs": HmdLogsConfig,
    **{f"training.analyse {name}": kind for name, (kind, _) in ANALYSES.items()},
}


@pytest.fixture
def module(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module("reproduce_commands")


def test_every_command_of_the_page_is_found_and_is_accepted_when_it_is_short(
    module: ModuleType, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    for name in ("osie", "mit1003", "pascal_s", "eyecrowd", "nus_scene", "rydel35", "ham"):
        (tmp_path / "GAZE" / name).mkdir(parents=True)
    for name in ("ceap", "avtrack", "rcqoea", "nasrabadi", "pavs10k", "own"):
        (tmp_path / "HEADSET" / name).mkdir(parents=True)
    found = [module.shortened(each, tmp_path) for each in module.commands(module.PAGE.read_text(encoding="utf-8"))]
    assert len({module._named(each) for each in found}) == len(found)
    some = {(module.program(each), module.kind(each)): each for each in found}  # reading settings is slow
    for each in some.values():
        if kind := SETTINGS.get(module.program(each)):
            config = read_config(kind, "", each[4 if module.program(each).startswith("training.analyse") else 3 :])
            if module.program(each) in ("training.pretrain", "training.train_decoder"):
                assert config.loop.batch_size == 6
    others = {module.program(each) for each in found} - SETTINGS.keys()
    assert others == {"training.data.check", "training.convert_salgan", "make"}
    kinds = {module.kind(each) for each in found} - {""}
    assert len(kinds) == 9  # three encoders, five kinds of decoder training, and the whole reproduction


def test_a_command_outside_of_code_is_not_overlooked(module: ModuleType) -> None:
    text = "Run `python -m training.teach --output A`.\n\n    python -m training.average \\\n        --output B\n"
    assert [each[2:] for each in module.commands(text)] == [
        ["training.teach", "--output", "A"],
        ["training.average", "--output", "B"],
    ]
    with pytest.raises(DataError, match=r"python -m training\.export"):
        module.commands(text + "python -m training.export C\n")


def test_files_that_are_missing_or_useless_are_troubles(module: ModuleType, tmp_path: Path) -> None:
    command = ["python", "-m", "training.evaluate", "--models", "[bundled]", "--output", "out"]
    out = tmp_path / "out"
    out.mkdir()
    for name in ("scores.csv", "summary.csv"):
        (out / name).write_text("a,b\n1,2\n")
    (out / "turned.csv").write_text("a,b\n")
    assert module.troubles_of_files(command, tmp_path)[1] == ["turned.csv: no rows", "no report.html"]
    (out / "report.html").touch()
    command[4] = "[]"  # nothing to be turned
    assert module.troubles_of_files(command, tmp_path)[1] == ["report.html: empty"]
    cv2.imwrite(str(out / "a.png"), np.zeros((8, 8), np.uint8))
    assert module.trouble_of(out / "a.png") == "a single colour"
    save_file({"a": np.array([np.nan], np.float32)}, out / "a.safetensors")
    assert module.trouble_of(out / "a.safetensors") == "weights that are not finite"
    (out / "scores.csv").write_text("a,b\n1,2,3\n")
    assert module.trouble_of(out / "scores.csv") == "rows of several lengths"


def test_a_process_that_outlives_a_killed_command_is_noticed_and_ended(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OUTLIVE_S", 0.2)
    script = """if True:
        import os, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        open("written", "w").write(str(child.pid))
        os.rename("written", "pid")
        time.sleep(60)
    """
    disturbance = module.Disturbance(signal.SIGKILL, 0, (tmp_path / "pid").exists)
    ended = module.Runner(tmp_path, preload=False).run(["python", "-c", script], disturbance)
    assert ended.status == -signal.SIGKILL
    assert disturbance.trouble == "1 of its processes outlived SIGKILL"
    assert not module._is_alive(int((tmp_path / "pid").read_text()))


def test_what_has_succeeded_is_not_repeated_and_a_failure_is_the_status(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("`python -m training.teach --output A` and `python -m training.average --output B`")
    ran = []

    def run(runner: Any, arguments: list[str]) -> Any:
        ran.append(arguments[2])
        (runner.folder / "A").write_text("maps")
        return module.Ended(0, 1.0, "")

    monkeypatch.setattr(module, "PAGE", page)
    monkeypatch.setattr(module, "prepare", lambda *_: None)
    monkeypatch.setattr(module.Runner, "run", run)
    for _ in range(2):
        assert module.main(["--folder", str(tmp_path / "folder")]) == 1
    assert ran == ["training.teach", "training.average", "training.average"]
    assert "| `average B` | python | no last/model.safetensors | 1 |  |" in capsys.readouterr().out


@pytest.mark.usefixtures("module")  # for its path
def test_copies_are_complete_and_irregular(tmp_path: Path) -> None:
    copies = importlib.import_module("gaze_copies")
    random = np.random.default_rng(0)
    copies.write_salient360(tmp_path / "salient360", random)
    copies.write_sitzmann(tmp_path / "sitzmann", random)
    for dataset, kinds in ((salient360, 5), (sitzmann, 4)):
        found = dataset.inventory(tmp_path / dataset.__name__.rpartition(".")[2])
        assert found.is_complete, found.report()
        assert len(found.irregular.counts) == kinds

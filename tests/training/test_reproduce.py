"""Every command of docs/reproduce.md and the shipped evaluation settings are accepted by the command's parser."""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from sal360.errors import ParameterError, TrainingError
from sal360.spec import read_onnx_spec
from sal360.weights import WEIGHTS, bundled_model
from training import make_weights
from training.analyse import ANALYSES
from training.average import AverageConfig
from training.calibrate import CalibrateConfig
from training.checkpoint import save_checkpoint
from training.config import read_config
from training.data.gaze.datasets import DATASETS
from training.data.gaze.hmd_logs import HmdLogsConfig
from training.evaluate import EvaluateConfig
from training.export import ExportConfig
from training.make_weights import MakeWeightsConfig
from training.pretrain import PretrainConfig
from training.teach import TeachConfig
from training.train_decoder import TrainDecoderConfig
from training.train_photographs import TrainPhotographsConfig

KINDS = {
    "pretrain": PretrainConfig,
    "train_decoder": TrainDecoderConfig,
    "evaluate": EvaluateConfig,
    "data.gaze.hmd_logs": HmdLogsConfig,
}


@pytest.fixture(scope="module")
def settings(repository):
    """(command, its settings) of every `python -m training.…` with options on the page, and the data sets checked."""
    text = (repository / "docs/reproduce.md").read_text(encoding="utf-8")
    commands = [shlex.split(each) for each in re.findall(r"`python -m training\.([^`]+ [^`]+)`", text)]
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)  # settings are named relative to it
        for name, *options in commands:
            if name == "data.check":
                read.append((name, options[0]))
            elif name == "analyse":
                read.append((options[0], read_config(ANALYSES[options[0]][0], "", options[1:])))
            else:
                read.append((name, read_config(KINDS[name], "", options)))
    return read


def test_every_command_on_the_page_is_accepted(settings):
    assert {name for name, _ in settings} == {"data.check", *KINDS, *ANALYSES}
    assert {dataset for name, dataset in settings if name == "data.check"} == set(DATASETS)


def test_every_row_of_the_paper_has_its_command(settings):
    """{VGG16, ResNet50} x {attention, none, average pooling} x {frozen, fine-tuned}, each on its own encoder."""
    pretrained = {
        each.loop.run: (each.model.encoder, each.model.attention) for name, each in settings if name == "pretrain"
    }
    decoders = [each for name, each in settings if name == "train_decoder" and each.encoder_weights]
    assert all(pretrained[each.encoder_weights][0] == each.model.encoder for each in decoders)
    rows = {(*pretrained[each.encoder_weights], each.frozen) for each in decoders}
    expected = {
        (encoder, attention, frozen)
        for encoder in ("vgg16", "resnet50")
        for attention in ("self", "none", "average")
        for frozen in ("encoder", "none")
    }
    assert rows == expected | {("compact", "self", "encoder")}
    assert len({each.loop.run for each in decoders}) == len(decoders)


@pytest.mark.parametrize("recipe", ["permissive", "all"])
def test_every_step_of_make_weights_is_accepted_and_starts_from_what_came_before(recipe):
    config = MakeWeightsConfig("gaze", "pictures", recipe, runs="runs/weights", dry_run=True)
    kinds = {
        "training.train_photographs": TrainPhotographsConfig,
        "training.average": AverageConfig,
        "training.teach": TeachConfig,
        "training.calibrate": CalibrateConfig,
        "training.export": ExportConfig,
    }
    made, trained = set(), []
    for step, (_, _, module, *options) in make_weights.commands(config):
        settings = read_config(kinds[module], "", options)
        if isinstance(settings, TrainPhotographsConfig):
            assert (settings.data.root, settings.data.panoramas) == ("gaze", "pictures")
            needs, result = {settings.start, settings.data.taught}, settings.loop.run
            trained.append(settings)
        else:
            needs = {getattr(settings, "checkpoint", ""), *getattr(settings, "checkpoints", ())}
            result = settings.output
        assert needs - {""} <= made, step.name
        assert result == f"runs/weights/{recipe}/{step.name}"
        made.add(result)
    assert {f"runs/weights/{recipe}/{form}.onnx" for form in make_weights.FORMS} <= made
    assert len({str(each.model) for each in trained}) == 1  # every stage has the same network
    for each in trained:
        licences = {DATASETS[name].licence for name in each.data.sets}
        assert (licences == {"MIT"}) == (recipe == "permissive")
        assert not [licence for licence in licences if "NC" in licence]
        for name in each.data.sets:  # the files say of each set what is known of its licence
            assert f"{DATASETS[name].title} ({DATASETS[name].licence})" in settings.trained_on
            assert (DATASETS[name].title in settings.weights_license) == (DATASETS[name].licence != "MIT")
    assert settings.weights_license.startswith("Apache-2.0")
    assert make_weights.VERSION in MakeWeightsConfig.runs  # nothing of another version is taken for this one's
    assert settings.version == make_weights.VERSION == read_onnx_spec(bundled_model(weights=recipe)).version
    assert settings.name == read_onnx_spec(bundled_model(weights=recipe)).name


def test_make_weights_skips_what_is_done_and_stops_at_a_step_that_fails(tmp_path, monkeypatch, capsys):
    ran = []

    def run(command, **_):
        ran.append(command[2])
        return subprocess.CompletedProcess(command, int(command[2] == "training.calibrate"))

    save_checkpoint(tmp_path / "all/average", 1, torch.nn.Linear(1, 1), "saliency", {}, {})
    (tmp_path / "all/photographs.npz").touch()
    monkeypatch.setattr(make_weights.subprocess, "run", run)
    config = MakeWeightsConfig(str(tmp_path), str(tmp_path), "all", runs=str(tmp_path))
    with pytest.raises(TrainingError, match="the step calibrated failed"):
        make_weights.make_weights(config)
    assert ran == ["training.train_photographs"] * 3 + ["training.calibrate"]
    assert "average: done before" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", WEIGHTS)
def test_each_recipe_makes_its_own_files_of_the_package(tmp_path, monkeypatch, recipe):
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(
        make_weights, "bundled_model", lambda *which, **named: package / bundled_model(*which, **named).name
    )

    def run(command, **_):
        if command[2] == "training.export":
            output = Path(command[command.index("--output") + 1])
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(" ".join(command))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(make_weights.subprocess, "run", run)
    make_weights.make_weights(MakeWeightsConfig(str(tmp_path), str(tmp_path), recipe, runs=str(tmp_path / "runs")))
    assert {path.name for path in package.iterdir()} == {
        bundled_model(form, recipe).name for form in make_weights.FORMS
    }
    for form in make_weights.FORMS:
        made_by = (package / bundled_model(form, recipe).name).read_text()
        assert f"--precision {form}" in made_by
        assert f"runs/{recipe}/" in made_by


def test_the_plan_of_make_weights_is_printed_without_any_folder(capsys):
    make_weights.make_weights(read_config(MakeWeightsConfig, "", ["--dry_run=true"]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(make_weights.STEPS)
    assert "--data.root GAZE --data.panoramas PANORAMAS " in lines[0]
    with pytest.raises(ParameterError, match=r"^gaze is ''; expected a folder; set --gaze$"):
        read_config(MakeWeightsConfig, "", [])


def test_every_shipped_setting_of_decoder_training_is_accepted(repository):
    recipes = repository / "training/recipes"
    overlays = sorted(recipes.glob("compact_*.yaml"))
    assert overlays
    base = ["--config", str(recipes / "compact.yaml")]
    runs = [base, *([*base, "--config", str(overlay)] for overlay in overlays)]
    for options in [*runs, ["--config", str(recipes / "train_paper.yaml")]]:
        assert read_config(TrainDecoderConfig, "", options).loop.run.startswith("runs/")


def test_an_overlay_repeats_nothing_of_its_base(repository):
    def settings(path, values=None, prefix=""):
        for name, value in (values or yaml.safe_load(path.read_text())).items():
            if isinstance(value, dict):
                yield from settings(path, value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", str(value)

    recipes = repository / "training/recipes"
    base = set(settings(recipes / "compact.yaml"))
    for overlay in recipes.glob("compact_*.yaml"):
        assert not base & set(settings(overlay)), overlay.name


def test_the_shipped_evaluation_settings_are_accepted(repository):
    config = read_config(EvaluateConfig, "", ["--config", str(repository / "training/recipes/evaluate.yaml")])
    assert config.protocols == ("standard", "paper")


def test_a_step_whose_folder_is_empty_is_not_done(tmp_path):
    """As a full disk or a kill leaves it."""
    (tmp_path / "photographs").mkdir()
    assert not make_weights._is_done(tmp_path / "photographs")
    save_checkpoint(tmp_path / "photographs", 1, torch.nn.Linear(1, 1), "saliency", {}, {})
    assert make_weights._is_done(tmp_path / "photographs")


def test_names_with_commas_stay_one_checkpoint_each():
    config = MakeWeightsConfig("gaze", "pictures", "all", runs="runs, new: [1]", dry_run=True)
    (options,) = (options for step, (_, _, _, *options) in make_weights.commands(config) if step.name == "average")
    assert read_config(AverageConfig, "", options).checkpoints == (
        "runs, new: [1]/all/panoramas",
        "runs, new: [1]/all/tilted",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the call")
def test_no_training_outlives_the_command_that_started_it(repository):
    """A step of make_weights, a run of training.reproduce and a process of torchrun, whose parent is killed."""
    script = """if True:
        import contextlib, os, subprocess, sys, time
        from training import make_weights
        from training.loop import LoopConfig, make_fabric
        from training.reproduce import Supervisor
        child = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
        if not os.fork():
            os.environ["TORCHELASTIC_RUN_ID"] = "a test"
            make_fabric(LoopConfig("run", steps=1, accelerator="cpu"))
            print(os.getpid(), flush=True)
            time.sleep(60)

        def run(_, *, check, **options):
            subprocess.Popen(child, **options)
            raise TimeoutError

        subprocess.run = run
        with contextlib.suppress(TimeoutError):
            make_weights.make_weights(make_weights.MakeWeightsConfig(".", ".", "permissive"))
        Supervisor(0).run(child)
    """
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    with parent:
        children = [os.pidfd_open(int(parent.stdout.readline())) for _ in range(3)]
        parent.kill()
    for child in children:
        assert select.select([child], [], [], 30)[0]  # readable once it has ended
        os.close(child)

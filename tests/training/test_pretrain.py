"""The command `training.pretrain`: its output, resuming and refusals; and the shipped settings."""

from __future__ import annotations

import errno
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from sal360.errors import one_line_errors
from training import checkpoint, pretrain
from training.config import read_config
from training.curves import read_curves
from training.data.panoramas import PanoramaConfig
from training.data.shards import WriteShardsConfig, write_shards
from training.data.views import ViewConfig
from training.pretrain import PretrainConfig
from training.retrieval import Retrieval, top_scores

TINY = (
    "--config",
    "training/recipes/pretrain.yaml",
    "--data.height=64",
    "--data.cache=",
    "--model.height=64",
    "--model.pretrained=false",
    "--views.height=64",
    "--loop.epochs=0",
    "--loop.steps=3",
    "--loop.batch_size=4",
    "--loop.workers=0",
    "--loop.precision=fp32",
    "--loop.accelerator=cpu",
    "--loop.log_every_steps=1",
    "--loop.evaluate_every_epochs=2",
    "--optimiser.warmup_steps=1",
)


@pytest.fixture(scope="module")
def panoramas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six panoramas with some structure in them."""
    root = tmp_path_factory.mktemp("panoramas")
    generator = np.random.default_rng(0)
    for i in range(6):
        coarse = generator.integers(0, 256, (4, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"{i}.png"), cv2.resize(coarse, (128, 64), interpolation=cv2.INTER_CUBIC))
    return root


@pytest.fixture
def command(
    panoramas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> Callable[..., int | None]:
    """Run the command in this process with small settings; returns its exit status."""
    monkeypatch.chdir(repository)

    def run(*options: str, folder: str = "run") -> int:
        paths = (f"--data.root={panoramas}", f"--loop.run={tmp_path / folder}")
        monkeypatch.setattr(sys, "argv", ["pretrain", *TINY, *paths, *options])
        return one_line_errors(pretrain.main)

    return run


def tensors(run: Path) -> dict[str, Any]:
    newest = checkpoint.newest_checkpoint(run)
    assert newest is not None
    state = checkpoint.load_state(newest)
    bank = {name: value for name, value in state["task"].items() if isinstance(value, torch.Tensor)}
    return {**checkpoint.load_file(newest / "model.safetensors"), **bank, "rng": state["randomness"]["torch"]}


def test_a_run_leaves_settings_pictures_curves_and_a_checkpoint(command: Callable[..., int], tmp_path: Path) -> None:
    assert command() == 0
    run = tmp_path / "run"
    assert checkpoint.read_header(run).config["encoder"] == "compact"
    assert cv2.imread(str(run / "views.png")).shape[1] > 2 * 128
    assert cv2.imread(str(run / "summary.png")) is not None
    assert read_config(PretrainConfig, "", ["--config", str(run / "config.yaml")]).loop.steps == 3
    curves = read_curves(run)
    assert {
        "loss",
        "loss/global_nce",
        "loss/local_nce",
        "attention/gamma",
        "similarity/positive",
        "similarity/negative",
        "optimiser/learning_rate",
        "speed/images_per_s",
        "speed/waiting_for_data",
        "retrieval/local_top1",
        "retrieval/guided_top1",
        "retrieval/global_top5",
        "latent/inter_map_correlation",
    } <= curves.keys()
    assert curves["retrieval/local_top1"][0] == [0, 2, 3]
    assert curves["attention/gamma"][1][-1] != 0  # γ starts at 0 and learns


def test_a_run_that_dies_resumes_to_the_same_bits_memory_bank_included(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (
        "--objective.loss=nce",
        "--objective.negatives=3",
        "--loop.checkpoint_every_steps=1",
        "--loop.evaluate_every_epochs=9",
    )
    assert command(*options, folder="whole") == 0
    after_step = pretrain.PretrainTask.after_step
    steps: list[None] = []

    def dies(task: pretrain.PretrainTask) -> None:
        steps.append(None)
        if len(steps) == 2:
            raise KeyboardInterrupt
        after_step(task)

    monkeypatch.setattr(pretrain.PretrainTask, "after_step", dies)
    assert command(*options) == 130
    monkeypatch.setattr(pretrain.PretrainTask, "after_step", after_step)
    assert command(*options, "--loop.resume=true") == 0
    expected, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "run")
    assert expected.keys() == resumed.keys() >= {"memory", "attention.gamma"}
    for name, tensor in expected.items():
        assert torch.equal(tensor, resumed[name]), name


def test_it_trains_from_shards(command: Callable[..., int], panoramas: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    write_shards(WriteShardsConfig(PanoramaConfig(str(panoramas), height=64), str(out), per_shard=3))
    assert command(f"--data.root={out}", "--loop.batch_size=2", "--loop.steps=1") == 0


def test_a_new_run_can_begin_with_the_weights_of_another(command: Callable[..., int], tmp_path: Path) -> None:
    assert command("--loop.steps=1", folder="first") == 0
    assert command("--loop.steps=1", f"--weights={tmp_path / 'first'}", "--optimiser.learning_rate=1e-30") == 0
    before, after = tensors(tmp_path / "first"), tensors(tmp_path / "run")
    assert torch.equal(before["encoder.stem.weight"], after["encoder.stem.weight"])


def test_a_new_run_with_another_attention_can_begin_with_the_encoder_of_another(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--loop.steps=1", folder="first") == 0
    options = ("--loop.steps=1", "--model.attention=none", "--optimiser.learning_rate=1e-30")
    assert command(*options, f"--weights={tmp_path / 'first'}") == 2
    assert "attention.gamma is not in this model" in capsys.readouterr().err
    assert command(*options, f"--encoder_weights={tmp_path / 'first'}") == 0
    before, after = tensors(tmp_path / "first"), tensors(tmp_path / "run")
    parameters = [name for name in after if name.startswith("encoder.") and "running" not in name and "num" not in name]
    assert parameters
    for name in parameters:
        torch.testing.assert_close(before[name], after[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--loop.stepz=1",), "unrecognized arguments: --loop.stepz=1"),
        (("--loop.batch_size=0",), "loop.batch_size is 0; expected at least 1"),
        (("--loop.batch_size=7",), "loop.batch_size is 7; expected at most the 6 samples"),
        (("--loop.batch_size=1",), "at least 2 samples in each"),
        (("--config=nowhere.yaml",), "File does not exist"),
        (("--views.height=32",), "views.height is 32 and model.height is 64; expected one height"),
        (("--data.root=EMPTY",), "has 0 usable panoramas"),
        (("--data.root=nowhere",), "there is no folder nowhere"),
        (("--loop.resume=true",), "there is no checkpoint in"),
        (("--weights=nowhere",), "nowhere does not exist"),
        (("--encoder_weights=nowhere",), "nowhere does not exist"),
        (("--weights=a", "--encoder_weights=b"), "expected at most one of the two"),
    ],
)
def test_an_error_gives_one_line_and_status_2_and_writes_nothing(
    command: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    assert command(*(option.replace("EMPTY", str(tmp_path / "empty")) for option in options)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_neither_overwritten_nor_resumed_by_another_encoder(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--loop.steps=1") == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert command() == 2
    assert "step-00000001 exists; set --loop.resume true" in capsys.readouterr().err
    assert command("--loop.resume=true", "--model.circular=false") == 2
    assert "circular True; expected False, as set now" in capsys.readouterr().err
    assert command("--loop.resume=true", "--model.encoder=resnet50") == 2
    assert "(its encoder is compact; " in capsys.readouterr().err
    assert command(f"--weights={tmp_path / 'run'}", "--model.encoder=resnet50", folder="other") == 2
    assert "(its encoder is compact; " in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert before == after
    assert not (tmp_path / "other").exists()


def test_a_run_is_not_resumed_with_a_panorama_more(
    command: Callable[..., int], panoramas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--loop.steps=1") == 0
    more = shutil.copytree(panoramas, tmp_path / "more")
    shutil.copy(more / "0.png", more / "6.png")  # a batch of 4 makes one step of six panoramas and of seven
    assert command("--loop.resume=true", f"--data.root={more}") == 2
    assert "7, as --data.root has now" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_gives_a_one_line_error(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--loop.checkpoint_every_steps=1", "--optimiser.name=sgd", "--optimiser.learning_rate=1e38")
    assert command(*options) == 2
    assert "error: the loss is nan in step 2; lower" in capsys.readouterr().err
    assert checkpoint.load_state(tmp_path / "run" / "step-00000001")


def test_a_full_disk_gives_a_one_line_error(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "_write_flushed", full)
    assert command("--loop.steps=1") == 2
    assert "error: the disk is full (" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pretrain", "pretrain_paper", "pretrain_modern"])
def test_shipped_settings_load(repository: Path, name: str) -> None:
    config = read_config(PretrainConfig, "", ["--config", str(repository / f"training/recipes/{name}.yaml")])
    assert config.recipe == {"pretrain": "laptop", "pretrain_paper": "paper", "pretrain_modern": "modern"}[name]
    assert config.data.height == config.views.height  # the views are made of pictures of this size


def test_the_papers_recipe_has_the_papers_constants(repository: Path) -> None:
    config = read_config(PretrainConfig, "", ["--config", str(repository / "training/recipes/pretrain_paper.yaml")])
    assert (config.loop.epochs, config.loop.batch_size) == (250, 20)
    assert (config.optimiser.name, config.optimiser.learning_rate, config.optimiser.weight_decay) == ("sgd", 0.01, 1e-4)
    assert (config.objective.loss, config.objective.negatives) == ("nce", 16000)
    assert (config.objective.temperature, config.objective.local_weight) == (0.07, 0.7)
    assert (config.model.attention, config.model.height, config.model.pretrained) == ("self", 160, False)
    assert config.views.family == "paper"


def test_retrieval_counts_the_places_of_the_own_panorama() -> None:
    gallery = torch.eye(8)
    assert top_scores(gallery, gallery) == {"top1": 1.0, "top5": 1.0}
    queries = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    places = [sorted(row.tolist(), reverse=True).index(row[i]) for i, row in enumerate(queries @ gallery.T)]
    expected = {f"top{k}": sum(place < k for place in places) / 8 for k in (1, 5)}
    assert top_scores(queries, gallery) == pytest.approx(expected)


def test_retrieval_of_a_collapsed_model_is_zero() -> None:
    constant = torch.ones(8, 4) / math.sqrt(4)
    assert top_scores(constant, constant) == {"top1": 0.0, "top5": 0.0}


class QueryAlone(torch.nn.Module):
    """The worst possible attention: it selects the query."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Flatten(2)

    def attention(self, query: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        assert query.shape == latent.shape
        return query

    def global_head(self, latent: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool1d(latent, 8).flatten(1)  # (B, 3 * 8)
        return torch.nn.functional.normalize(pooled, dim=1)

    def local_head(self, selected: torch.Tensor) -> torch.Tensor:
        return self.global_head(selected)[..., None, None]


def test_an_attention_that_hands_on_its_query_shows_in_the_guided_score_alone() -> None:
    generator = np.random.default_rng(0)
    panoramas = [generator.integers(0, 256, (64, 128, 3), dtype=np.uint8) for _ in range(20)]
    scores = Retrieval(panoramas, ViewConfig(height=64), seed=0, batch_size=8)(QueryAlone(), torch.device("cpu"))  # type: ignore[arg-type]
    assert scores["retrieval/guided_top1"] == 1.0
    assert scores["retrieval/local_top1"] < 0.5
    assert scores["retrieval/local_top1"] == scores["retrieval/global_top1"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--views.hue=0.1", "a run with views.hue 0.2; expected 0.1"),
        ("--objective.temperature=0.5", "a run with objective.temperature 0.07; expected 0.5"),
        ("--data.height=96", "a run with data.height 64; expected 96"),
    ],
)
def test_a_run_is_not_resumed_with_other_views_or_another_loss(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    assert command("--loop.steps=1") == 0
    assert command("--loop.resume=true", option) == 2
    assert message in capsys.readouterr().err


def test_a_run_on_shards_is_not_resumed_with_other_readers_which_get_other_batches(
    command: Callable[..., int], panoramas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    write_shards(WriteShardsConfig(PanoramaConfig(str(panoramas), height=64), str(out), per_shard=3))
    options = (f"--data.root={out}", "--loop.batch_size=3")  # two steps an epoch, with one reader and with two
    assert command(*options, "--loop.steps=1", "--loop.workers=1") == 0
    assert command(*options, "--loop.steps=2", "--loop.workers=2", "--loop.resume=true") == 2
    assert "a run with readers of shards 1; expected 2" in capsys.readouterr().err


def test_a_run_is_not_resumed_with_another_panorama(
    command: Callable[..., int], panoramas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whose place in the memory bank is that of the one before."""
    assert command("--loop.steps=1") == 0
    others = shutil.copytree(panoramas, tmp_path / "others")
    (others / "0.png").rename(others / "a.png")
    assert command("--loop.resume=true", "--loop.steps=2", f"--data.root={others}") == 2
    assert "as many panoramas with other names" in capsys.readouterr().err

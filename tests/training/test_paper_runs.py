"""`training.reproduce`: its runs, its budget and what its page says, without training."""

from __future__ import annotations

import itertools
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sal360.errors import CheckpointError, TrainingError
from training import reproduce as module
from training.checkpoint import save_checkpoint
from training.config import read_config
from training.curves import Curves
from training.data.panoramas import PanoramaConfig
from training.models.contrastive import ContrastiveConfig, ContrastiveModel
from training.pretrain import PretrainConfig
from training.reproduce import Findings, ReproduceConfig, Supervisor, Variant, command, page, reproduce, variants


@pytest.fixture
def config(tmp_path: Path) -> ReproduceConfig:
    root = tmp_path / "panoramas"
    root.mkdir()
    generator = np.random.default_rng(0)
    for number in range(4):
        cv2.imwrite(str(root / f"{number}.png"), generator.integers(0, 256, (64, 128, 3), dtype=np.uint8))
    data = PanoramaConfig(str(root), height=64)
    return ReproduceConfig(
        data, str(tmp_path / "out"), encoders=("resnet50",), seeds=(0,), epochs=3, early_epochs=1, batch_size=2
    )


def test_all_runs_of_the_paper_are_made_seed_by_seed_attention_first(config: ReproduceConfig) -> None:
    whole = ReproduceConfig(config.data, config.output)
    names = [each.name for each in variants(whole)]
    assert len(names) == len(set(names)) == 18
    assert names[:3] == ["resnet50_self_seed0", "vgg16_self_seed0", "resnet50_none_seed0"]
    assert whole.epochs == 250


@pytest.mark.parametrize("encoder", ["resnet50", "vgg16"])
def test_the_runs_are_those_of_the_paper(config: ReproduceConfig, encoder: str, tmp_path: Path) -> None:
    config = replace(config, data=PanoramaConfig(config.data.root))
    options = command(config, Variant(encoder, "average", 2), tmp_path / "run", "--loop.epochs", "3")[3:]
    settings = read_config(PretrainConfig, "", options)
    assert (settings.model.encoder, settings.model.attention, settings.loop.seed) == (encoder, "average", 2)
    assert settings.optimiser.name == "sgd"
    assert settings.optimiser.step_epochs == ((120,) if encoder == "vgg16" else ())
    assert settings.loop.resume == "auto"


SMALL = ContrastiveConfig(encoder="compact", height=64)  # smaller files


def small_run(run: Path, step: int, scale: float) -> None:
    """What training.pretrain leaves after `step` steps."""
    torch.manual_seed(0)
    model = ContrastiveModel(SMALL)
    with torch.no_grad():
        for weights in model.encoder.parameters():
            weights.mul_(scale)
    with Curves(run, 0, enabled=True) as curves:
        values = {"loss": 5.0, "attention/gamma": 0.25, "latent/inter_map_correlation": 0.5}
        curves.write(step, values | {f"retrieval/{name}_top1": 0.75 for name in ("local", "guided", "global")})
    save_checkpoint(run, step, model, "contrastive", SMALL, {}, keep=1)


def test_runs_are_made_in_two_parts_kept_at_the_early_epoch_and_not_repeated(
    config: ReproduceConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, str]] = []

    def run(_: Supervisor, arguments: list[str]) -> bool:
        value = dict(itertools.pairwise(arguments))
        calls.append((Path(value["--loop.run"]).name, value["--loop.epochs"]))
        small_run(Path(value["--loop.run"]), 2 * int(value["--loop.epochs"]), float(value["--loop.epochs"]))
        return len(calls) != 3  # as if the budget ended there

    monkeypatch.setattr(Supervisor, "run", run)
    monkeypatch.setattr(module, "analyse_embedding", lambda _: None)
    assert reproduce(config) == 0
    assert calls[:3] == [("resnet50_self_seed0", "1"), ("resnet50_self_seed0", "3"), ("resnet50_none_seed0", "1")]
    results = json.loads((Path(config.output) / "reproduction.json").read_text(encoding="utf-8"))
    assert results["runs"][0]["epochs"] == 3
    assert np.nanmean(results["runs"][0]["change"]) == pytest.approx(2)  # weights three times as large
    text = (Path(config.output) / "reproduction.md").read_text(encoding="utf-8")
    assert "| resnet50, self | 0 | 3 | 0.250 (8.0) | 0.500 (.107) | 2.000, 2.000 (more than 2 on average) |" in text
    assert "Not finished: resnet50_none_seed0 (1 epochs)" in text
    said = "reproduction.md: 2 of 3 runs are finished; the same command continues with the others\n"
    assert capsys.readouterr().out.endswith(said)
    del calls[:]
    reproduce(config)
    assert ("resnet50_self_seed0", "3") not in calls
    assert capsys.readouterr().out.endswith("reproduction.md: 3 of 3 runs are finished\n")


def test_the_page_has_means_and_deviations_over_seeds(config: ReproduceConfig) -> None:
    retrieval = dict.fromkeys(("local", "guided", "global"), 0.5)
    rows = [
        Findings("resnet50", "none", seed, 3.0, 3.0, None, 0.1 + 0.1 * seed, retrieval, 4.0, None) for seed in (0, 1)
    ]
    text = page(config, 4, rows, {"fp32": [5.0, 4.0], "bf16": [5.1, 4.0]})
    assert "| resnet50, none | 0, 1 | 3 | – | 0.150 ± 0.071 | – | 4.000 ± 0.000 |" in text
    assert "the loss differs by 0.0500 on average and 0.1000 at most" in text


@pytest.mark.parametrize(
    ("figures", "rows"),
    [
        ({"resnet50": (-9.0, 0.1, [3.0, 2.0])}, {"γ of ResNet50": "yes", "ResNet50's layers": "yes"}),
        (
            {"resnet50": (0.5, 0.3, [1.0, float("nan")]), "vgg16": (8.0, 0.2, [1.25, 1.25])},
            {
                "γ of ResNet50": "no",
                "γ of VGG16": "yes",
                "the channels": "no",
                "ResNet50's layers": "no",
                "VGG16's layers": "no",
            },
        ),
        ({"resnet50": (None, 0.1, None), "vgg16": (None, 0.3, None)}, {"the channels": "yes"}),
    ],
)
def test_the_page_says_of_each_claim_whether_it_comes_out(
    config: ReproduceConfig, figures: dict[str, tuple[float | None, float, list[float] | None]], rows: dict[str, str]
) -> None:
    retrieval = dict.fromkeys(("local", "guided", "global"), 0.5)
    found = [
        Findings(encoder, "self", 0, 3.0, 3.0, gamma, correlation, retrieval, 4.0, change)
        for encoder, (gamma, correlation, change) in figures.items()
    ]
    other = Findings("resnet50", "none", 0, 3.0, 3.0, None, 0.9, retrieval, 4.0, [9.0])
    lines = page(config, 4, [*found, other], {}).splitlines()
    begin = lines.index("| claim | here | does it come out |") + 2
    judged = itertools.takewhile(bool, lines[begin:])
    assert [line.rpartition(" | ")[2] for line in judged] == [f"{answer} |" for answer in rows.values()]
    for start in rows:
        assert any(line.startswith(f"| {start}") for line in lines[begin:])
    assert any("what came out at the end" in line for line in lines)


def test_claims_are_not_judged_as_final_before_the_runs_are_finished(config: ReproduceConfig) -> None:
    retrieval = dict.fromkeys(("local", "guided", "global"), 0.5)
    text = page(config, 4, [Findings("resnet50", "self", 0, 2.0, 2.0, 0.1, 0.1, retrieval, 4.0, None)], {})
    assert "not all of these runs are finished" in text
    assert "claim" not in page(config, 4, [Findings("vgg16", "none", 0, 3.0, 3.0, None, 0.1, retrieval, 4.0, None)], {})


def test_a_run_that_was_stopped_says_when_its_figures_were_measured(config: ReproduceConfig) -> None:
    run = Path(config.output) / "runs" / "resnet50_self_seed0"
    small_run(run, 4, 1.0)
    with Curves(run, 4, enabled=True) as curves:
        curves.write(5, {"loss": 4.0, "attention/gamma": 0.5})
    save_checkpoint(run, 6, ContrastiveModel(SMALL), "contrastive", SMALL, {}, keep=1)
    found = module.findings(run, Variant("resnet50", "self", 0), 2)
    assert found is not None
    assert (found.epochs, found.measured, found.gamma) == (3.0, 2.0, 0.5)
    assert "| resnet50, self | 0 | 3; correlation and retrieval at 2 | 0.500 (8.0) |" in page(config, 4, [found], {})


WAITS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); time.sleep(60)"


def test_the_end_of_the_budget_asks_a_run_to_stop() -> None:
    supervisor = Supervisor(0.5)
    assert supervisor.run([sys.executable, "-c", WAITS]) is False
    assert supervisor.is_over
    assert supervisor.run([sys.executable, "-c", "raise SystemExit(1)"]) is False  # not even started


def test_a_signal_is_passed_on_to_the_run() -> None:
    supervisor = Supervisor(0)
    before = signal.getsignal(signal.SIGTERM)
    send = "import os, signal; os.kill(os.getppid(), signal.SIGTERM); " + WAITS
    with supervisor.passing_on_signals():
        assert supervisor.run([sys.executable, "-c", send]) is False
    assert supervisor.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_fails_ends_everything() -> None:
    with pytest.raises(TrainingError, match="status 3"):
        Supervisor(0).run([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.fixture
def trained(config: ReproduceConfig, monkeypatch: pytest.MonkeyPatch) -> ReproduceConfig:
    """Settings of which the one run is finished."""

    def run(_: Supervisor, arguments: list[str]) -> bool:
        value = dict(itertools.pairwise(arguments))
        epochs = int(value["--loop.epochs"])
        small_run(Path(value["--loop.run"]), 4 * epochs // int(value["--loop.batch_size"]), float(epochs))
        return True

    monkeypatch.setattr(Supervisor, "run", run)
    monkeypatch.setattr(module, "analyse_embedding", lambda _: None)
    config = replace(config, attentions=("self",), precision="fp32")
    assert reproduce(config) == 0
    return config


def text_of(config: ReproduceConfig) -> str:
    return (Path(config.output) / "reproduction.md").read_text(encoding="utf-8")


def test_runs_of_another_batch_size_or_of_other_panoramas_are_not_taken_for_these(trained: ReproduceConfig) -> None:
    """Three steps of a batch of 2 and one of a batch of 4 are different numbers of epochs."""
    with pytest.raises(
        CheckpointError, match=r"were made with --batch_size 2; expected 4, as set now; .*another --out"
    ):
        reproduce(replace(trained, batch_size=4))
    Path(trained.data.root, "0.png").rename(Path(trained.data.root, "a.png"))
    with pytest.raises(CheckpointError, match=r"were made with --data.root, of panoramas 4 \(.*; expected 4 \("):
        reproduce(trained)


def test_runs_of_an_older_version_are_recognised_by_their_own_settings(trained: ReproduceConfig) -> None:
    runs = Path(trained.output) / "runs"
    (runs / "made_with.json").unlink()
    settings = "loop: {batch_size: 2, precision: bf16}\ndata: {height: 64}\n"
    (runs / "resnet50_self_seed0" / "config.yaml").write_text(settings)
    with pytest.raises(CheckpointError, match="--batch_size 2; expected 4"):
        reproduce(replace(trained, batch_size=4))
    reproduce(trained)
    assert "3 epochs planned, bf16." in text_of(trained)


def test_the_page_names_the_precisions_in_which_the_runs_were_trained(trained: ReproduceConfig) -> None:
    other = replace(trained, precision="bf16")
    reproduce(other)  # nothing is left to train
    assert "3 epochs planned, fp32." in text_of(trained)
    reproduce(replace(other, epochs=6))
    assert "6 epochs planned, fp32 and bf16." in text_of(trained)


def test_a_run_has_no_change_since_an_epoch_whose_weights_were_not_kept(trained: ReproduceConfig) -> None:
    assert "| 2.000, 2.000 (more than 2 on average) |" in text_of(trained)
    reproduce(replace(trained, early_epochs=2))
    assert "change of a layer since epoch 2" in text_of(trained)
    assert "| 0.500 (.107) | – |" in text_of(trained)
    reproduce(replace(trained, early_epochs=2, epochs=6))
    assert "| 0.500 (.107) | – |" in text_of(trained)


def test_another_encoder_is_compared_in_runs_of_its_own(config: ReproduceConfig) -> None:
    compared = []

    class Noting(Supervisor):
        def run(self, arguments: Sequence[str]) -> bool:
            compared.append(dict(itertools.pairwise(arguments))["--loop.run"])
            return False

    for encoder in ("resnet50", "vgg16"):
        module.compare_precisions(replace(config, compare_steps=2), Variant(encoder, "self", 0), Noting(0))
    assert len(set(compared)) == 2
    assert not any(Path(each).parent.name == "runs" for each in compared)  # they are not runs of the page


def test_precisions_are_compared_over_the_steps_of_this_call(config: ReproduceConfig) -> None:
    variant = Variant("resnet50", "self", 0)
    for precision, steps in (("fp32", 4), ("bf16", 2)):
        run = Path(config.output) / "compared" / f"{variant.name}_{precision}"
        with Curves(run, 0, enabled=True) as curves:
            for step in range(1, steps + 1):
                curves.write(step, {"loss": float(step)})
        save_checkpoint(run, steps, ContrastiveModel(SMALL), "contrastive", SMALL, {}, keep=1)
    losses = module.compare_precisions(replace(config, compare_steps=2), variant, Supervisor(0))
    assert losses == {"fp32": [1.0, 2.0], "bf16": [1.0, 2.0]}


def test_a_run_without_curves_or_with_a_constant_latent_is_on_the_page(trained: ReproduceConfig) -> None:
    run = Path(trained.output) / "runs" / "resnet50_self_seed0"
    with Curves(run, 6, enabled=True) as curves:
        curves.write(7, {"latent/inter_map_correlation": float("nan")})
    reproduce(trained)
    assert "| resnet50, self | 0 | 3 | 0.250 (8.0) | – | 2.000, 2.000 (more than 2 on average) | 5.000 |" in text_of(
        trained
    )
    assert "NaN" not in (Path(trained.output) / "reproduction.json").read_text(encoding="utf-8")
    for events in run.glob("events.*"):
        events.unlink()
    reproduce(trained)
    assert "| resnet50, self | 0 | 3; correlation and retrieval not known | – | – | 2.000" in text_of(trained)
    assert "| resnet50, self | – | – | – |" in text_of(trained)


def test_claims_are_not_final_while_a_seed_has_not_begun_or_after_fewer_epochs_than_the_papers(
    config: ReproduceConfig,
) -> None:
    found = [Findings("resnet50", "self", 0, 3.0, 3.0, 0.1, 0.1, {}, 4.0, None)]
    assert "so far; not all of these runs are finished" in page(replace(config, seeds=(0, 1)), 4, found, {})
    assert "at the end of 3 epochs (the paper: 250):" in page(config, 4, found, {})
    whole = [replace(found[0], epochs=250.0)]
    assert "at the end:" in page(replace(config, epochs=250), 4, whole, {})


def test_the_chance_of_retrieval_is_that_of_the_panoramas_that_it_looks_among(config: ReproduceConfig) -> None:
    assert "their own panorama among 512; chance is 0.002" in page(config, 5000, [], {})


def test_the_page_shows_the_runs_before_one_that_fails(
    trained: ReproduceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise TrainingError("a run ended with status 2", "correct it")

    monkeypatch.setattr(Supervisor, "run", fail)
    (Path(trained.output) / "reproduction.md").unlink()
    with pytest.raises(TrainingError):
        reproduce(replace(trained, seeds=(0, 1)))
    assert "Not finished: resnet50_self_seed1 (0 epochs)" in text_of(trained)

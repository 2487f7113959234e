"""The loop resumes to the same numbers, stops on errors, and leaves complete checkpoints."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sal360.errors import CheckpointError, ParameterError, TrainingError, one_line_errors
from tests.child_signals import sigint_of_children
from training import checkpoint, loop, processes, trained_models
from training.curves import Curves, read_curves, write_summary
from training.data.loader import StepSampler, load, steps_per_epoch
from training.loop import LoopConfig, Task, make_fabric, settled_precision, starting_point, train
from training.optimiser import OptimiserConfig, learning_rate, make_optimiser

SAMPLES = 12


class Noisy(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Samples that differ from epoch to epoch."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        x = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(100 * epoch + index))
        return x, x.mean(dim=(1, 2))


@dataclasses.dataclass(frozen=True)
class Size:
    """A part of the settings."""

    width: int = 3


@dataclasses.dataclass(frozen=True)
class Tiny:
    """Settings of the small network."""

    encoder: str = "tiny"
    size: Size = Size()


@dataclasses.dataclass(frozen=True)
class LaterSize(Size):
    """That part in a later version, which has one more."""

    depth: int = 1


@dataclasses.dataclass(frozen=True)
class LaterTiny(Tiny):
    """The settings in a later version, which has one more."""

    size: LaterSize = LaterSize()
    scales: int = 1


class Regression(Task):
    """A small network with batch normalisation, dropout and its own memory."""

    kind = "saliency"

    def __init__(self, config: LoopConfig, *, poison: int = -1, signalled: tuple[int, int] = (-1, 0)) -> None:
        self.loop = config
        self.config = Tiny()
        self.model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.LazyLinear(3)
        )
        self.model(torch.zeros(2, 3, 8, 8))
        self.steps_per_epoch = steps_per_epoch(SAMPLES, config.batch_size)
        self.memory = torch.zeros(())
        self.poison = poison
        self.signalled = signalled
        self.seen = 0
        self.evaluated: list[int] = []

    def batches(self, start: int, stop: int) -> Iterable[Any]:
        sampler = StepSampler(
            SAMPLES,
            batch_size=self.loop.batch_size,
            seed=self.loop.seed,
            start=start,
            stop=stop,
            parts=self.loop.accumulate,
        )
        return load(Noisy(), sampler, self.loop.workers)

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        x, target = batch
        loss = (model(x) - target).square().mean() + 0 * self.memory
        self.seen += 1
        if self.seen == self.poison:
            loss = loss * math.nan
        if self.seen == self.signalled[0]:
            os.kill(os.getpid(), self.signalled[1])
        return {"loss": loss, "loss/memory": self.memory}

    def after_step(self) -> None:
        self.memory = 0.5 * self.memory + torch.rand(())

    def evaluate(self, done: int) -> Mapping[str, float]:
        assert not self.model.training
        assert not torch.is_grad_enabled()
        self.evaluated.append(done)
        return {"score": float(done)}

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory = state["memory"]


def settings(run: Path, **changes: Any) -> LoopConfig:
    plain: dict[str, Any] = {
        "run": str(run),
        "steps": 8,
        "batch_size": 4,
        "workers": 0,
        "accelerator": "cpu",
        "checkpoint_every_steps": 3,
        "log_every_steps": 2,
    }
    return LoopConfig(**{**plain, **changes})


SGD = OptimiserConfig(name="sgd", learning_rate=0.05, momentum=0.9, schedule="cosine")


def run(config: LoopConfig, optimiser: OptimiserConfig = SGD, **options: Any) -> Regression:
    fabric = make_fabric(config)
    task = Regression(config, **options)
    train(task, config, optimiser, fabric, starting_point(config))
    return task


def final_tensors(folder: Path) -> dict[str, Any]:
    newest = checkpoint.newest_checkpoint(folder)
    assert newest is not None
    state = checkpoint.load_state(newest)
    weights = checkpoint.load_file(newest / "model.safetensors")
    momenta = {f"momentum {i}": each["momentum_buffer"] for i, each in state["optimiser"]["state"].items()}
    return {**weights, **momenta, "memory": state["task"]["memory"], "rng": state["randomness"]["torch"]}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, accumulate: int) -> None:
    whole, halves = settings(tmp_path / "a", accumulate=accumulate), settings(tmp_path / "b", accumulate=accumulate)
    run(whole)
    with pytest.raises(TrainingError):  # dies in step 5, after the checkpoint of step 3
        run(halves, poison=4 * accumulate + 1)
    torch.rand(7)  # a fresh process has other random states
    run(dataclasses.replace(halves, resume=True))
    expected, resumed = final_tensors(tmp_path / "a"), final_tensors(tmp_path / "b")
    assert expected.keys() == resumed.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, resumed[name]), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_run_after_its_step_with_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    with sigint_of_children():
        before = signal.getsignal(number)
        with pytest.raises(SystemExit) as ended:
            run(settings(tmp_path / "b"), signalled=(5, number))
        assert signal.getsignal(number) is before
    assert ended.value.code == 128 + number
    assert "stopped after step 5; continue with" in capsys.readouterr().err
    assert checkpoint.read_header(tmp_path / "b").step == 5
    run(settings(tmp_path / "a"))
    run(settings(tmp_path / "b", resume=True))
    resumed = final_tensors(tmp_path / "b")
    for name, tensor in final_tensors(tmp_path / "a").items():
        assert torch.equal(tensor, resumed[name]), name


def test_a_second_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    class Impatient(Regression):
        def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
            if self.seen == 4:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return super().losses(model, batch)

    config = settings(tmp_path)
    with sigint_of_children(), pytest.raises(KeyboardInterrupt):
        train(Impatient(config), config, SGD, make_fabric(config))
    assert checkpoint.read_header(tmp_path).step == 3


def test_loader_processes_leave_signals_to_the_training() -> None:
    class Ignored(torch.utils.data.Dataset[tuple[int]]):
        def __getitem__(self, _: tuple[int, int]) -> tuple[int]:
            return (sum(signal.getsignal(each) is signal.SIG_IGN for each in (signal.SIGTERM, signal.SIGINT)),)

    sampler = StepSampler(2, batch_size=2, seed=0, start=0, stop=1)
    assert next(load(Ignored(), sampler, 1))[0].tolist() == [2, 2]


_LOADERS_ARE_LEFT = """
import numpy as np
from training.data.loader import StepSampler, load

class Samples:
    def __getitem__(self, key):
        return (np.zeros(1),)

batches = load(Samples(), StepSampler(8, batch_size=2, seed=0, start=0, stop=4), 1)
next(batches)
print("trained")
"""


def test_a_training_whose_loader_processes_are_still_there_ends_all_the_same() -> None:
    result = subprocess.run(
        [sys.executable, "-c", _LOADERS_ARE_LEFT], capture_output=True, text=True, check=True, timeout=60
    )
    assert (result.stdout, result.stderr) == ("trained\n", "")


def test_steps_between_two_points_of_the_curves_never_wait_for_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path, log_every_steps=4, checkpoint_every_steps=8, evaluate_every_epochs=100)
    task, waited = Regression(config), set()

    def recorded(read: Callable[..., Any]) -> Callable[..., Any]:
        def record(tensor: Tensor, *arguments: Any) -> Any:
            waited.add(task.seen)
            return read(tensor, *arguments)

        return record

    for name in ("__float__", "__bool__", "item", "tolist", "cpu"):
        monkeypatch.setattr(Tensor, name, recorded(getattr(Tensor, name)))
    train(task, config, SGD, make_fabric(config))
    assert waited - {0} == {4, 8}  # 0: before the first step


def test_loader_processes_do_not_change_what_is_learnt(tmp_path: Path) -> None:
    run(settings(tmp_path / "a", steps=3))
    run(settings(tmp_path / "b", steps=3, workers=2))
    for name, tensor in final_tensors(tmp_path / "a").items():
        assert torch.equal(tensor, final_tensors(tmp_path / "b")[name]), name


class Exact(Regression):
    """Without batch statistics and dropout, which depend on how a batch is cut."""

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        self.model.eval()
        return super().losses(model, batch)


def test_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    gradients = []
    for accumulate in (1, 2):
        config = settings(tmp_path / str(accumulate), steps=1, accumulate=accumulate)
        fabric, task = make_fabric(config), Exact(config)
        before = task.model[0].weight.detach().clone()
        train(task, config, OptimiserConfig(name="sgd", weight_decay=0.0), fabric)
        gradients.append(before - task.model[0].weight.detach())
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


class TwoProcesses:
    """A process beside one whose parts have twice the size."""

    world_size = 2

    def all_reduce(self, sizes: Tensor) -> Tensor:
        return torch.stack([sizes, 2 * sizes]).mean(dim=0)


def test_sizes_are_means_over_the_parts_of_all_processes() -> None:
    sizes = [torch.tensor([2, 0]), torch.tensor([4, 8])]
    assert torch.equal(loop._mean_sizes(sizes, TwoProcesses()), torch.tensor([4.5, 6.0]))  # type: ignore[arg-type]
    assert loop._mean_sizes([None, None], TwoProcesses()) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch", "nearest"), [(20, "16 or 24"), (5, "8"), (7, "8")], ids=["between", "below", "below too"]
)
def test_a_batch_that_does_not_fit_the_processes_is_refused_first_with_the_nearest_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, nearest: str
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    expected = (
        rf"^loop\.batch_size is {batch} and loop\.accumulate is 2; expected a batch_size of {nearest}, a multiple"
    )
    with pytest.raises(ParameterError, match=expected):
        make_fabric(settings(tmp_path, batch_size=batch, accumulate=2))


def test_a_loss_that_is_not_finite_stops_and_the_checkpoint_stays_whole(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss is nan in step 5; .*step-00000003, which is intact"):
        run(settings(tmp_path), poison=5)
    assert checkpoint.read_header(tmp_path).step == 3
    assert all(
        torch.isfinite(tensor).all() for tensor in checkpoint.load_file(tmp_path / "last/model.safetensors").values()
    )


def test_a_full_disk_stops_and_the_checkpoint_before_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, writes = checkpoint._write_flushed, []

    def full(path: Path, data: bytes) -> None:
        writes.append(path)
        if len(writes) > 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(checkpoint, "_write_flushed", full)
    with pytest.raises(OSError, match="No space"):
        run(settings(tmp_path))
    assert checkpoint.load_state(tmp_path / "last")["same"]["batch_size"] == 4


def test_there_is_no_silent_start_from_scratch_and_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        starting_point(settings(tmp_path, resume=True))
    assert starting_point(settings(tmp_path, resume="auto")) is None
    run(settings(tmp_path, steps=1))
    with pytest.raises(CheckpointError, match=r"step-00000001 exists; set --loop\.resume true"):
        starting_point(settings(tmp_path))
    assert starting_point(settings(tmp_path, resume="auto")) == tmp_path / "step-00000001"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seed": 3}, "seed 0; expected 3"), ({"batch_size": 6}, "batch_size 4; expected 6")],
)
def test_a_run_is_only_resumed_with_the_same_samples(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    run(settings(tmp_path, steps=1))
    with pytest.raises(CheckpointError, match=message):
        run(settings(tmp_path, resume=True, **changes))


def test_a_module_of_the_summary_is_missed_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="matplotlib"):
        run(settings(tmp_path))
    assert not list(tmp_path.glob("step-*"))


def test_batches_that_are_refused_leave_nothing_behind(tmp_path: Path) -> None:
    begun = []

    class Refused(Regression):
        def batches(self, start: int, stop: int) -> Iterable[Any]:
            raise ParameterError(f"steps {start} to {stop} cannot be loaded", "lower --loop.workers")

        def begin(self) -> None:
            begun.append(True)

    config = settings(tmp_path / "run")
    with pytest.raises(ParameterError, match="cannot be loaded"):
        train(Refused(config), config, SGD, make_fabric(config))
    assert not begun
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_optimiser_is_not_resumed(tmp_path: Path) -> None:
    run(settings(tmp_path, steps=1))
    with pytest.raises(CheckpointError, match="optimiser sgd; expected adam"):
        run(settings(tmp_path, resume=True), OptimiserConfig(name="adam"))


def test_a_run_that_trained_other_parts_is_not_resumed(tmp_path: Path) -> None:
    run(settings(tmp_path, steps=1))
    config = settings(tmp_path, resume=True)
    fabric, task = make_fabric(config), Regression(config)
    task.model[0].requires_grad_(False)
    with pytest.raises(CheckpointError, match="trained other parts of the model; resume with --frozen"):
        train(task, config, SGD, fabric, starting_point(config))


def test_a_run_of_another_encoder_is_not_resumed(tmp_path: Path) -> None:
    run(settings(tmp_path, steps=1))
    config = settings(tmp_path, resume=True)
    fabric, task = make_fabric(config), Regression(config)
    task.config = Tiny("other")
    with pytest.raises(CheckpointError, match="encoder tiny; expected other"):
        train(task, config, SGD, fabric, starting_point(config))


def test_a_checkpoint_that_lacks_a_part_of_the_state_is_refused(tmp_path: Path) -> None:
    run(settings(tmp_path, steps=1))
    path = tmp_path / "last/training_state.pt"
    state = torch.load(path, weights_only=True)
    del state["randomness"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="lacks the run's randomness"):
        run(settings(tmp_path, resume=True))


def with_moments(state: dict[str, Any], value: Any) -> None:
    for moments in state["optimiser"]["state"].values():
        moments["momentum_buffer"] = value


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.update(optimiser=5),
        lambda state: state.update(optimiser={"state": {}}),
        lambda state: state["optimiser"].update(param_groups=[5 for _ in state["optimiser"]["param_groups"]]),
        lambda state: with_moments(state, torch.zeros(7, 7, 7)),
        lambda state: with_moments(state, "text"),
        lambda state: state.update(task=[1, 2]),
        lambda state: state.update(randomness={}),
        lambda state: state["randomness"].update(torch=torch.zeros(3)),
        lambda state: state["randomness"].update(numpy=["x"]),
        lambda state: state.update(same=7),
        lambda state: state.update(weights={"other": torch.zeros(1)}),
    ],
)
def test_a_state_with_other_contents_is_broken(tmp_path: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    run(settings(tmp_path, steps=1))
    path = tmp_path / "last/training_state.pt"
    state = torch.load(path, weights_only=True)
    damage(state)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"step-00000001.* is broken \(.*\); start a new run, .*") as caught:
        run(settings(tmp_path, resume=True))
    assert "\n" not in str(caught.value)


def test_a_run_folder_that_is_a_file_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(CheckpointError, match=r"run is not a folder; set --loop\.run"):
        starting_point(settings(tmp_path / "run", resume="auto"))


def resume_with(later: Tiny, folder: Path) -> Regression:
    """Go on with a run of `Tiny` in a version that has settings more."""
    run(settings(folder, steps=1))
    config = settings(folder, steps=2, resume=True)
    fabric, task = make_fabric(config), Regression(config)
    task.config = later
    train(task, config, SGD, fabric, starting_point(config))
    return task


def test_a_setting_that_came_after_a_run_counts_as_its_default_on_resuming(tmp_path: Path) -> None:
    assert resume_with(LaterTiny(), tmp_path).seen == 1
    assert checkpoint.read_header(tmp_path).config == {
        "encoder": "tiny",
        "size": {"width": 3, "depth": 1},
        "scales": 1,
    }


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (LaterTiny(scales=2), "scales 1; expected 2"),
        (LaterTiny(size=LaterSize(depth=2)), "'depth': 1.*; expected .*'depth': 2"),
    ],
)
def test_a_later_setting_away_from_its_default_is_another_run(tmp_path: Path, later: Tiny, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        resume_with(later, tmp_path)


def test_curves_hold_losses_speed_and_scores_at_their_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    task = run(settings(tmp_path))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    steps = {tag: [point.step for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    every_second = [2, 4, 6, 8]
    for tag in ("loss", "loss/memory", "optimiser/learning_rate", "speed/images_per_s", "speed/waiting_for_data"):
        assert steps[tag] == every_second, tag
    assert steps["score"] == task.evaluated == [0, 3, 6, 8]  # before, each epoch, at the end
    assert all(0 <= point.value <= 1 for point in events.Scalars("speed/waiting_for_data"))


def test_a_resumed_run_keeps_the_points_up_to_its_checkpoint_and_drops_those_after(tmp_path: Path) -> None:
    with Curves(tmp_path, 0, enabled=True) as curves:
        for step in (0, 10, 20):
            curves.write(step, {"score": step})
    with Curves(tmp_path, 10, enabled=True) as curves:
        curves.write(30, {"score": 30})
    assert read_curves(tmp_path)["score"] == ([0, 10, 30], [0, 10, 30])


class Rising(Regression):
    """Its figure has its best value in the middle of the run."""

    def evaluate(self, done: int) -> Mapping[str, float]:
        super().evaluate(done)
        return {"measured/cc": -abs(done - 5.0), "measured/kld": math.nan if done == 3 else float(done)}


def run_rising(config: LoopConfig, **options: Any) -> Rising:
    fabric = make_fabric(config)  # first, because it seeds the weights
    task = Rising(config, **options)
    train(task, config, SGD, fabric, starting_point(config))
    return task


def best_of(run: Path) -> tuple[int, dict[str, Tensor]]:
    path = run / "best"
    assert os.listdir(path) == ["model.safetensors"]
    return checkpoint.read_header(path, kind="saliency").step, checkpoint.read_tensors(path)


@pytest.mark.parametrize(
    ("figure", "is_best", "step"),
    [("measured/cc", "max", 6), ("measured/cc", "min", 0), ("measured/kld", "max", 8), ("measured/kld", "min", 0)],
)
def test_the_weights_with_the_best_figure_are_kept_beside_the_newest(
    tmp_path: Path, figure: str, is_best: Any, step: int
) -> None:
    task = run_rising(settings(tmp_path, best_by=figure, best_is=is_best, checkpoint_every_steps=100))
    assert task.evaluated == [0, 3, 6, 8]
    assert best_of(tmp_path)[0] == step
    assert checkpoint.read_header(tmp_path).step == 8
    assert trained_models.checkpoint_name(tmp_path / "best") == f"tiny {tmp_path.name} @{step}"


@pytest.mark.parametrize("ema", [0.0, 0.5])
@pytest.mark.parametrize("poison", [5, 8])  # before the best step, and after it without a checkpoint of it
def test_the_best_weights_of_a_killed_and_resumed_run_are_those_of_an_uninterrupted_one(
    tmp_path: Path, ema: float, poison: int
) -> None:
    options = {"best_by": "measured/cc", "ema": ema, "checkpoint_every_steps": 4}
    run_rising(settings(tmp_path / "a", **options))
    with pytest.raises(TrainingError):
        run_rising(settings(tmp_path / "b", **options), poison=poison)
    run_rising(settings(tmp_path / "b", resume=True, **options))
    (step, expected), (other_step, found) = best_of(tmp_path / "a"), best_of(tmp_path / "b")
    assert step == other_step == 6
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    newest = checkpoint.read_tensors(tmp_path / "a")
    assert not torch.equal(newest["0.weight"], expected["0.weight"])


def test_a_better_figure_from_before_a_restart_is_not_replaced_by_a_worse_one(tmp_path: Path) -> None:
    run_rising(settings(tmp_path, best_by="measured/cc", steps=6))
    before = best_of(tmp_path)
    run_rising(settings(tmp_path, best_by="measured/cc", resume=True))
    assert best_of(tmp_path)[0] == before[0] == 6
    with pytest.raises(
        CheckpointError, match=r"best holds the weights with the max of measured/cc; set --loop.best_by"
    ):
        run_rising(settings(tmp_path, best_by="measured/kld", resume=True, steps=9))
    (tmp_path / "best/model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match=r"is broken, .*; remove .*best"):
        run_rising(settings(tmp_path, best_by="measured/cc", resume=True, steps=9))


def test_a_run_may_be_called_best(tmp_path: Path) -> None:
    run_rising(settings(tmp_path / "best", best_by="measured/cc"))
    assert trained_models.checkpoint_name(tmp_path / "best") == "tiny best @8"
    assert trained_models.checkpoint_name(tmp_path / "best/best/model.safetensors") == "tiny best @6"


def test_what_an_earlier_run_left_as_best_does_not_count_for_a_new_one(tmp_path: Path) -> None:
    run_rising(settings(tmp_path, best_by="measured/cc", steps=6))
    for left in tmp_path.glob("step-*"):
        shutil.rmtree(left)  # as if it had been killed before its first checkpoint
    run_rising(settings(tmp_path, best_by="measured/cc", steps=3))
    assert best_of(tmp_path)[0] == 3


def test_a_best_figure_that_is_not_measured_is_refused_before_the_first_step(tmp_path: Path) -> None:
    config = settings(tmp_path, best_by="measured/ccc")
    task = Rising(config)
    with pytest.raises(
        ParameterError, match=r"loop.best_by is 'measured/ccc'; expected one of .*: measured/cc, measured/kld"
    ):
        train(task, config, SGD, make_fabric(config))
    assert task.seen == 0


def test_a_full_disk_leaves_the_best_weights_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_rising(settings(tmp_path, best_by="measured/cc", steps=3))
    before = (tmp_path / "best/model.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        run_rising(settings(tmp_path, best_by="measured/cc", steps=6, resume=True, checkpoint_every_steps=100))
    assert "best" in str(raised.value.filename)
    assert os.listdir(tmp_path / "best") == ["model.safetensors"]
    assert (tmp_path / "best/model.safetensors").read_bytes() == before


@pytest.fixture
def _own_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.benchmark = before[1]


@pytest.mark.usefixtures("_own_precision")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("highest", True)),
        ({"matmul_precision": "high", "cudnn_benchmark": False}, ("high", False)),
        ({"matmul_precision": "medium"}, ("medium", True)),
    ],
)
def test_precision_of_products_and_choice_of_algorithms_are_set_before_the_first_step(
    tmp_path: Path, options: dict[str, Any], expected: tuple[str, bool]
) -> None:
    found = []

    class Looking(Regression):
        def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
            found.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark))
            return super().losses(model, batch)

    config = settings(tmp_path, steps=1, **options)
    train(Looking(config), config, SGD, make_fabric(config))
    assert found == [expected]


def test_bf16_and_channels_last_train(tmp_path: Path) -> None:
    task = run(settings(tmp_path, precision="bf16", steps=2))
    assert task.model[0].weight.dtype == torch.float32
    assert task.model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_compiled_model_trains_and_its_checkpoint_fits_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def compile_fast(model: nn.Module, **_options: Any) -> nn.Module:
        compiled.append(model)
        return compile_model(model, backend="eager")  # saves the minute that a C++ compiler takes

    compile_model = torch.compile
    monkeypatch.setattr(torch, "compile", compile_fast)
    task = run(settings(tmp_path, compile=True, steps=2))
    assert task.model in compiled
    checkpoint.load_weights(tmp_path, Regression(settings(tmp_path)).model, kind="saliency")


def test_a_run_that_is_complete_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(settings(tmp_path, steps=2))
    run(settings(tmp_path, steps=2, resume=True))
    assert "step-00000002 has all 2 steps" in capsys.readouterr().out


def test_every_process_gets_its_share_of_the_same_batch_in_order() -> None:
    common: dict[str, Any] = {"batch_size": 4, "seed": 1, "start": 0, "stop": 5}
    whole = list(StepSampler(9, **common))
    parts = [list(StepSampler(9, rank=rank, world=2, **common)) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
    epochs = [[index for batch in whole for epoch, index in batch if epoch == each] for each in range(2)]
    assert all(len(set(indices)) == len(indices) == 8 for indices in epochs)


def test_a_resumed_sampler_continues_where_it_stopped() -> None:
    common: dict[str, Any] = {"batch_size": 2, "seed": 1, "stop": 9, "parts": 2}
    whole = list(StepSampler(7, start=0, **common))
    assert list(StepSampler(7, start=4, **common)) == whole[8:]


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (3, {"batch_size": 4}, "at most the 3 samples"),
        (9, {"batch_size": 4, "world": 3}, "a multiple of 3 processes x 1 parts"),
    ],
)
def test_a_batch_that_cannot_be_cut_is_named(count: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        StepSampler(count, seed=0, start=0, stop=1, **options)


def test_momentum_is_passed_to_sgd() -> None:
    optimiser = make_optimiser(nn.Linear(2, 2), OptimiserConfig(name="sgd", momentum=0.9))
    assert all(group["momentum"] == 0.9 for group in optimiser.param_groups)


def test_vectors_can_be_kept_from_decaying_and_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    optimiser = make_optimiser(model, OptimiserConfig(name="adamw", weight_decay=0.1, decay_vectors=False))
    found = {group["weight_decay"]: group["params"] for group in optimiser.param_groups}
    assert [tuple(each.shape) for each in found[0.1]] == [(2, 2)]
    assert [tuple(each.shape) for each in found[0.0]] == [(2,)]


def test_the_papers_schedule_goes_down_after_its_epoch() -> None:
    config = OptimiserConfig(name="sgd", learning_rate=0.01, schedule="step", step_epochs=(120,))
    rates = [learning_rate(config, step, 2500, 10) for step in (0, 1199, 1200, 2499)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_a_step_schedule_without_epochs_or_epochs_without_it_are_refused() -> None:
    for settings in ({"schedule": "step"}, {"schedule": "cosine", "step_epochs": (120,)}):
        with pytest.raises(ParameterError, match=r"^step_epochs is"):
            OptimiserConfig(**settings)  # type: ignore[arg-type]


def test_cosine_warms_up_and_ends_near_zero() -> None:
    config = OptimiserConfig(learning_rate=1.0, schedule="cosine", warmup_steps=4)
    rates = [learning_rate(config, step, 104, 10) for step in (0, 3, 4, 54, 103)]
    assert rates == pytest.approx([0.25, 1.0, 1.0, 0.5, (1 + math.cos(math.pi * 0.99)) / 2])


class Diverging(Regression):
    """The loss of one step has a gradient that is not finite, although it is finite itself."""

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        losses = super().losses(model, batch)
        weight = self.model[0].weight
        return {"loss": losses["loss"] + (weight - weight).square().sum().sqrt()} if self.seen == 5 else losses


@pytest.mark.parametrize(
    ("steps", "every", "kept"), [(5, 3, "resume from .*step-00000003, which is intact"), (8, 5, "start again")]
)
def test_weights_that_are_not_finite_are_neither_measured_nor_kept(
    tmp_path: Path, steps: int, every: int, kept: str
) -> None:
    config = settings(tmp_path, steps=steps, checkpoint_every_steps=every)
    fabric, task = make_fabric(config), Diverging(config)
    with pytest.raises(TrainingError, match=rf"weights 0\.weight are not finite after step 5; .*{kept}"):
        train(task, config, SGD, fabric)
    assert task.evaluated == [0, 3]
    assert not (tmp_path / "step-00000005").exists()


def test_a_resumed_run_takes_the_options_of_the_optimiser_that_are_set_now(tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []

    class Watched(Regression):
        def after_step(self) -> None:
            super().after_step()
            seen.append((watched[0].param_groups[0]["weight_decay"], watched[0].param_groups[0]["momentum"]))

    watched: list[torch.optim.Optimizer] = []
    make = loop.make_optimiser

    def kept(*arguments: Any) -> torch.optim.Optimizer:
        watched.append(make(*arguments))
        return watched[0]

    run(settings(tmp_path, steps=1))
    config = settings(tmp_path, steps=2, resume=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_optimiser", kept)
        options = dataclasses.replace(SGD, weight_decay=0.25, momentum=0.5)
        train(Watched(config), config, options, make_fabric(config), starting_point(config))
    assert seen == [(0.25, 0.5)]


def test_what_a_killed_process_left_is_put_right_even_if_nothing_is_to_do(tmp_path: Path) -> None:
    run(settings(tmp_path, steps=8))  # checkpoints of steps 6 and 8
    (tmp_path / "last").unlink()
    (tmp_path / "last").symlink_to("step-00000006")  # killed between the rename and the link
    (tmp_path / ".removing-step-00000003").mkdir()
    run(settings(tmp_path, steps=8, resume=True))
    assert (tmp_path / "last").resolve().name == "step-00000008"
    assert not list(tmp_path.glob(".*"))


def test_a_copy_of_a_run_without_links_is_resumed(tmp_path: Path) -> None:
    run(settings(tmp_path / "run", steps=1))
    shutil.copytree(tmp_path / "run", tmp_path / "copy", symlinks=False)
    run(settings(tmp_path / "copy", steps=2, resume=True))
    assert (tmp_path / "copy/last").is_symlink()
    assert checkpoint.read_header(tmp_path / "copy/last").step == 2


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the GPU has not enough memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't"), "there is not enough memory"),
    ],
)
def test_too_little_memory_is_one_line_with_the_options_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, found: str
) -> None:
    def full(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(Regression, "losses", full)
    with pytest.raises(TrainingError, match=rf"^{found} for a step; lower --loop\.batch_size, or raise --loop\.accum"):
        run(settings(tmp_path))


def test_gpus_that_are_not_there_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ParameterError, match=r"^loop\.accelerator is 'cuda'; expected cpu, or a GPU .*finds 0, and 1"):
        make_fabric(settings(tmp_path, accelerator="cuda"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ParameterError, match=r"^loop\.accelerator is 'auto'; .*finds 1, and 2 are needed"):
        make_fabric(settings(tmp_path, accelerator="auto"))


def test_a_folder_of_a_run_that_tensorboard_cannot_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"^run is .*expected a name in UTF-8, for TensorBoard"):
        settings(tmp_path / os.fsdecode(b"caf\xe9"))


def test_a_summary_of_a_run_without_files_of_curves_is_empty(tmp_path: Path) -> None:
    assert write_summary(tmp_path, title="a $x_$ b $^{$").is_file()


def test_a_full_disk_under_the_curves_prints_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write() -> None:
        with Curves(tmp_path, 0, enabled=True) as curves:
            monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
            for step in range(3):
                curves.write(step, {"score": 1.0})

    with pytest.raises(OSError, match="No space"):
        write()
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook is threading.__excepthook__


@pytest.mark.parametrize("instructions", ["amx_bf16", "avx512_bf16", "bf16"])
def test_automatic_precision_is_bf16_on_a_cpu_with_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, instructions: str
) -> None:
    names = dict.fromkeys(("avx2", "amx_bf16", "avx512_bf16"), False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: names | {instructions: True})
    assert settled_precision("auto", "cpu") == "bf16"
    assert settled_precision("fp32", "cpu") == "fp32"


def test_automatic_precision_is_fp32_on_a_cpu_that_would_convert_every_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_f": True, "avx512_bf16": False})
    assert settled_precision("auto", "cpu") == "fp32"
    assert settled_precision("bf16", "cpu") == "bf16"
    config = settings(tmp_path, precision="auto", steps=2)
    assert make_fabric(config).strategy.precision.precision == "32-true"


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_automatic_precision_on_a_gpu_is_bf16_only_where_it_is_not_emulated(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": not native})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert settled_precision("auto", "auto") == settled_precision("auto", "cuda") == expected
    assert settled_precision("auto", "cpu") == ("fp32" if native else "bf16")


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"accumulate": 4}])
def test_a_run_is_only_resumed_with_the_same_batch_statistics(tmp_path: Path, changes: dict[str, Any]) -> None:
    run(settings(tmp_path, steps=1))
    with pytest.raises(CheckpointError, match=r"samples in batch statistics \(loop\.accumulate, .*\) 4; expected [12]"):
        run(settings(tmp_path, resume=True, **changes))


def test_statistics_that_several_processes_do_not_share_are_other_ones(tmp_path: Path) -> None:
    config = settings(tmp_path)
    task = Regression(config)
    alone = loop.settings_to_match(task, config, SGD, 1)
    assert loop.settings_to_match(task, config, SGD, 2) == alone
    apart = dataclasses.replace(config, sync_batchnorm=False)
    assert loop.settings_to_match(task, apart, SGD, 1) == alone
    assert loop.settings_to_match(task, apart, SGD, 2) != alone
    task.model.eval()  # as frozen parts are
    assert loop.settings_to_match(task, apart, SGD, 2) == loop.settings_to_match(task, config, SGD, 1)


def test_a_group_of_settings_of_an_older_run_is_compared_field_by_field() -> None:
    before = {"data.placement": {"roll_deg": 8.0}, "data.sets": {"osie": 1.0}}
    assert loop._earlier(before, "data.placement.roll_deg", 3.0) == 8.0
    assert loop._earlier(before, "data.placement.crop", 0.5) == 0.5  # a setting that came later
    assert loop._earlier(before, "data.sets", {"ham": 1.0}) == {"osie": 1.0}


class Started(Regression):
    """Its encoder only says from what a new run starts."""

    of_start = ("encoder",)


def test_a_setting_of_the_start_may_change_on_resuming(tmp_path: Path) -> None:
    run(settings(tmp_path, steps=1))
    config = settings(tmp_path, steps=2, resume=True)
    fabric, task = make_fabric(config), Started(config)
    task.config = Tiny("moved")
    train(task, config, SGD, fabric, starting_point(config))
    assert checkpoint.read_header(tmp_path).config["encoder"] == "moved"


def test_a_best_figure_that_is_not_measured_is_refused_before_a_run_continues(tmp_path: Path) -> None:
    run_rising(settings(tmp_path, steps=2))
    config = settings(tmp_path, steps=8, resume=True, best_by="measured/ccc")
    fabric, task = make_fabric(config), Rising(config)
    with pytest.raises(ParameterError, match=r"loop.best_by is 'measured/ccc'; expected .*: measured/cc, measured/kld"):
        train(task, config, SGD, fabric, starting_point(config))
    assert task.seen == 0
    run_rising(settings(tmp_path, steps=4, resume=True, best_by="measured/cc"))
    assert best_of(tmp_path)[0] in (3, 4)


class BesideTwiceTheLoss(TwoProcesses):
    """A process beside one with twice the loss."""

    device = torch.device("cpu")


def test_curves_are_means_over_all_processes(tmp_path: Path) -> None:
    with Curves(tmp_path, 0, enabled=False) as curves:
        for _ in range(2):
            with curves.step(images=1):
                curves.add({"loss": torch.tensor(1.0)}, 0.5)
                curves.add({"loss": torch.tensor(3.0)}, 0.5)
        curves.write_means(2, 0.1, BesideTwiceTheLoss())  # type: ignore[arg-type]
    assert curves.last["loss"] == pytest.approx(3)


def test_an_error_of_all_processes_is_reported_by_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> None:
        raise ParameterError("batch_size is 5", "set 4 or 6")

    def ended(seconds: float) -> None:
        assert seconds > 1
        raise SystemExit(143)  # by torchrun

    monkeypatch.setattr(processes.time, "sleep", ended)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a test")
    monkeypatch.setenv("RANK", "0")
    assert one_line_errors(processes.errors_once(refused)) == 2
    assert capsys.readouterr().err == "error: batch_size is 5; set 4 or 6\n"
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        one_line_errors(processes.errors_once(refused))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(processes.time, "sleep", lambda _: None)  # the first one did not fail
    assert one_line_errors(processes.errors_once(refused)) == 2
    assert "batch_size is 5" in capsys.readouterr().err


def test_all_processes_but_the_first_keep_their_warnings_to_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    make_fabric(settings(tmp_path))
    warnings.warn("of a library", stacklevel=1)  # an error in these tests


def test_the_first_process_keeps_its_warnings(tmp_path: Path) -> None:
    make_fabric(settings(tmp_path))
    with pytest.warns(UserWarning, match="of a library"):
        warnings.warn("of a library", stacklevel=1)

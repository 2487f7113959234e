"""The training loop that pretraining and decoder training share, on Lightning Fabric.

A `Task` provides a model, batches and a loss; `train` provides devices, precision, optimiser, curves, checkpoints and
resuming. In order: settings, `Task`, `make_fabric`, `train`, then the functions for resuming. It runs as one process,
or as several with torchrun:

    torchrun --nproc-per-node 8 -m training.pretrain --config training/recipes/pretrain.yaml --data.root PANORAMAS
"""

from __future__ import annotations

import math
import random
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from sal360.errors import CheckpointError, TrainingError
from training.checkpoint import (
    BEST,
    BestFigure,
    CheckpointHeader,
    Origin,
    best_figure,
    git_revision,
    load_state,
    load_weights,
    newest_checkpoint,
    plain_settings,
    save_best,
    save_checkpoint,
    settle,
)
from training.config import (
    SettingError,
    config_from_dict,
    is_first_process,
    is_started_by_torchrun,
    option_names,
    process_count,
    require,
    require_at_least,
    require_between,
    require_path,
    require_seed,
    require_together,
)
from training.curves import Curves, read_curves
from training.data.loader import require_whole_parts
from training.ema import MovingAverage
from training.loggers import LoggerName, Tracker, open_tracker, require_logger
from training.optimiser import OptimiserConfig, learning_rate, make_optimiser
from training.processes import StopRequest, end_with_parent
from training.sync_batchnorm import synchronise

AcceleratorName = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class LoopConfig:
    """Length, batches, devices and output of a training run."""

    run: str
    """Folder of the run, for checkpoints, TensorBoard curves, pictures and the settings."""
    steps: int = 0
    """Number of optimiser steps of the whole run; 0: set by `epochs`."""
    epochs: int = 0
    """Number of passes over the data of the whole run; 0: set by `steps`."""
    batch_size: int = 20
    """Samples per optimiser step over all processes; divisible by processes x accumulate."""
    accumulate: int = 1
    """Number of parts into which each process splits its share of a batch, to save memory."""
    workers: int = 1
    """Number of data-loading processes per training process; 0 loads in the training process."""
    seed: int = 0
    """Seed of everything random: initial weights, order of the data, views, negatives."""
    accelerator: AcceleratorName = "auto"
    """Device; auto uses GPUs if there are any."""
    precision: PrecisionName = "fp32"
    """Precision of the network; weights, loss and optimiser stay in float32. auto: bf16 where the device computes it
    faster, else fp32."""
    channels_last: bool = True
    """Store pictures and weights in the channels-last memory format, which speeds up convolutions."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Precision of float32 matrix products: highest, float32; high, TensorFloat32 or as precise on GPUs that have it;
    medium, bfloat16 (torch.set_float32_matmul_precision)."""
    cudnn_benchmark: bool = True
    """On a GPU, try the algorithms of each convolution once and keep the fastest; false: always the same ones."""
    compile: bool = False
    """Compile the network with torch.compile: a slow first step, faster ones after it."""
    sync_batchnorm: bool = True
    """Compute batch statistics over all processes; no effect with one process."""
    logger: LoggerName = "tensorboard"
    """Where else the curves go, beside the TensorBoard files of the run, which are always written: csv, a table in the
    run's folder; mlflow or wandb, the service, which needs the extra `tracking`."""
    log_every_steps: int = 10
    """Number of steps between points of the curves."""
    checkpoint_every_steps: int = 500
    """Number of steps between checkpoints; the last step always gets one."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep; older ones are removed."""
    evaluate_every_epochs: int = 1
    """Number of epochs between evaluations; the last step always gets one."""
    ema: float = 0.0
    """Decay of the moving average of the weights, 0 to 1, which checkpoints and evaluations then hold; 0: none."""
    best_by: str = ""
    """Name of the curve of an evaluation, such as measured/cc, by which the best weights so far are kept in `run`/best;
    empty: only the newest are kept."""
    best_is: Literal["max", "min"] = "max"
    """Whether the largest or the smallest value of `best_by` is the best."""
    resume: bool | Literal["auto"] = False
    """true: continue from the newest checkpoint of `run`, and fail if there is none; false: start a new run, and fail
    if there is one; auto: continue if there is one, else start, for jobs that a scheduler restarts."""

    def __post_init__(self) -> None:
        require_path("run", self.run, "the name of a folder")
        is_text = not any("\ud800" <= letter <= "\udfff" for letter in self.run)  # how Python holds other bytes
        require("run", self.run, is_text, "a name in UTF-8, for TensorBoard")
        require_seed("seed", self.seed)
        for name in ("steps", "epochs", "workers"):
            require_at_least(name, getattr(self, name), 0)
        for name in (
            "batch_size",
            "accumulate",
            "log_every_steps",
            "checkpoint_every_steps",
            "keep_checkpoints",
            "evaluate_every_epochs",
        ):
            require_at_least(name, getattr(self, name), 1)
        require_between("ema", self.ema, 0, 0.99999)
        one = (self.steps > 0) != (self.epochs > 0)
        require_together(self, ("steps", "epochs"), one, "exactly one of the two above 0")


class Task(ABC):
    """The parts that a training command provides to the loop."""

    kind: ClassVar[str]
    """Kind of its checkpoints: contrastive or saliency."""
    model: nn.Module
    """The network whose weights the checkpoints hold. Frozen parts must stay frozen when its train() is called."""
    config: Any
    """Settings of the model for the checkpoints' header: a dataclass whose fields have defaults."""
    steps_per_epoch: int
    """Number of optimiser steps per pass over the data."""
    origin: tuple[Origin, ...] = ()
    """From what the weights are learnt, with what is known of the licences; checkpoints and model files repeat it."""
    mean_sizes: Tensor | None = None
    """The mean of `sizes` over all parts of the step's batch, in all processes; the loop sets it before `losses`."""
    of_start: ClassVar[tuple[str, ...]] = ()
    """Settings of the model that concern only the weights of a new run, so that they may change on resuming."""
    comparable: Mapping[str, float] | None = None
    """The last figures as the evaluations before measured theirs, if the last one measures more; else None."""

    @property
    def trained(self) -> nn.Module:
        """The trained module: the model, and possibly parts around it that its checkpoints leave out.

        Such parts belong into `state_dict`.
        """
        return self.model

    @abstractmethod
    def batches(self, start: int, stop: int) -> Iterable[Any]:
        """Batches of this process for the steps start … stop − 1, `accumulate` for each step."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Scalars of a batch: "loss" is minimised, the others become curves.

        Args:
            model: `self.trained`, wrapped for the devices; call this one.
            batch: one of `batches`, on the device.
        """

    def sizes(self, batch: Any) -> Tensor | None:  # noqa: ARG002  # overridden
        """Over how many things each mean in `losses` goes in this batch, (k,); None if it is the same in every batch.

        Parts of a batch differ where samples have different numbers of things to learn. A mean of the parts' means
        would then count the same thing more in one part than in another. `losses` divides its sums by `mean_sizes`
        instead, so that the mean over the parts is the mean over the batch, however it is split.
        """
        return None

    def settings_to_match(self) -> Mapping[str, Any]:
        """Settings, in addition to the model's, that must be the same when a run is resumed."""
        return {}

    def begin(self) -> None:
        """Called by the first process before the first step, even of a resumed run, after all checks.

        Write the run's own files here, so that a refused command writes nothing.
        """
        return

    def after_step(self) -> None:
        """Called after each optimiser step in every process."""
        return

    def evaluate(self, done: int) -> Mapping[str, float]:  # noqa: ARG002  # overridden
        """Figures of the model after `done` steps, in evaluation mode, without gradients.

        All processes call it; share the work with `processes.in_shares`. The first one's figures are written.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs in addition to the model: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Restore what `state_dict` returned."""
        return


def _require_gpus(accelerator: str, count: int) -> None:
    """Refuse a device that this machine does not have for each of its `count` processes."""
    found = torch.cuda.device_count()
    if accelerator == "cpu" or found >= count or (accelerator == "auto" and not found):
        return
    expected = f"cpu, or a GPU for each process (PyTorch finds {found}, and {count} are needed on this machine)"
    raise SettingError({"loop.accelerator": accelerator}, expected, options=True)


def settled_precision(precision: PrecisionName, accelerator: AcceleratorName) -> Literal["fp32", "bf16"]:
    """The precision that is meant by `LoopConfig.precision` on this machine.

    auto is bf16 on GPUs from compute capability 8.0 on, and on CPUs with instructions for it (AMX, AVX-512 BF16, Arm's
    BF16). Others convert every number, and are several times slower than with float32.
    """
    if precision != "auto":
        return precision
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has = torch.cpu.get_capabilities()
    return "bf16" if any(has.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")) else "fp32"


def make_fabric(config: LoopConfig) -> Fabric:
    """Devices and precision of this process, alone or as one of those that torchrun started.

    Raises:
        ParameterError: the machine has too few GPUs, the batch cannot be split evenly over the processes, or a variable
            of torchrun is no number of processes.
        ImportError: what the logger needs is not installed.
    """
    world, local = process_count("WORLD_SIZE"), process_count("LOCAL_WORLD_SIZE")
    with option_names("loop"):
        require_whole_parts(config.batch_size, config.accumulate, world)
    _require_gpus(config.accelerator, local)
    require_logger(config.logger)
    if is_started_by_torchrun():
        end_with_parent()
    if not is_first_process():
        warnings.simplefilter("ignore")  # the first one has the same warnings
    warnings.filterwarnings("ignore", r"torch\.distributed\.nn\.functional\.all_gather is deprecated")  # for Fabric
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if settled_precision(config.precision, config.accelerator) == "bf16" else "32-true",
    )
    fabric.launch()
    # all processes draw the same numbers, so the saved state of the first one serves all of them on resuming
    torch.manual_seed(config.seed)
    return fabric


def train(
    task: Task, config: LoopConfig, optimiser_config: OptimiserConfig, fabric: Fabric, checkpoint: Path | None = None
) -> dict[str, float]:
    """Train to the end of the run and return the newest point of each curve.

    Args:
        task: what to train.
        config: the run.
        optimiser_config: optimiser and schedule.
        fabric: from `make_fabric`.
        checkpoint: the checkpoint to continue from, returned by `starting_point`; None starts a new run.

    Raises:
        CheckpointError: the checkpoint is damaged, or belongs to another model or data set.
        TrainingError: the loss or a weight is not finite, or the memory is too small; earlier checkpoints stay intact.
        OSError: a checkpoint cannot be written.
    """
    with _memory_errors():
        return _train(task, config, optimiser_config, fabric, checkpoint)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """One line for the several errors of PyTorch where the memory of a GPU or of the machine is too small."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in text:
            raise
        found = "the GPU has" if isinstance(error, torch.OutOfMemoryError) else "there is"
        raise TrainingError(
            f"{found} not enough memory for a step",
            "lower --loop.batch_size, or raise --loop.accumulate, which splits a batch into parts",
        ) from None


def _train(
    task: Task, config: LoopConfig, optimiser_config: OptimiserConfig, fabric: Fabric, checkpoint: Path | None
) -> dict[str, float]:
    steps = config.steps or config.epochs * task.steps_per_epoch
    first_process = fabric.global_rank == 0
    model, optimiser = _set_up(task, config, optimiser_config, fabric)
    to_match = settings_to_match(task, config, optimiser_config, fabric.world_size)
    average = MovingAverage(task.model, config.ema)
    best = BestWeights(config, is_new=checkpoint is None)
    start = restore_run(checkpoint, task, optimiser, to_match, steps, average) if checkpoint else 0
    check = LossCheck(fabric)

    with StopRequest(fabric) as stop:
        batches = iter(task.batches(start, steps))  # refuses settings before anything is written
        tracker = None
        if first_process:
            _begin(task, config, checkpoint, start, steps)
            tracker = _open_tracker(task, config, optimiser_config, is_new=checkpoint is None)
        with Curves(config.run, start, enabled=first_process, tracker=tracker) as curves:
            if start == 0:
                _measure(task, fabric, 0, average, curves, best)
            bar = tqdm(
                range(start, steps), initial=start, total=steps, unit="step", disable=None if first_process else True
            )
            for step in bar:
                rate = _set_rate(optimiser, learning_rate(optimiser_config, step, steps, task.steps_per_epoch))
                with curves.step(images=config.batch_size):
                    _add_gradients(task, model, batches, step, config, fabric, curves, check)
                    optimiser.step()
                    optimiser.zero_grad()
                    task.after_step()
                    average.update(step)

                done = step + 1
                ended_by = stop.after_step() if done < steps else 0
                due = _due(config, task, done, steps, stopped=bool(ended_by))
                if any(due):
                    check.require_finite(config)
                if due.point:
                    curves.write_means(done, rate, fabric)
                    bar.set_postfix(loss=f"{curves.last['loss']:.4g}", refresh=False)
                if due.evaluation or due.checkpoint:
                    _check_weights(task.trained, done, config)
                if due.evaluation:
                    _measure(task, fabric, done, average, curves, best)
                if due.checkpoint and first_process:
                    save_run(task, optimiser, config, to_match, done, average)
                if ended_by:
                    fabric.barrier()
                    raise _stopped(ended_by, done, config, first_process)
            fabric.barrier()
            return curves.last


def _open_tracker(task: Task, config: LoopConfig, optimiser_config: OptimiserConfig, *, is_new: bool) -> Tracker | None:
    shown = {"loop": config, "optimiser": optimiser_config, "model": task.config}
    settings = {name: plain_settings(each) for name, each in shown.items()}
    return open_tracker(config.logger, config.run, settings, is_new=is_new)


class _Due(NamedTuple):
    """What is due after a step."""

    point: bool
    evaluation: bool
    checkpoint: bool


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate_factor"]
    return rate


def _measure(task: Task, fabric: Fabric, done: int, average: MovingAverage, curves: Curves, best: BestWeights) -> None:
    values = _evaluate(task, fabric, done, average)
    curves.write(done, values)
    if fabric.global_rank == 0:
        best.offer(task, done, task.comparable or values, average)


class BestWeights:
    """Keeps the weights with the best figure of all evaluations of a run, across its restarts.

    Args:
        config: the run.
        is_new: whether it starts, so that what is left of an earlier one in its folder does not count.

    Raises:
        CheckpointError: the run kept the best by another figure so far.
        SettingError: the run has not measured the figure so far.
    """

    def __init__(self, config: LoopConfig, *, is_new: bool) -> None:
        self._run, self._name, self._is_best = config.run, config.best_by, config.best_is
        self._figure = best_figure(config.run) if self._name and not is_new else None
        if self._figure and self._figure[:2] != (self._name, self._is_best):
            raise CheckpointError(
                f"{Path(self._run) / BEST} holds the weights with the {self._figure.is_best} of {self._figure.name}",
                f"set --loop.best_by {self._figure.name} and --loop.best_is {self._figure.is_best}, or rename it",
            )
        if self._name and not is_new:  # else the next evaluation would notice it, and the steps before it be lost
            measured = [name for name, (steps, _) in read_curves(config.run).items() if steps[0] == 0]
            self._require_measured(measured or [self._name])  # files of curves may have been removed

    def _require_measured(self, names: Collection[str]) -> None:
        if self._name not in names:
            expected = f"one of the figures that are measured: {', '.join(names) or 'none'}"
            raise SettingError({"loop.best_by": self._name}, expected, options=True)

    def offer(self, task: Task, done: int, values: Mapping[str, float], average: MovingAverage) -> None:
        """Keep the averaged weights after `done` steps if `values`, measured with them, are the best so far.

        Raises:
            SettingError: the figure is not measured.
            OSError: the weights cannot be written.
        """
        if not self._name:
            return
        self._require_measured(values)
        figure = BestFigure(self._name, self._is_best, float(values[self._name]))
        if math.isnan(figure.value) or (self._figure and not figure.is_better_than(self._figure)):
            return
        header = CheckpointHeader(task.kind, plain_settings(task.config), done, git_revision(), tuple(task.origin))
        with average.in_place():
            save_best(self._run, task.model, header, figure)
        self._figure = figure


def _due(config: LoopConfig, task: Task, done: int, steps: int, *, stopped: bool) -> _Due:
    last = done == steps
    return _Due(
        last or done % config.log_every_steps == 0,
        last or (not stopped and done % (config.evaluate_every_epochs * task.steps_per_epoch) == 0),
        last or stopped or done % config.checkpoint_every_steps == 0,
    )


def _stopped(number: int, done: int, config: LoopConfig, first_process: bool) -> SystemExit:
    """The end of a run that was asked to stop, with the status that a shell expects after a signal."""
    if first_process:
        print(f"stopped after step {done}; continue with --loop.run {config.run} --loop.resume true", file=sys.stderr)
    return SystemExit(128 + number)


def _begin(task: Task, config: LoopConfig, checkpoint: Path | None, start: int, steps: int) -> None:
    if checkpoint:
        settle(config.run)
    if start >= steps:
        print(f"{checkpoint} has all {steps} steps: nothing to do")
    else:
        task.begin()


def _add_gradients(
    task: Task,
    model: _FabricModule,
    batches: Iterator[Any],
    step: int,
    config: LoopConfig,
    fabric: Fabric,
    curves: Curves,
    check: LossCheck,
) -> None:
    """The gradients of a step's batch, part by part."""
    with curves.waiting():
        parts = [fabric.to_device(next(batches)) for _ in range(config.accumulate)]
    task.mean_sizes = _mean_sizes([task.sizes(batch) for batch in parts], fabric)
    for part, batch in enumerate(parts):
        with fabric.no_backward_sync(model, enabled=part < config.accumulate - 1):
            losses = task.losses(model, batch)
            fabric.backward(losses["loss"] / config.accumulate)
        check.add(losses["loss"], step)
        curves.add(losses, 1 / config.accumulate)


def _mean_sizes(sizes: Sequence[Tensor | None], fabric: Fabric) -> Tensor | None:
    """The mean of the parts' sizes over all processes, (k,) float32; None if parts do not differ."""
    known = [each.float() for each in sizes if each is not None]
    if not known:
        return None
    mean = torch.stack(known).mean(dim=0)
    return cast(Tensor, fabric.all_reduce(mean)) if fabric.world_size > 1 else mean


class LossCheck:
    """Notices a loss that is not finite, without waiting for the device in every step."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._first = torch.tensor([math.inf, 0.0], dtype=torch.float64, device=fabric.device)  # its step, and the loss

    def add(self, loss: Tensor, step: int) -> None:
        """Take in the loss of a part of a step."""
        value = loss.detach().double()
        found = torch.stack([torch.full_like(value, step), value])
        bad = ~torch.isfinite(value) & torch.isinf(self._first[0])
        self._first = torch.where(bad, found, self._first)

    def require_finite(self, config: LoopConfig) -> None:
        """Refuse to go on after a loss that was not finite in any process; all of them stop together.

        Raises:
            TrainingError: naming the first step that had one.
        """
        of_all = cast(Tensor, self._fabric.all_gather(self._first)).view(-1, 2).cpu()
        step, value = min(of_all.tolist())
        if math.isfinite(step):
            raise _diverged(f"the loss is {value} in step {step + 1:.0f}", config)


def _set_up(
    task: Task, config: LoopConfig, optimiser_config: OptimiserConfig, fabric: Fabric
) -> tuple[_FabricModule, torch.optim.Optimizer]:
    """The model, wrapped for the devices, and its optimiser."""
    if config.sync_batchnorm and fabric.world_size > 1:
        task.model = synchronise(task.model, fabric.device)
    torch.backends.cudnn.benchmark = config.cudnn_benchmark  # all batches have one size, so it is done once
    torch.set_float32_matmul_precision(config.matmul_precision)
    if config.channels_last:
        task.model = task.model.to(memory_format=torch.channels_last)
    trained = task.trained
    trained.train()
    compiled = cast(nn.Module, torch.compile(trained)) if config.compile else trained
    model, optimiser = fabric.setup(compiled, make_optimiser(trained, optimiser_config))
    return model, optimiser


def _check_weights(trained: nn.Module, done: int, config: LoopConfig) -> None:
    """Refuse to measure or keep weights that are not finite: a finite loss can have a gradient that is not."""
    for name, weights in trained.named_parameters():
        if not torch.isfinite(weights).all():
            raise _diverged(f"the weights {name} are not finite after step {done}", config)


def _diverged(found: str, config: LoopConfig) -> TrainingError:
    newest = newest_checkpoint(config.run)
    again = f"resume from {newest}, which is intact" if newest else "start again: there is no checkpoint yet"
    return TrainingError(found, f"lower --optimiser.learning_rate, and {again}")


def _evaluate(task: Task, fabric: Fabric, done: int, average: MovingAverage) -> dict[str, float]:
    task.model.eval()
    with torch.no_grad(), fabric.autocast(), average.in_place():
        values = dict(task.evaluate(done))
    task.model.train()
    return values


def capture_random_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators as plain values and tensors."""
    _, keys, *rest = np.random.get_state()  # noqa: NPY002  # libraries may draw from the global generator
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the generators to what `capture_random_state` returned."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def starting_point(config: LoopConfig) -> Path | None:
    """The checkpoint from which a run continues, or None for a new run; call it before anything is written.

    Raises:
        CheckpointError: `resume` is true without a checkpoint, or false with one, or the run's folder is a file.
    """
    if Path(config.run).exists() and not Path(config.run).is_dir():
        raise CheckpointError(f"{config.run} is not a folder", "set --loop.run to a folder")
    newest = newest_checkpoint(config.run)
    if newest and config.resume is False:
        raise CheckpointError(f"{newest} exists", "set --loop.resume true to continue this run, or another --loop.run")
    if not newest and config.resume is True:
        raise CheckpointError(
            f"there is no checkpoint in {config.run}", "correct --loop.run, or set --loop.resume auto or false"
        )
    return newest


def settings_to_match(
    task: Task, config: LoopConfig, optimiser_config: OptimiserConfig, processes: int
) -> dict[str, Any]:
    """Settings that must be the same when a run is resumed: model, samples, task and kind of optimiser."""
    model = {name: value for name, value in plain_settings(task.config).items() if name not in task.of_start}
    sampling: dict[str, Any] = {
        "seed": config.seed,
        "batch_size": config.batch_size,
        "steps_per_epoch": task.steps_per_epoch,
        "ema": config.ema,
    }
    if any(isinstance(part, _BatchNorm) and part.training for part in task.trained.modules()):
        apart = 1 if config.sync_batchnorm else processes
        sampling[_OF_STATISTICS] = config.batch_size // (config.accumulate * apart)
    return {**model, **sampling, **task.settings_to_match(), "optimiser": optimiser_config.name}


_OF_STATISTICS = "samples in batch statistics (loop.accumulate, loop.sync_batchnorm)"


def save_run(
    task: Task,
    optimiser: torch.optim.Optimizer,
    config: LoopConfig,
    to_match: Mapping[str, Any],
    done: int,
    average: MovingAverage,
) -> None:
    """Write a checkpoint from which the run can continue after `done` steps.

    Its weights are the averaged ones, if there are any; those of the last step are then part of the run's state.
    """
    state = {
        "optimiser": optimiser.state_dict(),
        "task": task.state_dict(),
        "randomness": capture_random_state(),
        "same": dict(to_match),
    }
    if config.ema:
        state["weights"] = {name: value.detach().clone() for name, value in task.model.state_dict().items()}
    with average.in_place():
        save_checkpoint(
            config.run,
            done,
            task.model,
            task.kind,
            task.config,
            state,
            keep=config.keep_checkpoints,
            origin=task.origin,
        )


def _check_moments(optimiser: torch.optim.Optimizer) -> None:
    """Check what the optimiser remembers of each weight, which PyTorch does before the next step only."""
    for weights, moments in optimiser.state.items():
        for name, value in moments.items():
            is_tensor = isinstance(value, Tensor)
            fits = (
                value.ndim == 0 or value.shape == weights.shape if is_tensor else isinstance(value, int | float | None)
            )
            if not fits:
                raise ValueError(f"{name} does not fit the weights of shape {tuple(weights.shape)}")


@contextmanager
def _broken_state_is_named(checkpoint: Path) -> Iterator[None]:
    """Turn the errors of a state whose contents do not fit into one that names the checkpoint."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"the state of the run in {checkpoint} is broken ({reason})",
            f"start a new run, in another folder, from its weights, or remove {checkpoint} if there is an earlier one",
        ) from None


def _earlier(before: Mapping[str, Any], name: str, value: Any) -> Any:
    """A setting of the earlier start; `value`, that of now, if it did not exist then."""
    group, _, field = name.rpartition(".")
    if name in before or not isinstance(before.get(group), Mapping):
        return before.get(name, value)
    return before[group].get(field, value)  # older checkpoints have "data.placement" as a whole


def restore_run(
    checkpoint: Path,
    task: Task,
    optimiser: torch.optim.Optimizer,
    to_match: Mapping[str, Any],
    steps: int,
    average: MovingAverage,
) -> int:
    """Restore the state of a run whose settings agree with `to_match`, and return its step.

    If the run has already reached all its `steps`, only the model is restored.

    Raises:
        CheckpointError: the checkpoint is damaged, or belongs to a run with other settings.
    """
    with _broken_state_is_named(checkpoint):
        state = load_state(checkpoint)
        header = load_weights(checkpoint, task.model, kind=task.kind)
        if missing := {"optimiser", "task", "randomness", "same"} - state.keys():
            raise CheckpointError(
                f"{checkpoint} lacks the run's {', '.join(sorted(missing))}", "start a new run in another folder"
            )
        # settings that did not exist when that run was started get their defaults
        before = {**state["same"], **plain_settings(config_from_dict(type(task.config), header.config))}
        for name, value in to_match.items():
            earlier = _earlier(before, name, value)
            if earlier != value:
                raise CheckpointError(
                    f"{checkpoint} belongs to a run with {name} {earlier}",
                    "resume with the settings and data of that run, or start a new run with another --loop.run",
                    expected=f"{value}, as set now",
                )
        task.origin = header.origin or task.origin  # options that concern a start may be missing now
        if header.step >= steps:
            return header.step
        settings = [
            {name: value for name, value in group.items() if name != "params"} for group in optimiser.param_groups
        ]
        try:
            optimiser.load_state_dict(state["optimiser"])
        except ValueError:
            raise CheckpointError(
                f"{checkpoint} belongs to a run that trained other parts of the model",
                "resume with --frozen as that run had it, or start a new run with another --loop.run",
            ) from None
        _check_moments(optimiser)
        for group, set_now in zip(optimiser.param_groups, settings, strict=True):
            group.update(set_now)  # the state has those of the earlier start, which may differ
        task.load_state_dict(state["task"])
        average.restart()
        if "weights" in state:
            task.model.load_state_dict(state["weights"])
        restore_random_state(state["randomness"])
        return header.step

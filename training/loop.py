"""The training loop that pretraining and decoder training share, on Lightning Fabric.

A `Task` brings a model, batches and a loss; `train` brings the devices, precision, optimiser, curves, checkpoints and
resuming. Start it as one process, or as many with torchrun:

    torchrun --nproc-per-node 8 -m training.pretrain --config training/recipes/pretrain.yaml --data.root PANORAMAS
"""

from __future__ import annotations

import math
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn
from tqdm import tqdm

from sal360.errors import CheckpointError, TrainingError
from training.checkpoint import load_state, load_weights, newest_checkpoint, plain_settings, save_checkpoint
from training.config import config_from_dict, require_at_least, require_path, require_together
from training.curves import Curves
from training.optimiser import OptimiserConfig, learning_rate, make_optimiser
from training.sync_batchnorm import synchronise


@dataclass(frozen=True)
class LoopConfig:
    """How long, how fast and where a training run goes."""

    run: str
    """Folder of the run: checkpoints, TensorBoard curves, pictures, the settings as they were."""
    steps: int = 0
    """Optimiser steps of the whole run; 0: given by `epochs`."""
    epochs: int = 0
    """Passes over the data of the whole run; 0: given by `steps`."""
    batch_size: int = 20
    """Samples of one optimiser step, over all processes; divisible by processes x accumulate."""
    accumulate: int = 1
    """Parts into which each process splits its share of a batch, where memory is short."""
    workers: int = 1
    """Loader processes beside each training process; 0 loads in the training process itself."""
    seed: int = 0
    """Of everything random: initial weights, order of the data, views, negatives."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto takes GPUs where there are any."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network; weights, loss and optimiser stay float32."""
    channels_last: bool = True
    """Keep pictures and weights in the memory order that convolutions prefer."""
    compile: bool = False
    """Compile the network with torch.compile: slow first step, faster ones after it."""
    sync_batchnorm: bool = True
    """Batch statistics over all processes; without effect in a run of one process."""
    log_every_steps: int = 10
    """Steps between two points of the curves."""
    checkpoint_every_steps: int = 500
    """Steps between two checkpoints; there is always one at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay on the disk."""
    evaluate_every_epochs: int = 1
    """Epochs between two evaluations; there is always one at the end."""
    resume: bool | Literal["auto"] = False
    """true goes on from the newest checkpoint of `run` and stops without one; false stops when there is one; auto
    goes on where there is one and begins otherwise, for jobs that a scheduler starts again."""

    def __post_init__(self) -> None:
        require_path("run", self.run, "the name of a folder")
        for name in ("steps", "epochs", "workers", "seed"):
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
        one = (self.steps > 0) != (self.epochs > 0)
        require_together(self, ("steps", "epochs"), one, "exactly one of the two above 0")


class Task(ABC):
    """What a training command brings to the loop."""

    kind: ClassVar[str]
    """Kind of its checkpoints: contrastive or saliency."""
    model: nn.Module
    """The network; the checkpoints hold its weights. Parts that stay frozen must stay so when its train() is called."""
    config: Any
    """Settings of the model, a dataclass whose fields have defaults, for the checkpoints' header."""
    steps_per_epoch: int
    """Optimiser steps of one pass over the data."""

    @abstractmethod
    def batches(self, start: int, stop: int) -> Iterable[Any]:
        """This process' batches for the steps start … stop − 1, `accumulate` for each step."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Scalars of a batch: "loss" is minimised, the others are drawn as curves.

        Args:
            model: `self.model` as the devices run it: call this one.
            batch: one of `batches`, on the device.
        """

    def must_stay(self) -> Mapping[str, Any]:
        """Plain settings by name, beside the model's, in which a resumed run must agree: what is learnt."""
        return {}

    def begin(self) -> None:
        """Called before the first step of a run or of its going on, when all was checked, by the first process only.

        What a run leaves beside curves and checkpoints is written here: a command that is refused writes nothing.
        """
        return

    def after_step(self) -> None:
        """Called after each optimiser step, in every process."""
        return

    def evaluate(self, done: int) -> Mapping[str, float]:  # noqa: ARG002  # for those who override it
        """Measure the model (in evaluation mode, without gradients, first process only) after `done` steps."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the model: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Take back what `state_dict` gave."""
        return


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
    """The checkpoint from which a run goes on, or None to begin; call it before anything is written.

    Raises:
        CheckpointError: `resume` is true without a checkpoint, or false with one.
    """
    newest = newest_checkpoint(config.run)
    if newest and config.resume is False:
        raise CheckpointError(
            f"{newest} exists", "set --loop.resume true to go on, or another --loop.run", expected="a new run folder"
        )
    if not newest and config.resume is True:
        raise CheckpointError(f"there is no checkpoint in {config.run}", "check --loop.run", expected="one to resume")
    return newest


def must_stay(task: Task, config: LoopConfig, optimiser_config: OptimiserConfig) -> dict[str, Any]:
    """What a resumed run must agree in: the model, what a step sees and is told, and the kind of its optimiser."""
    sampling = {"seed": config.seed, "batch_size": config.batch_size, "steps_per_epoch": task.steps_per_epoch}
    return {**plain_settings(task.config), **sampling, **task.must_stay(), "optimiser": optimiser_config.name}


def save_run(
    task: Task, optimiser: torch.optim.Optimizer, config: LoopConfig, same: Mapping[str, Any], done: int
) -> None:
    """Write a checkpoint from which the run can go on after `done` steps."""
    state = {
        "optimiser": optimiser.state_dict(),
        "task": task.state_dict(),
        "randomness": capture_random_state(),
        "same": dict(same),
    }
    save_checkpoint(config.run, done, task.model, task.kind, task.config, state, keep=config.keep_checkpoints)


def restore_run(
    checkpoint: Path, task: Task, optimiser: torch.optim.Optimizer, same: Mapping[str, Any], steps: int
) -> int:
    """Set everything to where the checkpoint left it, if that run agrees in what is the `same`, and return its step.

    Of a run that has all its `steps`, only the model is of use.

    Raises:
        CheckpointError: the checkpoint is broken, or of another run.
    """
    state = load_state(checkpoint)
    header = load_weights(checkpoint, task.model, kind=task.kind)
    # a setting that came after that run had its default then: the dataclass fills it in
    before = {**state["same"], **plain_settings(config_from_dict(type(task.config), header.config))}
    for name, value in same.items():
        if before.get(name, value) != value:  # checkpoints from before a setting was kept do not have it
            raise CheckpointError(
                f"{checkpoint} is of a run with {name} {before[name]}",
                "resume with the settings and data of that run, or begin another one in another folder",
                expected=f"{value}, as it is set now",
            )
    if header.step >= steps:
        return header.step
    try:
        optimiser.load_state_dict(state["optimiser"])
    except ValueError:
        found = f"{checkpoint} is of a run that trained other parts of the model"
        remedy = "resume with what was frozen then, or begin another run that starts from it"
        raise CheckpointError(found, remedy, expected="the parts that are trained now") from None
    task.load_state_dict(state["task"])
    restore_random_state(state["randomness"])
    return header.step


def make_fabric(config: LoopConfig) -> Fabric:
    """Devices and precision of this process, alone or one of those that torchrun started."""
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
    )
    fabric.launch()
    # all processes draw the same numbers: the first one's state then serves every one on resuming
    torch.manual_seed(config.seed)
    return fabric


def train(
    task: Task, config: LoopConfig, optimiser_config: OptimiserConfig, fabric: Fabric, checkpoint: Path | None = None
) -> dict[str, float]:
    """Train to the end of the run and return the newest point of each curve.

    Args:
        task: what is trained.
        config: the run.
        optimiser_config: optimiser and schedule.
        fabric: of `make_fabric`.
        checkpoint: where to go on, of `training.loop.starting_point`; None begins.

    Raises:
        CheckpointError: the checkpoint is broken or of another model or data set.
        TrainingError: the loss is not finite; the checkpoints before are whole.
        OSError: a checkpoint cannot be written.
    """
    steps = config.steps or config.epochs * task.steps_per_epoch
    first_process = fabric.global_rank == 0
    model, optimiser = _set_up(task, config, optimiser_config, fabric)
    same = must_stay(task, config, optimiser_config)
    start = restore_run(checkpoint, task, optimiser, same, steps) if checkpoint else 0
    batches = iter(task.batches(start, steps))
    every = config.evaluate_every_epochs * task.steps_per_epoch

    if start >= steps:
        fabric.print(f"{checkpoint} has all {steps} steps: nothing is left to do")
    elif first_process:
        task.begin()
    with Curves(config.run, start, enabled=first_process) as curves:
        if start == 0:
            curves.write(0, _evaluate(task, fabric, 0))
        for step in tqdm(range(start, steps), initial=start, total=steps, unit="step", disable=not first_process):
            rate = learning_rate(optimiser_config, step, steps, task.steps_per_epoch)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["rate_factor"]
            with curves.step(images=config.batch_size):
                for part in range(config.accumulate):
                    with curves.waiting():
                        batch = fabric.to_device(next(batches))
                    with fabric.no_backward_sync(model, enabled=part < config.accumulate - 1):
                        losses = task.losses(model, batch)
                        fabric.backward(losses["loss"] / config.accumulate)
                    _check_finite(losses["loss"], step, config, fabric)
                    curves.add(losses, 1 / config.accumulate)
                optimiser.step()
                optimiser.zero_grad()
                task.after_step()

            done = step + 1
            if done % config.log_every_steps == 0 or done == steps:
                curves.write_means(done, rate)
            if done % every == 0 or done == steps:
                curves.write(done, _evaluate(task, fabric, done))
            if (done % config.checkpoint_every_steps == 0 or done == steps) and first_process:
                save_run(task, optimiser, config, same, done)
        fabric.barrier()
        return curves.last


def _set_up(
    task: Task, config: LoopConfig, optimiser_config: OptimiserConfig, fabric: Fabric
) -> tuple[_FabricModule, torch.optim.Optimizer]:
    """The model as the devices run it, and its optimiser."""
    if config.sync_batchnorm and fabric.world_size > 1:
        task.model = synchronise(task.model, fabric.device)
    if config.channels_last:
        task.model = task.model.to(memory_format=torch.channels_last)
    task.model.train()
    compiled = cast(nn.Module, torch.compile(task.model)) if config.compile else task.model
    model, optimiser = fabric.setup(compiled, make_optimiser(task.model, optimiser_config))
    return model, optimiser


def _check_finite(loss: Tensor, step: int, config: LoopConfig, fabric: Fabric) -> None:
    value = float(cast(Tensor, fabric.all_reduce(loss.detach())))  # so that all processes stop together
    if not math.isfinite(value):
        newest = newest_checkpoint(config.run)
        raise TrainingError(
            f"the loss is {value} in step {step + 1}",
            "lower --optimiser.learning_rate; " + (f"{newest} is whole" if newest else "there is no checkpoint yet"),
            expected="a finite number",
        )


def _evaluate(task: Task, fabric: Fabric, done: int) -> dict[str, float]:
    values: dict[str, float] = {}
    if fabric.global_rank == 0:
        task.model.eval()
        with torch.no_grad(), fabric.autocast():
            values = dict(task.evaluate(done))
        task.model.train()
    fabric.barrier()
    return values

"""The training loop that pretraining and decoder training share, on Lightning Fabric.

A `Task` brings a model, batches and a loss; `train` brings the devices, precision, optimiser, curves, checkpoints and
resuming. Start it as one process, or as many with torchrun:

    torchrun --nproc-per-node 8 -m training.pretrain --config config/pretrain.yaml --data.root PANORAMAS
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn
from tqdm import tqdm

from sal360_ros.errors import TrainingError
from training import resume
from training.checkpoint_folder import newest_checkpoint
from training.config import LoopConfig, OptimiserConfig
from training.curves import Curves
from training.optimiser import learning_rate, make_optimiser
from training.sync_batchnorm import synchronise
from training.task import Task


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
        checkpoint: where to go on, of `training.resume.starting_point`; None begins.

    Raises:
        CheckpointError: the checkpoint is broken or of another model or data set.
        TrainingError: the loss is not finite; the checkpoints before are whole.
        OSError: a checkpoint cannot be written.
    """
    steps = config.steps or config.epochs * task.steps_per_epoch
    first_process = fabric.global_rank == 0
    model, optimiser = _set_up(task, config, optimiser_config, fabric)
    same = resume.must_stay(task, config, optimiser_config)
    start = resume.restore(checkpoint, task, optimiser, same, steps) if checkpoint else 0
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
                resume.save(task, optimiser, config, same, done)
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
            "a finite number",
            "lower --optimiser.learning_rate; " + (f"{newest} is whole" if newest else "there is no checkpoint yet"),
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

"""Going on with a run: from where, in what it must agree, and what its checkpoints hold beside the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sal360_ros.errors import CheckpointError
from training import randomness
from training.checkpoint import load_state, load_weights, plain_settings, save_checkpoint
from training.checkpoint_folder import newest_checkpoint
from training.config import LoopConfig, OptimiserConfig
from training.config.plain import from_plain
from training.task import Task


def starting_point(config: LoopConfig) -> Path | None:
    """The checkpoint from which a run goes on, or None to begin; call it before anything is written.

    Raises:
        CheckpointError: `resume` is true without a checkpoint, or false with one.
    """
    newest = newest_checkpoint(config.run)
    if newest and config.resume is False:
        raise CheckpointError(
            f"{newest} exists", "a new run folder", "set --loop.resume true to go on, or another --loop.run"
        )
    if not newest and config.resume is True:
        raise CheckpointError(f"there is no checkpoint in {config.run}", "one to resume", "check --loop.run")
    return newest


def must_stay(task: Task, config: LoopConfig, optimiser_config: OptimiserConfig) -> dict[str, Any]:
    """What a resumed run must agree in: the model, what a step sees and is told, and the kind of its optimiser."""
    sampling = {"seed": config.seed, "batch_size": config.batch_size, "steps_per_epoch": task.steps_per_epoch}
    return {**plain_settings(task.config), **sampling, **task.must_stay(), "optimiser": optimiser_config.name}


def save(task: Task, optimiser: torch.optim.Optimizer, config: LoopConfig, same: Mapping[str, Any], done: int) -> None:
    """Write a checkpoint from which the run can go on after `done` steps."""
    state = {
        "optimiser": optimiser.state_dict(),
        "task": task.state_dict(),
        "randomness": randomness.capture(),
        "same": dict(same),
    }
    save_checkpoint(config.run, done, task.model, task.kind, task.config, state, keep=config.keep_checkpoints)


def restore(checkpoint: Path, task: Task, optimiser: torch.optim.Optimizer, same: Mapping[str, Any], steps: int) -> int:
    """Set everything to where the checkpoint left it, if that run agrees in what is the `same`, and return its step.

    Of a run that has all its `steps`, only the model is of use.

    Raises:
        CheckpointError: the checkpoint is broken, or of another run.
    """
    state = load_state(checkpoint)
    header = load_weights(checkpoint, task.model, kind=task.kind)
    # a setting that came after that run had its default then: the dataclass fills it in
    before = {**state["same"], **plain_settings(from_plain(type(task.config), header.config))}
    for name, value in same.items():
        if before.get(name, value) != value:  # checkpoints from before a setting was kept do not have it
            raise CheckpointError(
                f"{checkpoint} is of a run with {name} {before[name]}",
                f"{value}, as it is set now",
                "resume with the settings and data of that run, or begin another one in another folder",
            )
    if header.step >= steps:
        return header.step
    try:
        optimiser.load_state_dict(state["optimiser"])
    except ValueError:
        found = f"{checkpoint} is of a run that trained other parts of the model"
        remedy = "resume with what was frozen then, or begin another run that starts from it"
        raise CheckpointError(found, "the parts that are trained now", remedy) from None
    task.load_state_dict(state["task"])
    randomness.restore(state["randomness"])
    return header.step

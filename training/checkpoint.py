"""Checkpoints: what is inside, and a header that says so.

    RUN/step-00001000/model.safetensors    weights; the metadata hold the header as JSON
    RUN/step-00001000/training_state.pt    what else an exact continuation needs: optimiser, RNG, position in the data
    RUN/last                               a link to the newest of them

How such a folder comes to be whole or absent is in `checkpoint_folder`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from sal360.errors import CheckpointError

_SAVING, _REMOVING = ".saving-", ".removing-"


def write_checkpoint(run: str | Path, step: int, files: Mapping[str, bytes | memoryview], *, keep: int) -> Path:
    """Write RUN/step-NNNNNNNN, point RUN/last to it and remove all but the newest `keep` checkpoints.

    Args:
        run: folder of the run; made where it is missing.
        step: optimiser steps taken.
        files: what is in the folder, by name. It is all made before any is written, and by Python itself, so that a
            full disk is an OSError that names the file.

    Raises:
        CheckpointError: this step has a checkpoint already.
        OSError: it cannot be written (the disk is full); the older checkpoints are whole.
    """
    run = Path(run)
    run.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(run)
    final = run / f"step-{step:08d}"
    if final.exists():
        raise CheckpointError(
            f"{final} exists", "use another folder for this run", expected="a step that was not saved yet"
        )
    temporary = run / f"{_SAVING}{final.name}"
    temporary.mkdir()
    try:
        for name, content in files.items():
            _write_flushed(temporary / name, content)
        _flush_folder(temporary)
        os.rename(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush_folder(run)
    _point_last(run, final)
    for old in _checkpoints(run)[:-keep]:
        _remove(old)
    return final


def newest_checkpoint(run: str | Path) -> Path | None:
    """The newest checkpoint folder of a run, or None."""
    checkpoints = _checkpoints(Path(run))
    return checkpoints[-1] if checkpoints else None


def _checkpoints(run: Path) -> list[Path]:
    found = [path for path in run.glob("step-*") if path.name.removeprefix("step-").isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _write_flushed(path: Path, data: bytes | memoryview) -> None:
    try:
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)  # a failed write does not say where
        raise


def _flush_folder(path: Path) -> None:
    """Flush the names in a folder: a rename is only safe against a power cut after this."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _point_last(run: Path, checkpoint: Path) -> None:
    link = run / f"{_SAVING}last"
    link.unlink(missing_ok=True)
    link.symlink_to(checkpoint.name)
    os.replace(link, run / "last")


def _remove(checkpoint: Path) -> None:
    hidden = checkpoint.with_name(_REMOVING + checkpoint.name)  # never half a folder under a checkpoint's name
    os.rename(checkpoint, hidden)
    shutil.rmtree(hidden)


def _remove_leftovers(run: Path) -> None:
    for path in (*run.glob(f"{_SAVING}*"), *run.glob(f"{_REMOVING}*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


HEADER_KEY = "sal360"
_WEIGHTS = "model.safetensors"
_STATE = "training_state.pt"


@dataclass(frozen=True)
class CheckpointHeader:
    """What a checkpoint says of itself."""

    kind: str
    """contrastive or saliency."""
    config: Mapping[str, Any]
    """Settings of the model, as a plain mapping."""
    step: int
    """Optimiser steps taken."""
    git_revision: str
    """Revision of the training code."""


def save_checkpoint(
    run: str | Path, step: int, model: nn.Module, kind: str, config: Any, state: Mapping[str, Any], *, keep: int = 2
) -> Path:
    """Write RUN/step-NNNNNNNN, point RUN/last to it and remove all but the newest `keep` checkpoints.

    Args:
        run: folder of the run; made where it is missing.
        step: optimiser steps taken.
        model: its `state_dict` is saved.
        kind: contrastive or saliency.
        config: settings of the model, a dataclass or a mapping that JSON can hold.
        state: tensors and plain values for `load_state`; empty for weights that no run goes on from.

    Raises:
        CheckpointError: this step has a checkpoint already.
        OSError: it cannot be written (the disk is full); the older checkpoints are whole.
    """
    header = CheckpointHeader(kind, plain_settings(config), step, git_revision())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    files: dict[str, bytes | memoryview] = {
        _WEIGHTS: save(tensors, {HEADER_KEY: json.dumps(dataclasses.asdict(header))})
    }
    if state:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        files[_STATE] = buffer.getbuffer()
    return write_checkpoint(run, step, files, keep=keep)


def plain_settings(config: Any) -> dict[str, Any]:
    """A dataclass or mapping as JSON gives it back: mappings, lists, strings, numbers."""
    plain = dict(config) if isinstance(config, Mapping) else dataclasses.asdict(config)
    settings: dict[str, Any] = json.loads(json.dumps(plain))
    return settings


def read_header(path: str | Path, *, kind: str | None = None) -> CheckpointHeader:
    """The header of a checkpoint folder, of the newest one of a run folder, or of a .safetensors file.

    Args:
        path: of any of these.
        kind: what the checkpoint must be: contrastive or saliency; None takes both.

    Raises:
        CheckpointError: there is none, it is not one of ours, or it is of another kind.
    """
    weights = _find_weights(path)
    try:
        with safe_open(weights, framework="pt") as opened:
            text = (opened.metadata() or {})[HEADER_KEY]
        header = CheckpointHeader(**json.loads(text))
    except SafetensorError as error:
        raise _broken(weights, error) from None
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{weights} has no readable header",
            "give another checkpoint",
            expected="a checkpoint that this project wrote",
        ) from None
    if kind not in (None, header.kind):
        raise CheckpointError(
            f"{weights} holds a {header.kind} model", "give another checkpoint", expected=f"a {kind} model"
        )
    return header


def load_weights(path: str | Path, model: nn.Module, *, kind: str, part: str | None = None) -> CheckpointHeader:
    """Load weights into `model` and return the checkpoint's header.

    Args:
        path: checkpoint folder, run folder (its newest checkpoint) or .safetensors file.
        model: takes all weights of the checkpoint, or those of `part`.
        kind: what the checkpoint must be: contrastive or saliency.
        part: name of the submodule whose weights are taken ("encoder"), if not all.

    Raises:
        CheckpointError: it is missing, broken, of another kind or of another model; `model` is then unchanged.
    """
    header = read_header(path, kind=kind)
    weights = _find_weights(path)
    tensors = read_tensors(path, part=part)
    if difference := _difference(tensors, model.state_dict()):
        raise CheckpointError(
            f"{weights} is of another model (encoder {header.config.get('encoder', 'unnamed')}: {difference})",
            "give a checkpoint of the same encoder, or set the options as its run had them",
            expected=f"the weights of {part or 'this model'}",
        )
    model.load_state_dict(tensors)
    return header


def read_tensors(path: str | Path, *, part: str | None = None) -> dict[str, Tensor]:
    """The weights of a checkpoint by name, without a model, or those of the submodule `part`, named as inside it.

    Raises:
        CheckpointError: it is missing or broken.
    """
    weights = _find_weights(path)
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise _broken(weights, error) from None
    if part is None:
        return tensors
    prefix = part + "."
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def load_state(checkpoint: Path) -> dict[str, Any]:
    """What `save_checkpoint` got as `state`, its tensors on the CPU.

    Raises:
        CheckpointError: the file is missing or broken.
    """
    path = checkpoint / _STATE
    if not path.is_file():
        raise CheckpointError(
            f"there is no {path}", "begin a new run with these weights", expected="the state of a run"
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _broken(path, error) from None
    return state


@cache
def git_revision() -> str:
    """The revision of this checkout, "-dirty" where it was changed, or "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _find_weights(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file():
        return path
    folder = path if (path / _WEIGHTS).is_file() else newest_checkpoint(path)
    if folder is None:
        state = "has no checkpoint" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"{path} {state}", "check the path", expected="a run, a checkpoint or a .safetensors file"
        )
    return folder / _WEIGHTS


def _difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The first thing in which two sets of weights differ, or an empty string."""
    for name in expected:
        if name not in found:
            return f"{name} is missing"
        if found[name].shape != expected[name].shape:
            return f"{name} is {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
    unknown = [name for name in found if name not in expected]
    return f"{unknown[0]} is unknown" if unknown else ""


def _broken(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"{path} is broken ({reason})", "remove its folder to use the one before it", expected="a whole file"
    )

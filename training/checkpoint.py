"""Checkpoints: folders of a run that are complete or absent, with a header that describes their contents.

    RUN/step-00001000/model.safetensors    weights; the metadata hold the header as JSON
    RUN/step-00001000/training_state.pt    the state for an exact continuation: optimiser, RNG, position in the data
    RUN/last                               link to the newest checkpoint
    RUN/best/model.safetensors             weights with the best figure so far, if a run keeps them

Other modules use `save_checkpoint`, `read_header`, `load_weights` and `load_state`. `write_checkpoint` writes a folder
under a hidden name, flushes and renames it, so a full disk, `kill -9` or a power cut leaves the older checkpoints as
they were; `settle` finishes what a killed process could not.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from sal360.errors import CheckpointError
from sal360.files import check_folder_is_writable

_SAVING, _REMOVING = ".saving-", ".removing-"


def write_checkpoint(run: str | Path, step: int, files: Mapping[str, bytes | memoryview], *, keep: int) -> Path:
    """Write RUN/step-NNNNNNNN, point RUN/last to it and remove all but the newest `keep` checkpoints.

    Args:
        run: folder of the run; created if missing.
        step: number of optimiser steps taken.
        files: content by file name. Python writes it itself, so a full disk is an OSError that names the file.
        keep: number of checkpoints to keep.

    Raises:
        CheckpointError: the run already has a checkpoint of this step.
        OSError: it cannot be written, for instance because the disk is full; the older checkpoints stay intact.
    """
    run = Path(run)
    run.mkdir(parents=True, exist_ok=True)
    final = run / f"step-{step:08d}"
    if final.exists():
        raise CheckpointError(f"{final} exists", "choose another folder for the run")
    _remove_leftovers(run)
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
    settle(run)
    for old in _checkpoints(run)[:-keep]:
        _remove(old)
    return final


def settle(run: str | Path) -> None:
    """Point RUN/last to the newest checkpoint, and remove what a killed process left.

    Raises:
        OSError: the folder cannot be written.
    """
    _remove_leftovers(Path(run))
    if newest := newest_checkpoint(run):
        _point_last(Path(run), newest)


def require_no_checkpoint(run: str | Path) -> None:
    """Refuse, before hours of work, a folder for a new checkpoint that has one or cannot be written.

    Raises:
        CheckpointError: it has a checkpoint, which could be newer than the one to be written.
        OSError: it cannot be made or written.
    """
    if newest := newest_checkpoint(run):
        raise CheckpointError(f"{newest} exists", "choose another folder for --output")
    check_folder_is_writable(run)


def newest_checkpoint(run: str | Path) -> Path | None:
    """The newest checkpoint folder of a run, or None."""
    checkpoints = _checkpoints(Path(run))
    return checkpoints[-1] if checkpoints else None


def holds_checkpoint(folder: str | Path) -> bool:
    """Whether a folder is a checkpoint, or a run with one."""
    return (Path(folder) / _WEIGHTS).is_file() or newest_checkpoint(folder) is not None


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
        error.filename = str(path)  # a failed write does not name the file
        raise


def _flush_folder(path: Path) -> None:
    """Flush a folder's entries; only then does a rename survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _point_last(run: Path, checkpoint: Path) -> None:
    last = run / "last"
    if last.is_symlink() and os.readlink(last) == checkpoint.name:
        return
    if last.is_dir() and not last.is_symlink():  # a copy of the run without links
        _remove(last)
    link = run / f"{_SAVING}last"
    link.symlink_to(checkpoint.name)
    os.replace(link, last)


def _remove(checkpoint: Path) -> None:
    hidden = checkpoint.with_name(_REMOVING + checkpoint.name)  # a half-removed folder must not pass for a checkpoint
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


class Origin(NamedTuple):
    """Data from which weights were learnt."""

    data: str
    """What they are, in words: "OSIE, gaze on photographs placed on panoramas"."""
    licence: str
    """What is known of their licence."""


IMAGENET = Origin("ImageNet, by the weights in the encoder's package", "Apache-2.0")
PANORAMAS = Origin("panoramas without gaze", "their own")
UNRECORDED = Origin("data that an older checkpoint does not record", "not known")


ORIGIN_KEY = "sal360_origin"
"""Metadata of a .safetensors file with weights of another project: its `Origin` as JSON."""


def origin_of_file(path: str | Path) -> Origin:
    """The origin of weights of another project, as their file says it, or else by the file's name."""
    named = Origin(f"weights of {Path(path).name}", "none stated")
    if Path(path).suffix != ".safetensors":
        return named
    with _named_in_utf8(Path(path)) as name, safe_open(name, framework="pt") as opened:
        text = (opened.metadata() or {}).get(ORIGIN_KEY)
    return Origin(*map(str, json.loads(text))) if text else named


def joined(*origins: Iterable[Origin]) -> tuple[Origin, ...]:
    """The origins of weights that were made from others, each once, in their order."""
    return tuple(dict.fromkeys(each for several in origins for each in several))


@dataclass(frozen=True)
class CheckpointHeader:
    """A checkpoint's description of itself."""

    kind: str
    """contrastive or saliency."""
    config: Mapping[str, Any]
    """Settings of the model."""
    step: int
    """Number of optimiser steps taken."""
    git_revision: str
    """Git revision of the training code."""
    origin: tuple[Origin, ...] = ()
    """From what the weights were learnt, over all runs that led to them; empty: an older checkpoint, which says
    nothing."""

    @property
    def learnt_from(self) -> tuple[Origin, ...]:
        """The origin as checkpoints repeat it that are made from this one: `UNRECORDED` if it says nothing."""
        return self.origin or (UNRECORDED,)


def save_checkpoint(
    run: str | Path,
    step: int,
    model: nn.Module,
    kind: str,
    config: Any,
    state: Mapping[str, Any],
    *,
    keep: int = 2,
    origin: Sequence[Origin] = (),
) -> Path:
    """Write RUN/step-NNNNNNNN, point RUN/last to it and remove all but the newest `keep` checkpoints.

    Args:
        run: folder of the run; created if missing.
        step: number of optimiser steps taken.
        model: its `state_dict` is saved.
        kind: contrastive or saliency.
        config: settings of the model, a dataclass or a mapping that JSON can hold.
        state: tensors and plain values that `load_state` returns; empty if no run will continue from here.
        keep: number of checkpoints to keep.
        origin: from what the weights were learnt.

    Raises:
        CheckpointError: the run already has a checkpoint of this step.
        OSError: it cannot be written, for instance because the disk is full; the older checkpoints stay whole.
    """
    header = CheckpointHeader(kind, plain_settings(config), step, git_revision(), tuple(origin))
    files: dict[str, bytes | memoryview] = {_WEIGHTS: _with_header(model, header)}
    if state:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        files[_STATE] = buffer.getbuffer()
    return write_checkpoint(run, step, files, keep=keep)


def _with_header(model: nn.Module, header: CheckpointHeader, **more: str) -> bytes:
    """The weights of a model as a .safetensors file with a header, and more metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return save(tensors, {HEADER_KEY: json.dumps(dataclasses.asdict(header)), **more})


BEST = "best"
"""Name of the folder of a run with its best weights."""
_FIGURE_KEY = "sal360_best"


class BestFigure(NamedTuple):
    """The figure by which weights are the best of their run."""

    name: str
    """Name of the curve, such as measured/cc."""
    is_best: Literal["max", "min"]
    """Whether the largest or the smallest value is the best."""
    value: float

    def is_better_than(self, other: BestFigure) -> bool:
        """Whether the value is better, not just as good; NaN never is."""
        return self.value > other.value if self.is_best == "max" else self.value < other.value


def save_best(run: str | Path, model: nn.Module, header: CheckpointHeader, figure: BestFigure) -> None:
    """Replace the weights in RUN/best, completely or not at all.

    Raises:
        OSError: they cannot be written, for instance because the disk is full; the older ones stay intact.
    """
    folder = Path(run) / BEST
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{_SAVING}{_WEIGHTS}"
    try:
        _write_flushed(temporary, _with_header(model, header, **{_FIGURE_KEY: json.dumps(figure._asdict())}))
        os.replace(temporary, folder / _WEIGHTS)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(folder)


def best_figure(run: str | Path) -> BestFigure | None:
    """The figure of the weights in RUN/best; None if there are none.

    Raises:
        CheckpointError: the file is broken.
    """
    weights = Path(run) / BEST / _WEIGHTS
    if not weights.is_file():
        return None
    try:
        with _named_in_utf8(weights) as name, safe_open(name, framework="pt") as opened:
            figure = BestFigure(**json.loads((opened.metadata() or {})[_FIGURE_KEY]))
        valid = figure.is_best in ("max", "min") and isinstance(figure.value, float)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        valid = False
    if not valid:
        raise CheckpointError(f"{weights} is broken, or was not written by this loop", f"remove {weights.parent}")
    return figure


def plain_settings(config: Any) -> dict[str, Any]:
    """A dataclass or mapping as JSON returns it: dicts, lists, strings and numbers."""
    plain = dict(config) if isinstance(config, Mapping) else dataclasses.asdict(config)
    settings: dict[str, Any] = json.loads(json.dumps(plain))
    return settings


def flat_settings(config: Any) -> dict[str, Any]:
    """A dataclass as `plain_settings`, with the fields of nested dataclasses under names such as "views.height"."""
    settings: dict[str, Any] = {}
    for name, value in plain_settings(config).items():
        part = getattr(config, name)
        if dataclasses.is_dataclass(part):
            settings |= {f"{name}.{field}": each for field, each in flat_settings(part).items()}
        else:
            settings[name] = value
    return settings


def read_header(path: str | Path, *, kind: str | None = None) -> CheckpointHeader:
    """The header of a checkpoint folder, of the newest one of a run folder, or of a .safetensors file.

    Args:
        path: any of these.
        kind: the kind that is needed, contrastive or saliency; None accepts both.

    Raises:
        CheckpointError: there is no checkpoint, it was not written by this project, or it is of another kind.
    """
    weights = _find_weights(path)
    try:
        with _named_in_utf8(weights) as name, safe_open(name, framework="pt") as opened:
            text = (opened.metadata() or {})[HEADER_KEY]
        fields = json.loads(text)
        origin = tuple(Origin(*map(str, each)) for each in fields.get("origin", ()))
        header = CheckpointHeader(**{**fields, "origin": origin})
        valid = isinstance(header.config, dict) and isinstance(header.step, int)
    except SafetensorError as error:
        raise _broken(weights, str(error)) from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        valid = False
    if not valid:
        raise CheckpointError(f"{weights} was not written by this project's training", "give one of its checkpoints")
    if kind not in (None, header.kind):
        raise CheckpointError(f"{weights} holds a {header.kind} model", f"give the checkpoint of a {kind} model")
    return header


def load_weights(path: str | Path, model: nn.Module, *, kind: str, part: str | None = None) -> CheckpointHeader:
    """Load weights into `model` and return the checkpoint's header.

    Args:
        path: checkpoint folder, run folder (its newest checkpoint) or .safetensors file.
        model: gets all weights of the checkpoint, or those of `part`.
        kind: the kind that is needed, contrastive or saliency.
        part: submodule whose weights are loaded, such as "encoder"; None loads all.

    Raises:
        CheckpointError: it is missing, broken, of another kind or of another model; `model` is then unchanged.
    """
    header = read_header(path, kind=kind)
    weights = _find_weights(path)
    tensors = read_tensors(path, part=part)
    if difference := _difference(tensors, model.state_dict()):
        raise CheckpointError(
            f"{weights} does not fit {f'this {part}' if part else 'this model'} (its encoder is "
            f"{header.config.get('encoder', 'unnamed')}; {difference})",
            "give a checkpoint of the same model, or set the model's options as that run had them",
        )
    model.load_state_dict(tensors)
    return header


def read_tensors(path: str | Path, *, part: str | None = None) -> dict[str, Tensor]:
    """The weights of a checkpoint by name; with `part`, those of that submodule, named as inside it.

    Raises:
        CheckpointError: it is missing or broken.
    """
    weights = _find_weights(path)
    try:
        with _named_in_utf8(weights) as name:
            tensors = load_file(name)
    except SafetensorError as error:
        raise _broken(weights, str(error)) from None
    if part is None:
        return tensors
    prefix = part + "."
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The `state` that `save_checkpoint` was given, tensors on the CPU.

    Raises:
        CheckpointError: the file is missing or broken.
    """
    path = checkpoint / _STATE
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint} has weights only, no {_STATE}, so its run cannot continue",
            "start a new run, in another folder, from these weights",
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file can raise any exception of zip, pickle and torch
        raise _broken(path, str(error) or type(error).__name__) from None
    if not isinstance(state, dict):
        raise _broken(path, f"it holds a {type(state).__name__}")
    return state


@cache
def git_revision() -> str:
    """Git revision of this checkout, with "-dirty" if it has changes; "unknown" outside a checkout.

    An installed copy may lie inside the checkout of another project, which does not track it.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _find_weights(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file():
        return path
    folder = path if (path / _WEIGHTS).is_file() else newest_checkpoint(path)
    if folder is None:
        if path.is_file():
            found = f"{path} is not a checkpoint"
        else:
            found = f"{path} has no checkpoint" if path.is_dir() else f"{path} does not exist"
        raise CheckpointError(found, "give a run folder, a checkpoint folder or a .safetensors file")
    if not (folder / _WEIGHTS).is_file():
        raise _broken(folder / _WEIGHTS, "it is missing")
    return folder / _WEIGHTS


@contextmanager
def _named_in_utf8(path: Path) -> Iterator[str]:
    """A name of the file in UTF-8, as safetensors needs it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with open(path, "rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield str(path)


def _difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The first difference between two sets of weights, or an empty string."""
    for name in expected:
        if name not in found:
            return f"{name} is missing"
        if found[name].shape != expected[name].shape:
            return f"{name} has the shape {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
    unknown = [name for name in found if name not in expected]
    return f"{unknown[0]} is not in this model" if unknown else ""


def _broken(path: Path, reason: str) -> CheckpointError:
    checkpoint, of_run = path.parent, _checkpoints(path.parent.parent)
    remedy = "give another checkpoint"
    if checkpoint in of_run:
        older = of_run[: of_run.index(checkpoint)]
        again = f"remove {checkpoint} and start its run again"
        remedy = f"remove {checkpoint} to use {older[-1].name}" if older else f"{remedy}, or {again}"
    return CheckpointError(f"{path} is broken ({reason.strip().splitlines()[0]})", remedy)

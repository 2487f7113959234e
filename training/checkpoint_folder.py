"""Folders of checkpoints that appear whole or not at all.

A checkpoint is written under a hidden name, flushed to the disk and renamed, so a folder named step-* is complete
whenever it exists, also after `kill -9` or a power cut.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from sal360_ros.errors import CheckpointError

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
        raise CheckpointError(f"{final} exists", "a step that was not saved yet", "use another folder for this run")
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

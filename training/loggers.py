"""The curves of a run in other places beside its TensorBoard files, through the loggers of Lightning.

    --loop.logger csv       RUN/csv/version_0/metrics.csv, and version_1 … of its restarts
    --loop.logger mlflow    the server in MLFLOW_TRACKING_URI, or else the folder RUN/mlruns; experiment sal360
    --loop.logger wandb     Weights & Biases, project sal360 or WANDB_PROJECT; WANDB_MODE=offline writes to RUN/wandb

`open_tracker` makes one. A restarted run continues its run at the service, whose name is kept in RUN/tracking.json. A
service that fails later does not end the training: the TensorBoard files have all curves.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.logger import Logger

from sal360.errors import TrainingError, require_modules
from sal360.files import write_text

LoggerName = Literal["tensorboard", "csv", "mlflow", "wandb"]

_MODULES: dict[LoggerName, tuple[str, ...]] = {
    "tensorboard": (),
    "csv": (),
    "mlflow": ("pytorch_lightning", "mlflow"),
    "wandb": ("pytorch_lightning", "wandb"),
}
_REMEDY: dict[LoggerName, str] = {
    "csv": "check the folder",
    "mlflow": "check MLFLOW_TRACKING_URI",
    "wandb": "log in with `wandb login`, or set WANDB_MODE=offline",
}
_PROJECT = "sal360"


def require_logger(name: LoggerName) -> None:
    """Import what a logger needs.

    Raises:
        ImportError: it is not installed.
    """
    require_modules(*_MODULES[name])


class Tracker:
    """Passes curves to a logger for as long as it takes them."""

    def __init__(self, name: LoggerName, logger: Logger) -> None:
        self._name, self._logger = name, logger
        self._works = True

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write values at a step."""
        if not self._works:
            return
        try:
            self._logger.log_metrics(dict(values), step)
            self._logger.save()
        except Exception as error:  # of any service
            self._works = False
            print(
                f"{self._name} takes no curves any more ({_reason(error)}); the run continues, and its TensorBoard "
                "files have them",
                file=sys.stderr,
            )

    def close(self, *, failed: bool) -> None:
        """End the run at the service."""
        if not self._works:
            return
        self._works = False
        try:
            self._logger.finalize("failed" if failed else "success")
        except Exception as error:  # of any service
            print(f"{self._name} did not take the end of the run ({_reason(error)})", file=sys.stderr)


def open_tracker(name: LoggerName, run: str | Path, settings: Mapping[str, Any], *, is_new: bool) -> Tracker | None:
    """The logger with a name; None for tensorboard, which `Curves` writes itself.

    Args:
        name: its name.
        run: folder of the run.
        settings: of the run, which the service shows; nested mappings of plain values.
        is_new: whether the run starts, or continues one.

    Raises:
        TrainingError: the service cannot be used.
    """
    if name == "tensorboard":
        return None
    known = Path(run) / "tracking.json"
    ids = _known_ids(known) if not is_new else {}
    try:
        logger, own = _open(name, Path(run), ids.get(name, ""))
        if own and name not in ids:
            logger.log_hyperparams(dict(settings))
            write_text(known, json.dumps({**ids, name: own}) + "\n")
    except OSError:
        raise
    except Exception as error:  # of any service
        remedy = f"{_REMEDY[name]}, or set --loop.logger to another"
        raise TrainingError(f"{name} cannot be used ({_reason(error)})", remedy) from error
    return Tracker(name, logger)


def _open(name: LoggerName, run: Path, own: str) -> tuple[Logger, str]:
    """The logger, and the name of this run at the service; "" where it has none."""
    if name == "csv":
        return CSVLogger(run, name="csv"), ""
    title = run.resolve().name
    if name == "mlflow":
        from pytorch_lightning.loggers import MLFlowLogger

        place = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not place:
            place = f"file:{run.resolve() / 'mlruns'}"
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # without it, MLflow 3.13 refuses folders
        mlflow = MLFlowLogger(_PROJECT, title, place, run_id=own or None)
        return mlflow, str(mlflow.run_id)
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    own = own or uuid4().hex[:8]
    logger = WandbLogger(
        title,
        save_dir=run,
        id=own,
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
        resume="allow",
        settings=wandb.Settings(console="off"),
    )
    _ = logger.experiment  # connects
    return logger, own


def _known_ids(path: Path) -> dict[str, str]:
    """The names of a run at the services; none if the file is missing or damaged: it is then a new run there."""
    try:
        ids = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(own) for name, own in ids.items()} if isinstance(ids, dict) else {}


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__

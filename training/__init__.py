"""Offline training: contrastive pretraining, saliency decoder, evaluation, analysis, export."""

import sys
from importlib.util import find_spec

from sal360.errors import one_line_errors

_NEEDED = ("torch", "torchvision", "lightning_fabric", "jsonargparse", "safetensors", "scipy", "av")


def _require_extra() -> None:
    """Refuse to start where the extra of training is not installed.

    Raises:
        ImportError: a module of it is missing.
    """
    for name in _NEEDED:
        if find_spec(name) is None:
            raise ModuleNotFoundError(name=name)


if sys.argv[:1] == ["-m"]:  # python -m training.…, whose imports would end in a traceback
    status = one_line_errors(_require_extra)
    if status:
        sys.exit(status)

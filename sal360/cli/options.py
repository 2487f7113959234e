"""Options that several subcommands share: which model runs, and how."""

from __future__ import annotations

import argparse
from typing import Any

from sal360.runtimes import BACKEND_NAMES
from sal360.runtimes.backend import PRECISIONS


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options whose values `model_options` hands to a `Predictor`."""
    add = parser.add_argument
    add("--model", default="", help="model file (default: the bundled model)")
    add("--backend", choices=BACKEND_NAMES, default="auto", help="runtime (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="arithmetic (default: %(default)s)")
    add("--threads", type=int, default=0, help="CPU threads; 0 lets the runtime choose (default: %(default)s)")
    add(
        "--prior-strength",
        type=float,
        default=1.0,
        help="strength of the equator prior: 1 as trained, 0 without (default: %(default)s)",
    )


def model_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `Predictor`, as the options gave them."""
    names = ("model", "backend", "device", "precision", "threads", "prior_strength")
    return {name: getattr(arguments, name) for name in names}

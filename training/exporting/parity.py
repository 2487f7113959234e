"""Parity: the difference between an exported file and its model on real panoramas, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sal360.arrays import Density, Pixels
from sal360.errors import ModelError
from sal360.metrics import cc, kld
from sal360.runtimes import open_model


@dataclass(frozen=True)
class Limit:
    """Allowed difference on the worst panorama."""

    difference: float
    """Maximum difference of a pixel, relative to the peak of its map."""
    cc: float
    """Minimum correlation with the exact map."""
    kld: float
    """Maximum KL divergence from the exact map, nats."""


LIMITS = {
    "fp32": Limit(1e-4, 0.99999, 1e-6),
    "fp16": Limit(1e-2, 0.9999, 1e-3),
    "bf16": Limit(0.1, 0.998, 0.01),
    "int8": Limit(np.inf, 0.98, 0.05),
}

RUNTIMES = {
    "fp32": ("onnxruntime",),
    "fp16": ("onnxruntime",),
    "bf16": ("openvino",),  # onnxruntime has no bf16 convolutions on CPUs
    "int8": ("onnxruntime", "openvino"),  # they run quantised graphs differently, and a node may use either
}


def compare(path: Path, precision: str, frames: Pixels, expected: Density) -> dict[str, Any]:
    """Run a file on panoramas (N, H, W, 3) and compare it with the exact maps (N, h, w): figures of the worst map.

    Raises:
        ModelError: a runtime refuses the file.
    """
    results = []
    for runtime in RUNTIMES[precision]:
        with open_model(path, backend=runtime, device="cpu") as backend:
            found = np.concatenate([backend.infer(frame[None]) for frame in frames])
        results.append(differences(found, expected))
    return {
        "runtime": " and ".join(RUNTIMES[precision]),
        "panoramas": len(frames),
        "max_relative_difference": max(each["max_relative_difference"] for each in results),
        "mean_relative_difference": max(each["mean_relative_difference"] for each in results),
        "cc": min(each["cc"] for each in results),
        "kld": max(each["kld"] for each in results),
    }


def differences(found: Density, expected: Density) -> dict[str, float]:
    """Differences relative to the peak of each map, worst CC and worst KLD, of maps (N, h, w)."""
    relative = np.abs(found - expected) / expected.max(axis=(1, 2), keepdims=True)
    pairs = list(zip(found, expected, strict=True))
    return {
        "max_relative_difference": float(relative.max()),
        "mean_relative_difference": float(relative.mean()),
        "cc": min(float(cc(one, other)) for one, other in pairs),
        "kld": max(float(kld(one, other)) for one, other in pairs),
    }


def check(parity: dict[str, Any], precision: str) -> None:
    """Refuse a file that differs more from its model than its precision explains.

    Raises:
        ModelError: the figures are beyond the limits.
    """
    limit = LIMITS[precision]
    within = (
        parity["max_relative_difference"] <= limit.difference
        and parity["cc"] >= limit.cc
        and parity["kld"] <= limit.kld
    )  # comparisons with NaN are false
    if not within:
        largest = 100 * parity["max_relative_difference"]
        peak = f"at most {100 * limit.difference:g} %, " if np.isfinite(limit.difference) else ""
        more = " raise --calibration_frames," if precision == "int8" else ""
        raise ModelError(
            f"the {precision} file differs from the checkpoint by up to {largest:.3g} % of the peak "
            f"(CC {parity['cc']:.4f}, KLD {parity['kld']:.2g})",
            f"choose another --precision,{more} or write it anyway with --force true",
            expected=f"{peak}CC {limit.cc:g}, KLD {limit.kld:g}",
        )

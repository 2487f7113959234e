"""Time of the metrics on one core, beside pysaliency's: python benchmarks/metrics.py [--json].

A 1024 x 2048 map against 10 000 fixations and their density. pysaliency's functions do not weight by solid angle; its
ROC stands for the AUC. A metric that it does not have is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from sal360.arrays import Reals
from sal360.errors import clean_end, one_line_errors
from sal360.metrics import METRICS

HEIGHT, WIDTH, FIXATIONS, ROUNDS = 1024, 2048, 10_000, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    warnings.simplefilter("ignore")  # numpy.trapz, inside pysaliency
    cases = {name: _timings(saliency) for name, saliency in _predictions().items()}
    if arguments.json:
        print(json.dumps({"unit": "ms", "rounds": ROUNDS, "cases": cases}))
        return
    for name, timings in cases.items():
        print(f"{name}: sal360 {timings['sal360']['all']:.0f} ms, pysaliency {timings['pysaliency']['all']:.0f} ms")
        for metric, time_ms in timings["sal360"].items():
            if metric != "all":
                print(f"  {metric:9s}{time_ms:8.1f} ms{timings['pysaliency'][metric]:8.1f} ms")
        print(f"  ratio {timings['ratio']:.1f}")


def _predictions() -> dict[str, Reals]:
    noise = np.random.default_rng(0).standard_normal((HEIGHT, WIDTH), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 20)
    return {"noise": noise - noise.min(), "density": np.exp(1.5 * smooth / smooth.std())}


def _timings(saliency: Reals) -> dict[str, object]:
    from pysaliency import metrics as oracle
    from pysaliency.roc_cython import general_roc

    chance = saliency.ravel().astype(np.float64)
    pixels = np.random.default_rng(1).choice(chance.size, FIXATIONS, p=chance / chance.sum())
    counts = np.bincount(pixels, minlength=chance.size).reshape(HEIGHT, WIDTH)
    density = cv2.GaussianBlur(counts.astype(np.float32), (0, 0), 20) + 1e-6
    row, column = np.divmod(pixels, WIDTH)
    elsewhere = counts == 0

    theirs: dict[str, Callable[[], object]] = {
        "auc_judd": lambda: general_roc(
            saliency[row, column].astype(np.float64), saliency[elsewhere].astype(np.float64)
        ),
        "nss": lambda: oracle.NSS(saliency, column, row),
        "cc": lambda: oracle.CC(saliency, density),
        "sim": lambda: oracle.SIM(saliency, density),
        "kld": lambda: oracle.MIT_KLDiv(saliency, density),
    }
    truth_of = {"fixations": counts, "density": density}
    ours: dict[str, Callable[[], object]] = {
        name: partial(metric.function, saliency, truth_of[metric.against])
        for name, metric in METRICS.items()
        if name in theirs
    }
    times = {"sal360": _best(ours), "pysaliency": _best(theirs)}
    return {**times, "ratio": times["pysaliency"]["all"] / times["sal360"]["all"]}


def _best(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    rounds = [{name: _milliseconds(function) for name, function in functions.items()} for _ in range(ROUNDS)]
    best = min(rounds, key=lambda each: sum(each.values()))
    return {**best, "all": sum(best.values())}


def _milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))

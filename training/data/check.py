"""Check whether a copy of a gaze data set is complete: python -m training.data.check DATASET ROOT.

Counts the files, pairs them by identity, and looks at each: pictures for their end and shape, maps, scanpaths and runs
for their values. What is irregular, but can be used, is counted. Exit status 0: complete; 1: not complete, or
irregular with --strict; 2: there is no such folder.
"""

from __future__ import annotations

import argparse
import sys

from sal360.errors import one_line_errors
from training.data.gaze.datasets import DATASETS


def main() -> int:
    """Print what is there, what is wrong and what is irregular; 0 if the copy is complete, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m training.data.check",
        description="Check whether a copy of a gaze data set is complete, and name what is missing or broken.",
        epilog="data sets: " + "; ".join(f"{name}: {dataset.content}" for name, dataset in DATASETS.items()),
    )
    parser.add_argument("dataset", metavar="DATASET", choices=sorted(DATASETS), help="name of a data set, see below")
    parser.add_argument("root", metavar="ROOT", help="folder of the copy")
    parser.add_argument(
        "--strict", action="store_true", help="call a copy with irregular data not complete, as data.strict does"
    )
    arguments = parser.parse_args()
    found = DATASETS[arguments.dataset].inventory(arguments.root)
    print(found.report())
    return 0 if found.is_complete and not (arguments.strict and found.irregular.counts) else 1


if __name__ == "__main__":
    sys.exit(one_line_errors(main))

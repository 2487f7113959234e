"""Says whether a copy of a gaze data set is complete: python -m training.data.check DATASET ROOT.

Counts the files, pairs them by identity, and looks at each: pictures and maps for their end or size, scanpaths and
runs for their values. Exit status 0: complete; 1: not complete; 2: there is no such folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sal360.errors import DataError, one_line_errors
from training.data.gaze import salient360, sitzmann, vr_eyetracking
from training.data.gaze.dataset_files import Inventory, check_picture_end, require_folder
from training.data.gaze.osie import read_osie

OSIE_PHOTOGRAPHS, OSIE_FIXATIONS, OSIE_PEOPLE = 600, 84_290, 15


def osie_inventory(root: str | Path) -> Inventory:
    """What a copy of OSIE holds."""
    folder = require_folder(root)
    found = Inventory()
    stimuli = sorted((folder / "stimuli").glob("*.jpg"))
    found.count("photographs", len(stimuli), OSIE_PHOTOGRAPHS)
    for path in stimuli:
        found.try_file(partial(check_picture_end, path))
    try:
        photographs = read_osie(folder)
    except DataError as error:
        found.problems.append(error.found)
        return found
    found.count("fixations", sum(len(each.x) for each in photographs), OSIE_FIXATIONS)
    found.count("people", len({int(person) for each in photographs for person in each.subject}), OSIE_PEOPLE)
    return found


INVENTORIES: dict[str, Callable[[str | Path], Inventory]] = {
    "salient360": salient360.inventory,
    "sitzmann": sitzmann.inventory,
    "vr_eyetracking": vr_eyetracking.inventory,
    "osie": osie_inventory,
}


def main() -> int:
    """Print what is there and what is wrong; 0 if the copy is complete, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m training.data.check",
        description="Says whether a copy of a gaze data set is complete, and names what is missing or broken.",
    )
    parser.add_argument("dataset", choices=sorted(INVENTORIES))
    parser.add_argument("root", help="folder of the copy")
    arguments = parser.parse_args()
    found = INVENTORIES[arguments.dataset](arguments.root)
    print(found.report())
    return 0 if found.is_complete else 1


if __name__ == "__main__":
    sys.exit(one_line_errors(main))

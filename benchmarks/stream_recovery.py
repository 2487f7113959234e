"""How soon a live stream is back that was cut and restarted in another size, on loopback, for each kind of stream.

    python benchmarks/stream_recovery.py [--rounds 5] [--kinds udp rtsp] [--limit 2] [--json]

The time is from the start of the sender to the first frame of the new size. Over TCP and RTMP, the sender is a process,
whose start of about half a second is part of that time; over HLS, the first segment. Exits 1 if one takes longer than
--limit.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sal360.errors import clean_end, one_line_errors
from sal360.sources.live_stream import LiveStream, StreamSettings
from sal360.sources.stream_address import stream_address

SIZES = ((128, 64), (256, 128))
CALM_S, GIVE_UP_S = 3.0, 60.0


def seconds_to(stream: LiveStream, width: int) -> float:
    """Seconds until there is a frame of this width; infinite if there is none within `GIVE_UP_S`."""
    start_s = time.monotonic()
    while (passed_s := time.monotonic() - start_s) < GIVE_UP_S:
        frame = stream.take(0.05)
        if frame is not None and frame.image.shape[1] == width:
            return passed_s
    return float("inf")


def recoveries(kind: str, rounds: int, folder: Path) -> list[float]:
    """Seconds from the start of the sender to the first frame after each of several cuts."""
    tests: Any = importlib.import_module("tests.live_streams")
    source, found = tests.restartable(kind, folder), []
    address, settings = stream_address(source.url), StreamSettings(options=source.options)
    assert address is not None
    with LiveStream(address, settings, log=tests.Log()) as stream:
        for number in range(rounds + 1):
            size = SIZES[number % 2]
            with source.start(size=size):
                found.append(seconds_to(stream, size[0]))
                time.sleep(CALM_S)
            time.sleep(settings.timeout_s + 1)  # the loss is noticed, and attempts to connect fail
    return found[1:]


def main() -> int:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    kinds: tuple[str, ...] = importlib.import_module("tests.live_streams").KINDS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="kinds of streams (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="cuts of each kind (default: %(default)d)")
    parser.add_argument("--limit", type=float, default=float("inf"), help="longest acceptable time, seconds")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="sal360-streams-") as folder:
        found = {kind: recoveries(kind, arguments.rounds, Path(folder) / kind) for kind in arguments.kinds}
    if arguments.json:
        print(json.dumps(found))
    else:
        for kind, times_s in found.items():
            print(f"{kind:5s} back after {statistics.median(times_s):.2f} s, at most {max(times_s):.2f} s")
    return 1 if max(map(max, found.values())) > arguments.limit else 0


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))

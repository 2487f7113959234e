"""Spoilt files against the commands: each must be read whole or refused in one line; exits 1 if any is not.

    python benchmarks/fuzz_files.py [--files 10000] [--seed 0] [--only NUMBER] [--json]

Small valid pictures, videos, bags, models, tables of gaze and gaze data sets are corrupted (bits flipped, cut, zeros
and noise inserted, header fields edited, renamed) and given to `predict`, `evaluate`, the sources of demo and camera,
and the readers of training. The commands run in a worker process, which is replaced when it dies or hangs. A finding is
a traceback, a signal, more than 30 s of CPU time, a status of 0 with something missing, a refusal without a line or
with more than one, and memory that grows. `--only` repeats one case and shows all that it printed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from fuzz_cases import Spoiler, write_originals
from tqdm import tqdm

from sal360.errors import ParameterError, clean_end, one_line_errors

HANG_S = 30.0
"""Of CPU time, because other programs may need the machine; of ten times as much in all."""
START_S = 120.0
"""Time for a worker to import what the commands need."""
END_S = 5.0
ALLOWED_GROWTH_MB = 64.0
MAX_PEAK_MB = 2500.0
"""Largest memory of a worker: a picture of `max_pixels` takes 200 MB for each copy of its pixels."""


@dataclass(frozen=True)
class Job:
    """The settings with which a worker makes and runs cases."""

    originals: str
    folder: str
    """For copies and outputs."""
    seed: int


@dataclass
class Tally:
    """The outcomes of all cases so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """By "kind: outcome"."""
    findings: list[dict[str, Any]] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    """Of the worker after each case."""
    peak_mb: float = 0.0
    workers: int = 0


def work(job: Job, connection: Connection) -> None:
    """Run the cases whose numbers come through the connection, until it closes; runs in a child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from fuzz_commands import Commands, finding, outcome

    spoiler, folder = Spoiler(Path(job.originals), job.seed), Path(job.folder)
    commands = Commands(Path(job.originals), folder / "output")
    process = psutil.Process()
    connection.send({})
    while True:
        try:
            number = connection.recv()
        except EOFError:
            return
        with TemporaryDirectory(dir=folder) as name:
            case, rng = spoiler.make(number, Path(name))
            result = commands.run(case, rng)
        connection.send(
            {
                "case": str(case),
                "kind": case.kind,
                "command": result.command,
                "status": result.status,
                "outcome": outcome(result),
                "finding": finding(result),
                "lines": [*result.lines, *result.crash.splitlines()],
                "memory_mb": process.memory_info().rss / 2**20,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
            }
        )


class Worker:
    """A child process that runs cases one after the other."""

    def __init__(self, job: Job) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, other = spawn.Pipe()
        self._process = spawn.Process(target=work, args=(job, other), daemon=True)
        self._process.start()
        other.close()
        self._receive(START_S)

    def run(self, number: int) -> dict[str, Any]:
        """The outcome of a case; only a finding if the worker died or hung."""
        self._connection.send(number)
        return self._receive(HANG_S)

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        begin_s, used_s = time.monotonic(), self._cpu_s()
        try:
            while self._cpu_s() - used_s < timeout_s and time.monotonic() - begin_s < 10 * timeout_s:
                if self._connection.poll(1.0):
                    reply: dict[str, Any] = self._connection.recv()
                    return reply
        except (EOFError, ConnectionResetError):
            self._process.join()
            status = self._process.exitcode or 0
            how = signal.Signals(-status).name if status < 0 else f"status {status}"
            return {"finding": f"the process ended by {how}"}
        self._process.kill()
        self.stop()
        return {"finding": f"no end within {timeout_s:g} s"}

    def _cpu_s(self) -> float:
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.NoSuchProcess:  # what it sent can still be received
            return 0.0
        return float(times.user + times.system)

    @property
    def is_alive(self) -> bool:
        """Whether it can run another case."""
        return self._process.is_alive()

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(END_S)
        self._process.kill()
        self._process.join()


def run(numbers: range, seed: int, folder: Path) -> Tally:
    """Make and run the cases of these numbers.

    Args:
        folder: an empty one, for originals and copies.
    """
    originals = folder / "originals"
    write_originals(originals)
    job = Job(os.fspath(originals), os.fspath(folder), seed)
    tally, worker = Tally(), None
    try:
        for number in tqdm(numbers, unit="file", disable=not sys.stderr.isatty()):
            if worker is None or not worker.is_alive:
                worker = Worker(job)
                tally.workers += 1
                tally.memory_mb.clear()  # memory is compared within one process
            _count(number, worker.run(number), tally)
    finally:
        if worker is not None:
            worker.stop()
    return tally


def _count(number: int, reply: dict[str, Any], tally: Tally) -> None:
    kind = reply.get("kind", "any")
    if reply["finding"]:
        tally.outcomes[f"{kind}: FINDING"] += 1
        tally.findings.append({"number": number, **reply})
        if not sys.stderr.isatty():
            print(f"{reply.get('case', f'case {number}')}: {reply['finding']}", file=sys.stderr, flush=True)
    else:
        tally.outcomes[f"{kind}: {reply['outcome']}"] += 1
    if "memory_mb" in reply:
        tally.memory_mb.append(reply["memory_mb"])
        tally.peak_mb = max(tally.peak_mb, reply["peak_mb"])


def judge(tally: Tally) -> dict[str, Any]:
    """The figures of a run, and its troubles."""
    troubles = [f"{each.get('case', each['number'])}: {each['finding']}" for each in tally.findings]
    third = len(tally.memory_mb) // 3
    growth_mb = 0.0
    if third >= 100:  # before that, libraries and caches are still being filled
        growth_mb = min(tally.memory_mb[-third:]) - min(tally.memory_mb[third : 2 * third])
    if growth_mb > ALLOWED_GROWTH_MB:
        troubles.append(f"memory grew by {growth_mb:.0f} MB, more than the allowed {ALLOWED_GROWTH_MB:g}")
    if tally.peak_mb > MAX_PEAK_MB:
        troubles.append(f"memory reached {tally.peak_mb:.0f} MB, more than the allowed {MAX_PEAK_MB:g}")
    return {
        "files": sum(tally.outcomes.values()),
        "outcomes": dict(sorted(tally.outcomes.items())),
        "workers": tally.workers,
        "memory_mb": {
            "first": tally.memory_mb[0] if tally.memory_mb else 0.0,
            "last": tally.memory_mb[-1] if tally.memory_mb else 0.0,
            "growth": growth_mb,
            "peak": tally.peak_mb,
        },
        "troubles": troubles,
    }


def verdict(figures: dict[str, Any], seconds: float) -> str:
    """The figures as one paragraph."""
    memory = figures["memory_mb"]
    outcomes = ", ".join(f"{count} {name}" for name, count in figures["outcomes"].items())
    found = f"{len(figures['troubles'])} findings" if figures["troubles"] else "no finding"
    return (
        f"{figures['files']} corrupted files in {seconds:.0f} s, {found}. {outcomes}. Memory of the last worker: "
        f"{memory['first']:.0f} MB after its first case, {memory['last']:.0f} MB after its last one; of any worker, "
        f"{memory['peak']:.0f} MB at most."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10000, help="number of corrupted files (default: %(default)d)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all cases (default: %(default)d)")
    parser.add_argument("--only", type=int, help="run the case of this number alone, and show what it printed")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a summary")
    arguments = parser.parse_args()
    if arguments.files < 1:
        raise ParameterError(f"--files is {arguments.files}", "set the number of files", expected="at least 1")
    numbers = range(arguments.files) if arguments.only is None else range(arguments.only, arguments.only + 1)
    begin_s = time.monotonic()
    with TemporaryDirectory(prefix="sal360-fuzz-") as name:
        tally = run(numbers, arguments.seed, Path(name))
    figures = {**judge(tally), "seconds": time.monotonic() - begin_s}
    if arguments.only is not None:
        print(*(line for each in tally.findings for line in each.get("lines", ())), sep="\n")
    if arguments.json:
        print(json.dumps(figures))
    else:
        print(verdict(figures, figures["seconds"]), *figures["troubles"], sep="\n")
    return 1 if figures["troubles"] else 0


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))

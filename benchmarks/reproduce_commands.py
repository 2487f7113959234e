"""Run every command of docs/reproduce.md on small copies of its data sets; exits 1 if any fails.

    python benchmarks/reproduce_commands.py [--folder FOLDER] [--only TEXT] [--preload] [--seed 0]

`gaze_copies.py` makes the copies, irregular as recordings are. The commands are taken from the page and run as they
stand there, with options added at their end that make them short: fewer steps, smaller pictures, fewer records. One
training command of each kind also runs under torchrun with two and three processes, and one of each program is
killed at a random time, asked to stop at another, and resumed; it must end with the weights of the run that was not
disturbed. The table shows how each command ended, the time that it took and the files that it wrote, all of which are
opened. Everything is on the CPU. About 20 minutes on a core; with --preload, which starts commands from a process that
has imported their libraries, about 12.

With --folder, results are kept there, and a second call repeats only what has not succeeded.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import csv
import importlib
import json
import multiprocessing
import os
import random
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np
import psutil
from safetensors.numpy import load_file

from sal360.errors import DataError, clean_end, one_line_errors
from sal360.files import write_text
from training.checkpoint import newest_checkpoint, read_header
from training.curves import read_curves

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs/reproduce.md"
LIMIT_S = 900.0
"""Time after which a command counts as hanging."""
STEPS_PER_EPOCH = 2  # of the 12 panoramas in batches of 6
OUTLIVE_S = 120.0
"""Time in which the children of a command that was killed must have ended: a step, and its checkpoint."""
SHORTEST_S = 0.1
"""Time into a run at which it is disturbed at the latest if it always ended earlier."""
SUM_TOLERANCE = 1e-6
"""Mean difference of weights that the order in which processes add their gradients may make."""
LOSS_TOLERANCE = 0.01  # between numbers of processes, in the first step

# --- the commands of the page ---

_CODE = re.compile(r"`([^`\n]+)`|((?:^    .+\n)+)", re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    """The arguments of every command in the code of a page, each once, in order.

    Raises:
        DataError: the page names a program outside of the commands that were found.
    """
    found: dict[str, list[str]] = {}
    for span, block in _CODE.findall(page):
        for line in (span or block).replace("\\\n", " ").splitlines():
            if re.match(r"(python -m|torchrun|make) ", line.strip()):
                arguments = shlex.split(line)
                found.setdefault(shlex.join(arguments), arguments)
    everywhere = set(re.findall(r"python -m training\.[\w.]+", page))
    named = {" ".join(each[:3]) for each in found.values()}
    if missed := everywhere - named:
        raise DataError(f"the page has {', '.join(sorted(missed))} where no command was found", "see _CODE")
    return list(found.values())


# --- made short ---

_LOOP = ("--loop.batch_size", "6", "--loop.workers", "1", "--loop.log_every_steps", "1")
_THREE_STEPS = (
    *(*_LOOP, "--loop.epochs", "0", "--loop.steps", "3"),
    *("--loop.checkpoint_every_steps", "1", "--loop.keep_checkpoints", "1"),
)
_SMALL_EVALUATION = (
    *("--limit", "3", "--turned", "1", "--cases", "1", "--examples", "1", "--prior_limit", "6", "--draws", "50"),
    *("--panorama_height", "64", "--threads", "1"),
)
SHORT: dict[str, tuple[str, ...]] = {
    "training.pretrain": (
        *(*_LOOP, "--loop.epochs", "2", "--loop.checkpoint_every_steps", str(STEPS_PER_EPOCH)),
        *("--loop.keep_checkpoints", "25", "--data.height", "64", "--model.height", "64", "--views.height", "64"),
    ),
    "training.train_decoder": (*_THREE_STEPS, "--model.input_height", "64", "--measured", "2"),
    "training.train_photographs": (
        *(*_THREE_STEPS, "--model.input_height", "128", "--data.measured", "1", "--data.picture_px", "64"),
    ),
    "training.evaluate": _SMALL_EVALUATION,
    "training.reproduce": (
        *("--epochs", "2", "--early_epochs", "1", "--batch_size", "6", "--workers", "0", "--seeds", "[0]"),
        *("--encoders", "[resnet50]", "--attentions", "[self]"),
    ),
    "training.teach": ("--heights", "[128]"),
    "training.export": ("--calibration_frames", "2"),
    "training.analyse correlation": ("--limit", "3", "--data.height", "64"),
    "training.analyse equator": ("--limit", "3", "--data.height", "64"),
    "training.analyse embedding": ("--limit", "4", "--turned_views", "1", "--data.height", "64"),
    "training.analyse views": ("--panoramas", "2", "--data.height", "160"),
    "training.analyse photographs": ("--draws", "50", "--data.folds", "60"),
    "training.analyse sets": ("--draws", "50", "--limit", "2", "--sizes_px", "[64]"),
    "training.analyse bias": ("--draws", "5"),
}
"""Program → options that are added to its commands."""
OF_PHOTOGRAPHS = ("--data.folds", "60", "--data.picture_width", "80")
"""Options that are added to decoder training on OSIE."""
OF_INT8 = ("--force", "true")
"""Options that are added to an int8 file: a network that has hardly been trained loses more by it."""


def program(arguments: Sequence[str]) -> str:
    """The key of a command in `SHORT`: "training.pretrain", "training.analyse views"."""
    if arguments[:2] != ["python", "-m"]:
        return arguments[0]
    return " ".join(arguments[2:4]) if arguments[2] == "training.analyse" else arguments[2]


def shortened(arguments: Sequence[str], folder: Path) -> list[str]:
    """A command with the names of the copies and the options that make it short."""
    words = [each.replace("EPOCH10", f"{STEPS_PER_EPOCH:08d}") for each in arguments]
    if program(arguments) == "training.data.check":
        places = [folder / name / words[3] for name in ("GAZE", "HEADSET")]
        known = {"salient360": "SALIENT360", "sitzmann": "SITZMANN", "vr_eyetracking": "VR"}
        root = known.get(words[3]) or next(str(each.relative_to(folder)) for each in places if each.is_dir())
        return [root if each == "ROOT" else each for each in words]
    of_photographs = program(arguments) == "training.train_decoder" and "osie" in arguments
    added = OF_PHOTOGRAPHS if of_photographs else OF_INT8 if "int8" in arguments else ()
    return [*words, *SHORT.get(program(arguments), ()), *added]


def option(arguments: Sequence[str], name: str, default: str = "") -> str:
    """The last value of an option."""
    places = [i for i, each in enumerate(arguments[:-1]) if each == f"--{name}"]
    return arguments[places[-1] + 1] if places else default


def kind(arguments: Sequence[str]) -> str:
    """What trainings have in common that run the same code; "" for other programs."""
    what = program(arguments)
    if what == "training.pretrain":
        return f"{what} {option(arguments, 'model.encoder') or option(arguments, 'config')}"
    if what == "training.train_decoder":
        return f"{what} {option(arguments, 'data.dataset')} {option(arguments, 'frozen')}"
    return what if what in ("training.train_photographs", "training.reproduce") else ""


# --- what a command writes ---

_RUN = ("config.yaml", "events.out.tfevents.*", "last/model.safetensors", "last/training_state.pt")
_EVALUATION = ("scores.csv", "summary.csv", "turned.csv", "report.html")
WRITES: dict[str, tuple[str, tuple[str, ...]]] = {
    "training.pretrain": ("loop.run", (*_RUN, "views.png", "summary.png")),
    "training.train_decoder": ("loop.run", (*_RUN, "predictions/*.png")),
    "training.train_photographs": ("loop.run", _RUN),
    "training.average": ("output", ("last/model.safetensors",)),
    "training.teach": ("output", ("",)),
    "training.calibrate": ("output", ("last/model.safetensors",)),
    "training.export": ("output", ("",)),
    "training.convert_salgan": ("output", ("",)),
    "training.evaluate": ("output", _EVALUATION),
    "training.reproduce": (
        "output",
        ("reproduction.md", "reproduction.json", "curves.png", "change.png", "embedding.png"),
    ),
    "training.data.gaze.hmd_logs": ("output", ("fixations.txt", "fixations.png")),
}
"""Program → the option with its folder or file, and the files that the documentation says are in it."""


def troubles_of_files(arguments: Sequence[str], folder: Path) -> tuple[list[str], list[str]]:
    """The files that a command wrote, and what is wrong with them."""
    what = program(arguments)
    name = what.removeprefix("training.analyse ")
    of_analysis = ("output", (f"{name}.csv", f"{name}.png"))
    where, patterns = of_analysis if name != what else WRITES.get(what, ("", ()))
    root, found, troubles = folder / option(arguments, where), [], []
    for pattern in patterns:
        files = sorted(root.glob(pattern)) if pattern else [root]
        files = [each for each in files if each.is_file()]
        found += [each.name for each in files[:1]]
        troubles += [f"no {pattern or root.name}"] if not files else []
        may_be_empty = pattern == "turned.csv" and option(arguments, "models") == "[]"  # only models are turned
        troubles += [f"{each.name}: {trouble}" for each in files if not may_be_empty and (trouble := trouble_of(each))]
    return found, troubles


def trouble_of(path: Path) -> str:
    """What is wrong with a file; "" if it can be used."""
    if path.stat().st_size == 0:
        return "empty"
    if path.suffix == ".png":
        pixels = cv2.imread(str(path))
        if pixels is None:
            return "no picture"
        return "a single colour" if pixels.std() < 1 else ""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            lengths = [len(row) for row in csv.reader(file)]
        return "no rows" if len(lengths) < 2 else "rows of several lengths" * (len(set(lengths)) > 1)
    if path.suffix == ".safetensors":
        return "weights that are not finite" * any(
            not np.isfinite(each).all() for each in load_file(path).values() if each.dtype.kind == "f"
        )
    if path.suffix == ".json":
        json.loads(path.read_text())
    return ""


PROGRAMS = ("training.analyse", "training.data.check", *(name for name in WRITES if name != "training.reproduce"))
"""Modules that are imported once with --preload."""

# --- running ---


@dataclass
class Row:
    """How a command ended."""

    name: str
    start: str
    """python, or the number of processes, or how it was disturbed."""
    status: str = "ok"
    seconds: float = 0.0
    files: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.name} | {self.start}"


class Ended(NamedTuple):
    """A command that has ended."""

    status: int
    seconds: float
    output: str


class Runner:
    """Starts commands in the folder of the copies, and ends them and their children.

    Args:
        folder: where they run.
        preload: start `python -m` from a copy of this process.
    """

    def __init__(self, folder: Path, *, preload: bool) -> None:
        self.folder, self._preload, self._number = folder, preload, 0
        path = os.pathsep.join(filter(None, (os.fspath(REPOSITORY), os.environ.get("PYTHONPATH"))))
        self._environment = {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
        (folder / "logs").mkdir(exist_ok=True)
        for name in PROGRAMS if preload else ():
            importlib.import_module(name)

    def run(self, arguments: Sequence[str], disturb: Callable[[int], None] | None = None) -> Ended:
        """Run a command to its end; `disturb` is called with its process, once it has started."""
        self._number += 1
        log = self.folder / "logs" / f"{self._number:03d}.txt"
        begin_s = time.monotonic()
        child = self._start(arguments, log, preload=self._preload and disturb is None)
        try:
            if disturb:
                disturb(child.pid)
            status = child.wait(LIMIT_S)
        finally:
            _end_tree(child.pid)
            child.wait(10)
        return Ended(status, time.monotonic() - begin_s, log.read_text(errors="replace"))

    def _start(self, arguments: Sequence[str], log: Path, *, preload: bool) -> _Forked | _Spawned:
        if preload and arguments[:2] == ["python", "-m"]:
            return _Forked(arguments[2], arguments[3:], self.folder, log, self._environment)
        words = [sys.executable if each == "python" else each for each in arguments]
        if words[0] == "torchrun":
            words[:1] = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return _Spawned(words, self.folder, log, self._environment)


class _Spawned:
    def __init__(self, words: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        with log.open("wb") as file:
            self._child = subprocess.Popen(
                words,
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C goes to this process only
            )
        self.pid = self._child.pid

    def wait(self, limit_s: float) -> int:
        try:
            return self._child.wait(limit_s)
        except subprocess.TimeoutExpired:
            return 124


class _Forked:
    def __init__(
        self, module: str, options: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]
    ) -> None:
        self._child = multiprocessing.get_context("fork").Process(
            target=_run_module, args=(module, options, folder, log, environment)
        )
        self._child.start()
        assert self._child.pid is not None
        self.pid = self._child.pid

    def wait(self, limit_s: float) -> int:
        self._child.join(limit_s)
        return 124 if self._child.exitcode is None else self._child.exitcode


def _run_module(module: str, options: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> None:
    """`python -m module options` in this process, which is a new one."""
    os.environ.update(environment)
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.modules.pop(module, None)  # it runs as __main__
    sys.argv = [module, *options]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # as at the end of a process that was not forked


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it started, directly or not, in whatever sessions they are."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _end_tree(pid: int) -> None:
    for each in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


def judged(row: Row, ended: Ended, arguments: Sequence[str], folder: Path) -> Row:
    """The row of a command that was to succeed."""
    row.seconds = ended.seconds
    row.files, troubles = troubles_of_files(arguments, folder)
    lines = [line for line in ended.output.splitlines() if line.strip()]
    if ended.status:
        said = [line for line in lines if line.startswith("error: ")] or lines[-1:] or ["nothing"]
        troubles = [f"status {ended.status}: {said[0]}"]
    elif "Traceback" in ended.output:
        troubles.append("a traceback")
    if program(arguments) == "training.data.check" and lines[-1:] != ["complete"]:
        troubles.append("not called complete")
    row.status = "; ".join(troubles) or "ok"
    return row


class Trials:
    """The rows of the table, one after the other.

    Args:
        runner: starts the commands.
        only: text that the names of the rows have.
        seed: of the times at which commands are disturbed.
    """

    def __init__(self, runner: Runner, only: str, seed: int) -> None:
        self._runner, self._folder, self._only = runner, runner.folder, only
        self._random = random.Random(seed)
        self._kept = self._folder / "results.json"
        stored = json.loads(self._kept.read_text()) if self._kept.exists() else []
        self.rows = {row.key: row for row in (Row(**each) for each in stored)}

    def all(self) -> None:
        """Every command of the page, then the trainings with several processes, and disturbed ones."""
        plain = [shortened(each, self._folder) for each in commands(PAGE.read_text(encoding="utf-8"))]
        plain = [one for each in plain for one in (self._of_make(each) if each[0] == "make" else [each])]
        trainings: dict[str, list[str]] = {}
        for arguments in plain:
            self._add(Row(_named(arguments), "python"), partial(self._plain, arguments=arguments))
            trainings.setdefault(kind(arguments), arguments)
        trainings.pop("", None)
        reproduction = trainings.pop("training.reproduce", None)
        programs: dict[str, list[str]] = {}
        for arguments in trainings.values():
            for count in (2, 3):
                row = Row(_named(arguments), f"{count} processes")
                self._add(row, partial(self._several, arguments=arguments, count=count))
            programs.setdefault(program(arguments), arguments)
        for arguments in programs.values():
            for count in (1, 2, 3):
                row = Row(_named(arguments), f"killed, stopped, resumed; {count} process{'es' * (count > 1)}")
                self._add(row, partial(self._disturbed, arguments=arguments, count=count))
        if reproduction:
            row = Row(_named(reproduction), "killed, stopped, resumed; 1 process")
            self._add(row, partial(self._disturbed, arguments=reproduction, count=1))

    def _of_make(self, arguments: Sequence[str]) -> list[list[str]]:
        """The commands that `make weights` runs."""
        plan = self._runner.run(["make", "--dry-run", *arguments[1:]])
        line = next((each for each in plan.output.splitlines() if "training.make_weights" in each), "")
        if not line:
            raise DataError(f"make weights would run {plan.output.strip() or 'nothing'}", "correct the Makefile")
        steps = self._runner.run(["python", *shlex.split(line)[1:], "--dry_run", "true"]).output.splitlines()
        found = [["python", *shlex.split(each)[1:]] for each in steps if "-m training." in each]
        return [shortened(each, self._folder) for each in found]

    def _add(self, row: Row, run: Callable[[Row], None]) -> None:
        before = self.rows.get(row.key)
        if (before and before.status == "ok") or not re.search(self._only, row.key):
            return
        try:
            run(row)
        except Exception as error:  # the other commands are still run
            row.status = f"{type(error).__name__}: {error}"
        self.rows[row.key] = row
        write_text(self._kept, json.dumps([asdict(each) for each in self.rows.values()]))
        print(f"{row.seconds:6.1f} s  {row.key}: {row.status}", file=sys.stderr, flush=True)

    def _plain(self, row: Row, arguments: Sequence[str]) -> None:
        if kind(arguments):
            self._remove(option(arguments, "loop.run") or option(arguments, "output"))
        judged(row, self._runner.run(arguments), arguments, self._folder)

    def _remove(self, place: str) -> None:
        """Remove what an earlier call left of a run."""
        shutil.rmtree(self._folder / place, ignore_errors=True)

    def _several(self, row: Row, arguments: Sequence[str], count: int) -> None:
        run = f"{option(arguments, 'loop.run')}_by{count}"
        self._remove(run)
        words = [*arguments, "--loop.run", run]
        judged(row, self._runner.run(_by(words, count)), words, self._folder)
        if row.status == "ok":
            first = [read_curves(self._folder / each)["loss"][1][0] for each in (option(arguments, "loop.run"), run)]
            if abs(first[1] - first[0]) > LOSS_TOLERANCE * abs(first[0]):
                row.status = f"the loss of the first step is {first[1]:g}, by one process {first[0]:g}"

    def _disturbed(self, row: Row, arguments: Sequence[str], count: int) -> None:
        """Kill a command, ask it to stop, let it end, and compare its weights with those of the undisturbed run."""
        name = "output" if program(arguments) == "training.reproduce" else "loop.run"
        before = option(arguments, name) + (f"_by{count}" if count > 1 else "")
        place = f"{before}_disturbed"
        words = [*_by(arguments, count), f"--{name}", place]
        words += ["--loop.resume", "auto"] if name == "loop.run" else []
        undisturbed = self.rows.get(Row(_named(arguments), f"{count} processes" if count > 1 else "python").key)
        if undisturbed is None or undisturbed.status != "ok":
            row.status = "not tried, because the undisturbed run has not succeeded"
            return
        self._remove(place)
        begin_s, story = time.monotonic(), []
        for number in (signal.SIGKILL, signal.SIGTERM):
            delay_s = self._random.uniform(0, 0.5) * undisturbed.seconds
            disturbance = Disturbance(number, delay_s, partial(self._has_begun, place, self._starts(place)))
            ended = self._runner.run(words, disturbance)
            while not disturbance.has_met_it and delay_s > SHORTEST_S:  # it was faster than the undisturbed run
                self._remove(place)
                delay_s /= 2
                disturbance = Disturbance(number, delay_s, partial(self._has_begun, place, 0))
                ended = self._runner.run(words, disturbance)
            story.append(f"{number.name} {delay_s:.1f} s into the run, left step {_step(self._folder / place)}")
            if number == signal.SIGTERM and count == 1:  # torchrun reports a signal by a traceback
                disturbance.judge(ended)
            if disturbance.trouble:
                row.status = disturbance.trouble
                return
        judged(row, self._runner.run(words), [*arguments, f"--{name}", place], self._folder)
        row.seconds = time.monotonic() - begin_s
        row.files = [*story, *row.files]
        if row.status == "ok":
            limit = SUM_TOLERANCE if count > 1 else 0
            row.status = _difference(self._folder / before, self._folder / place, limit) or "ok"

    def _starts(self, place: str) -> int:
        """How often the runs below a folder have begun: each time has its file of curves."""
        return len(list((self._folder / place).rglob("events.out.tfevents.*")))

    def _has_begun(self, place: str, before: int) -> bool:
        return self._starts(place) > before


class Disturbance:
    """Sends a signal to a command some time after it has begun, and waits for the end of what it had started.

    Args:
        number: the signal.
        delay_s: how long after the beginning, seconds.
        has_begun: whether it has begun; it is asked until then.
    """

    def __init__(self, number: signal.Signals, delay_s: float, has_begun: Callable[[], bool] = lambda: True) -> None:
        self._number, self._delay_s, self._has_begun = number, delay_s, has_begun
        self.has_met_it = False
        """Whether the command was still running when the signal was sent."""
        self.trouble = ""
        """What was wrong with the end of the command; "" if nothing was."""

    def __call__(self, pid: int) -> None:
        while not self._has_begun() and _is_alive(pid):
            time.sleep(0.05)
        end_s = time.monotonic() + self._delay_s
        while time.monotonic() < end_s and _is_alive(pid):
            time.sleep(0.02)
        started = tree(pid)[1:]
        if _is_alive(pid):
            self.has_met_it = True
            os.kill(pid, self._number)
        _, left = psutil.wait_procs(started, timeout=OUTLIVE_S)
        if left and not _is_alive(pid):
            self.trouble = f"{len(left)} of its processes outlived {self._number.name}"
            for each in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            psutil.wait_procs(left, timeout=10)

    def judge(self, ended: Ended) -> None:
        """Look at the end of a command that was asked to stop: with a checkpoint, or before it had begun."""
        if "Traceback" in ended.output:
            self.trouble = "a traceback after SIGTERM"
        elif ended.status not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            self.trouble = f"status {ended.status} after SIGTERM"


def _by(arguments: Sequence[str], count: int) -> list[str]:
    """A training command by several processes, as the documentation starts them."""
    return ["torchrun", "--nproc-per-node", str(count), *arguments[1:]] if count > 1 else list(arguments)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _step(place: Path) -> int:
    """The number of steps of the newest checkpoint below a folder; 0 without one."""
    runs = [place, *(place / "runs").glob("*")]
    return max((read_header(each).step for run in runs if (each := newest_checkpoint(run))), default=0)


def _difference(before: Path, after: Path, limit: float) -> str:
    """How the newest weights below two folders differ; "" if they do not, or by at most `limit` on average."""
    runs = sorted(each.relative_to(before) for each in before.glob("runs/*") if each.is_dir()) or [Path()]
    for run in runs:
        one, other = (newest_checkpoint(each / run) for each in (before, after))
        if one is None or other is None or one.name != other.name:
            return f"ended with {other and other.name}, undisturbed with {one and one.name}"
        weights, found = (load_file(each / "model.safetensors") for each in (one, other))
        off = max(float(np.abs(weights[name] - found[name]).mean()) for name in weights)
        if off > limit:
            return f"weights differ from those of the undisturbed run by {off:g} on average"
    return ""


def _named(arguments: Sequence[str]) -> str:
    """A short name of a command: its program, and where its results are or what it is about."""
    if program(arguments) == "training.data.check":
        return f"data.check {arguments[3]}"
    result = next(filter(None, (option(arguments, name) for name in ("loop.run", "output"))), "")
    return f"{program(arguments).removeprefix('training.')} {result}".strip()


# --- the command ---


def table(rows: Mapping[str, Row]) -> Iterator[str]:
    """The lines of the table, as Markdown."""
    yield "| command | started with | status | s | files |"
    yield "|---|---|---|---|---|"
    for row in rows.values():
        files = ", ".join(row.files)
        yield f"| `{row.name}` | {row.start} | {row.status.replace('|', '/')} | {row.seconds:.0f} | {files} |"


def prepare(folder: Path, seed: int) -> None:
    """Put the copies, the recipes and the runs that other pages describe into a folder, once."""
    from gaze_copies import write_copies

    done = folder / "copies are complete"
    if not done.exists():
        write_copies(folder, seed)
        for name in ("training", "Makefile", "setup.py", "constraints.txt"):  # what the page's commands name
            (folder / name).symlink_to(REPOSITORY / name)
        (folder / "runs").mkdir()
        (folder / "runs/fourth").symlink_to("resnet50_none")  # of docs/pretraining.md, of the same kind
        (folder / "runs/compact").symlink_to("compact_frozen")  # of the README
        done.touch()


def run(arguments: argparse.Namespace, folder: Path) -> int:
    """Run what has not succeeded yet, and print the table; 1 if something failed."""
    prepare(folder, arguments.seed)
    trials = Trials(Runner(folder, preload=arguments.preload), arguments.only, arguments.seed)
    trials.all()
    print("\n".join(table(trials.rows)))
    return int(any(row.status != "ok" for row in trials.rows.values()) or not trials.rows)


def main(argv: Any = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep copies, runs and results here (default: a temporary folder)")
    parser.add_argument("--only", default="", help="only the rows whose name has this regular expression")
    parser.add_argument("--preload", action="store_true", help="import the libraries of the commands only once")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the copies and of the times (default: %(default)d)"
    )
    with clean_end():
        arguments = parser.parse_args(argv)
        if arguments.folder:
            arguments.folder.mkdir(parents=True, exist_ok=True)
            return run(arguments, arguments.folder.resolve())
        with TemporaryDirectory(prefix="sal360-reproduce-") as name:
            return run(arguments, Path(name))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))

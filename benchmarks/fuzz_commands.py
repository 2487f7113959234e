"""Runs the commands of this project on a corrupted file, in this process, and judges how they end; for `fuzz_files.py`.

A command either succeeds with everything that it promises, or ends with a status above 0 and one line on stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from fuzz_cases import FRAMES, GAZE, TOPIC, Case

from sal360.cli import evaluate, main
from sal360.errors import FrameError, one_line_errors
from sal360.images import read_picture
from sal360.sources import open_source
from training.data.gaze.datasets import DATASETS
from training.data.gaze.photographs_with_fixations import read_photographs
from training.data.gaze.salient360 import Salient360
from training.data.gaze.sitzmann import Sitzmann
from training.data.gaze.vr_eyetracking import VrEyeTracking
from training.data.panoramas import PanoramaConfig, open_panoramas

MAX_LOST_PIXELS = 0.13
"""Share of a cut picture of 128 x 64 that may differ: a JPEG's last block with halved chroma, and what is beside it."""
UNCOUNTED = (".flv", ".mpg", ".ts", ".wmv")
"""Formats for streaming, in which nothing counts frames or bytes, so that one may be lost without a trace."""
_OUR_LINES = ("error: ", "skipped ", "note: ", "left out of ", "  skipped ")
_REMARKS = ("note: ", "left out of ")
_SUMMARY = re.compile(r"\d+ panoramas, \d+ unusable files skipped")
_MAX_FRAMES = 100
"""More of one file are not read: a duplicated block can make a video of hours."""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    command: str
    status: int
    lines: tuple[str, ...]
    """The output of the command and its libraries on stderr."""
    crash: str
    """A traceback, if an exception came through."""
    lacks: str
    """Missing results, although the status is 0."""
    is_unnoticed: bool = False
    """Whether frames are missing, and nothing in the file shows it."""


Command = Callable[[], int | None]


class Commands:
    """Chooses and runs the commands for a case.

    Args:
        originals: the folder that `write_originals` filled.
        folder: for outputs; it is emptied before each case.
    """

    def __init__(self, originals: Path, folder: Path) -> None:
        self._originals, self._output = originals, folder
        self._counted: list[str] = []
        self._is_unnoticed = False
        evaluate.plots_of = lambda *_: {}  # drawing takes seconds and reads nothing

    def run(self, case: Case, rng: random.Random) -> Result:
        """Run one command on the case and look at what it left."""
        shutil.rmtree(self._output, ignore_errors=True)
        self._counted, self._is_unnoticed = [], False
        name, command, lacks = self._choose(case, rng)
        status, crash = 2, ""
        with _captured(self._output.with_suffix(".stderr")) as said:
            try:
                status = one_line_errors(command)
            except BaseException:
                crash = traceback.format_exc()
        lines = tuple(line for line in said() if line.strip())
        missing = ""
        if not crash and status == 0:
            try:
                missing = lacks()
            except Exception as error:
                missing = f"its output cannot be read ({type(error).__name__}: {error})"
        return Result(name, status, lines, crash, missing, self._is_unnoticed)

    def _choose(self, case: Case, rng: random.Random) -> tuple[str, Command, Callable[[], str]]:
        choices: dict[str, list[tuple[str, Callable[..., tuple[Command, Callable[[], str]]]]]] = {
            "picture": [("predict", self._predict)] * 4 + [("source", self._source), ("panoramas", self._panoramas)],
            "video": [("predict", self._predict)] * 2 + [("source", self._source)] * 2 + [("evaluate", self._evaluate)],
            "bag": [("source", self._source)] * 2 + [("evaluate", self._evaluate)] * 2 + [("predict", self._predict)],
            "model": [("predict", self._predict)],
            "gaze": [("evaluate", self._evaluate)],
            "dataset": [("check", self._check), ("records", self._records)],
        }
        name, make = rng.choice(choices[case.kind])
        return name, *make(case, rng)

    # --- the commands ---

    def _model(self, case: Case, rng: random.Random) -> list[str]:
        backend = rng.choice(
            ("openvino", "onnxruntime") if case.kind == "model" else ("onnxruntime",) * 7 + ("openvino",)
        )
        path = case.path if case.kind == "model" else self._originals / "model.onnx"
        return ["--model", str(path), "--backend", backend, "--threads", "1"]

    def _predict(self, case: Case, rng: random.Random) -> tuple[Command, Callable[[], str]]:
        path = self._originals / "picture/PNG.png" if case.kind == "model" else case.path
        arguments = ["predict", str(path), "--output", str(self._output), *self._model(case, rng)]

        def lacks() -> str:
            if (self._output / f"{path.stem}_stamps.npy").exists():
                return self._lacks_of_video(case)
            return self._lacks_of_picture(case, path)

        return lambda: main(arguments), lacks

    def _source(self, case: Case, rng: random.Random) -> tuple[Command, Callable[[], str]]:
        """The reader of the camera node and the demo."""
        height_px = rng.choice((0, 0, 16, 100))
        topic = TOPIC if GAZE in case.original else ""

        def command() -> int:
            bad: list[FrameError] = []
            frames = open_source(
                case.path, topic=topic, height_px=height_px, on_bad_frame=lambda error, _: bad.append(error)
            )
            for frame, _ in zip(frames, range(_MAX_FRAMES), strict=False):
                assert frame.image.ndim == 3, frame.image.shape
                self._counted.append(frame.name)
            if bad:
                print(f"skipped {len(bad)} frames: {bad[0]}", file=sys.stderr)
            return 1 if bad else 0

        return command, lambda: self._lacks_frames(case, len(self._counted))

    def _evaluate(self, case: Case, rng: random.Random) -> tuple[Command, Callable[[], str]]:
        # the other protocol takes seconds for each frame, and reads nothing more
        truth = ["--ground-truth", str(case.path), "--protocol", "standard"] if case.kind == "gaze" else []
        if GAZE in case.original:
            topics = rng.choice((["/gaze/points"], ["/gaze/maps"], ["/gaze/points", "/gaze/maps"]))
            truth = ["--topic", TOPIC, "--protocol", "standard", *(f"--ground-truth={each}" for each in topics)]
        path = self._originals / "recording" if case.kind == "gaze" else case.path
        outputs = ["--no-video", "--no-bag"] if rng.random() < 0.7 else []
        arguments = ["evaluate", str(path), "--output", str(self._output), *outputs, *truth, *self._model(case, rng)]

        def lacks() -> str:
            figures = json.loads((self._output / "report.json").read_text())["figures"]
            if truth and not any(name.startswith("standard_") for name in figures):
                return "the report has no figure of the ground truth"
            return self._lacks_frames(case, figures["frames"])  # those that are rejected are in the report, by reason

        return lambda: main(arguments), lacks

    def _panoramas(self, case: Case, _: random.Random) -> tuple[Command, Callable[[], str]]:
        """The reader of pretraining: the corrupted picture is among enough good ones to be skipped."""
        folder = self._output / "panoramas"
        good = self._originals / "picture/PNG.png"

        def command() -> int:
            folder.mkdir(parents=True)
            for number in range(10):
                (folder / f"good{number}.png").symlink_to(good)
            (folder / f"spoilt{case.path.suffix}").symlink_to(case.path)
            panoramas = open_panoramas(PanoramaConfig(str(folder), 32))
            self._counted = [*panoramas.paths, *panoramas.unusable]
            assert all(panoramas[index].shape == (32, 64, 3) for index in range(len(panoramas)))
            return 1 if panoramas.unusable else 0

        is_picture = case.path.suffix not in (".mp4", ".avi", ".mcap", ".db3", ".bag", ".onnx", ".npy")
        return command, lambda: "" if len(self._counted) == 10 + is_picture else "a picture is not counted"

    def _check(self, case: Case, _: random.Random) -> tuple[Command, Callable[[], str]]:
        """`python -m training.data.check`, whose report goes to stdout."""

        def command() -> int:
            found = DATASETS[case.original].inventory(case.path)
            assert not found.is_complete  # one panorama is not the whole data set
            print("not complete", file=sys.stderr)
            return 1

        return command, lambda: ""

    def _records(self, case: Case, _: random.Random) -> tuple[Command, Callable[[], str]]:
        """The readers of training."""
        openers: dict[str, Callable[[], Any]] = {
            "salient360": partial(Salient360, case.path, "all", panorama_height=32),
            "sitzmann": partial(Sitzmann, case.path, map_height=32, panorama_height=32),
            "vr_eyetracking": partial(VrEyeTracking, case.path, "train", frame_step=2, map_height=32),
        }

        def command() -> int:
            if case.original == "osie":
                for photograph in read_photographs(case.path):
                    self._counted.append(photograph.name)
                    photograph.read(40)
                    assert np.isfinite(photograph.density(40)).all()
                return 0
            for record in openers[case.original]():
                self._counted.append(record.name)
                assert record.panorama().shape[2] == 3
                assert record.density is None or np.isfinite(record.density).all()
            return 0

        return command, lambda: "" if self._counted else "no record was read"

    # --- what is missing after a success ---

    def _lacks_of_picture(self, case: Case, path: Path) -> str:
        problem = _map_problem(np.load(self._output / f"{path.stem}.npy"), 2)
        overlay = read_picture(self._output / f"{path.stem}_overlay.png")
        pixels = read_picture(path)
        if overlay.shape != pixels.shape:
            problem = f"the overlay is {overlay.shape}, the picture {pixels.shape}"
        if case.kind == "picture" and set(case.mutations) <= {"cut", "append_zeros", "rename"}:
            problem = problem or self._lost_pixels(case, pixels)
        return problem

    def _lost_pixels(self, case: Case, pixels: Any) -> str:
        """A file that was cut may lack what stands behind the picture, and not more than its last block."""
        whole = read_picture(self._originals / "picture" / case.original)
        if pixels.shape != whole.shape:
            return f"the cut picture is {pixels.shape}, the whole one {whole.shape}"
        lost = float((np.abs(pixels.astype(int) - whole) > 8).any(axis=2).mean())
        return f"{lost:.0%} of the pixels of the cut picture are lost" if lost > MAX_LOST_PIXELS else ""

    def _lacks_of_video(self, case: Case) -> str:
        stem = case.path.stem
        maps = np.load(self._output / f"{stem}.npy")
        stamps = np.load(self._output / f"{stem}_stamps.npy")
        with av.open(str(self._output / f"{stem}_overlay.mp4")) as container:
            drawn = sum(1 for _ in container.decode(video=0))
        if not len(maps) == len(stamps) == drawn:
            return f"{len(maps)} maps, {len(stamps)} stamps, {drawn} overlays"
        return _map_problem(maps, 3) or self._lacks_frames(case, len(maps))

    def _lacks_frames(self, case: Case, count: int) -> str:
        """Fewer frames than the original has are a loss, no matter which byte was corrupted."""
        expected = FRAMES if case.kind in ("video", "bag", "gaze") else 1
        if count < expected and case.original.endswith(UNCOUNTED):
            self._is_unnoticed = True
            return ""
        return f"{count} of {expected} frames" if count < expected else ""


def _map_problem(maps: Any, axes: int) -> str:
    if maps.ndim != axes or maps.shape[-1] != 2 * maps.shape[-2] or maps.dtype != np.float32:
        return f"the map is {maps.shape} {maps.dtype}"
    return "" if np.isfinite(maps).all() and maps.min() >= 0 else "the map is not finite, or negative"


@contextlib.contextmanager
def _captured(path: Path) -> Iterator[Callable[[], list[str]]]:
    """Keep what is written to stderr, by C libraries too, and drop stdout; gives a function that returns the lines."""
    with open(path, "w+b") as file, open(os.devnull, "wb") as null:
        kept = [(os.dup(number), number) for number in (1, 2)]
        os.dup2(null.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: path.read_text(errors="replace").splitlines()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for copy, number in kept:
                os.dup2(copy, number)
                os.close(copy)


# --- the judgement ---


def finding(result: Result) -> str:
    """The problem with the end of a command; "" if there is none."""
    if result.crash:
        return f"traceback: {result.crash.strip().splitlines()[-1]}"
    if any("Traceback" in line for line in result.lines):
        return "traceback on stderr"
    foreign = [each for each in result.lines if not (each.startswith(_OUR_LINES) or _SUMMARY.match(each))]
    if result.command == "check":
        foreign = [each for each in foreign if each != "not complete"]
    if foreign:
        return f"{len(foreign)} lines on stderr are not ours: {foreign[0][:160]}"
    if result.status == 0:
        return f"status 0, but {result.lacks}" if result.lacks else ""
    return _wrong_number_of_lines(result)


def _wrong_number_of_lines(result: Result) -> str:
    """One line says why; recordings may have several damages, each with a line, and training lists what it skips."""
    lines = [each for each in result.lines if not each.startswith(_REMARKS) and not _SUMMARY.match(each)]
    if not lines:
        return f"status {result.status} without a word"
    if len(lines) > 1 and len(set(lines)) < len(lines):
        return f"a line twice: {lines[0][:160]}"
    limit = {"evaluate": 3, "predict": 2}.get(result.command, 1)
    return f"{len(lines)} lines on stderr: {lines[0][:160]}" if len(lines) > limit else ""


def outcome(result: Result) -> str:
    """A word for the table of outcomes."""
    if result.is_unnoticed:
        return "fewer frames, which the file does not show"
    return {0: "complete", 1: "skipped, one line"}.get(result.status, "refused, one line")

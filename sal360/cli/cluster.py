"""Maps of very many pictures, videos and shards with Ray, on one machine or a cluster: `sal360 predict --ray`.

Ray Data starts one model for each worker, gives it some inputs at a time, and gives those of a worker that dies to
another. This module finds the inputs that have no results yet, and handles those that a worker gets.

The file that means that an input is done is written last and whole: so an interrupted command continues, and what a
worker had done before it died is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import json
import logging
import os
import posixpath
import re
import sys
import tarfile
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from sal360.arrays import Density, Pixels
from sal360.cameras.equirectangular import read_gpano
from sal360.cameras.lookup import equirectangular_view, lookup_for
from sal360.cameras.settings import kept_camera
from sal360.cli.options import model_options, refuse_useless
from sal360.cli.predict import (
    METADATA_BYTES,
    THIS_MACHINE,
    Input,
    Outcome,
    unique_names,
    useless_for,
    write_video_maps,
)
from sal360.cli.video_maps import MAPS_SUFFIX, STAMPS
from sal360.errors import DataError, FrameError, ModelError, ParameterError, Sal360Error, printable, require_modules
from sal360.images import decode_picture
from sal360.outputs.overlay import draw_overlay
from sal360.picture_formats import PICTURE_SUFFIXES
from sal360.predictor import Predictor
from sal360.replay.plots import MAX_WIDTH
from sal360.sources import stores
from sal360.sources.pictures import is_hidden, is_overlay
from sal360.sources.stream_address import masked
from sal360.sources.video import VIDEO_SUFFIXES

_SHARD = ".tar"
_SHARD_MAPS = "_maps.tar"
_LIST = ".txt"
_ERRORS = "_errors.txt"
"""Appended to the name of a shard or video for the list of its pictures or frames that have no maps."""
_FAILURES = "failures.txt"
_MOST_TOGETHER = 16
"""Pictures that a worker gets at once, so that few are repeated if it dies, and that a GPU predicts together."""
_MOST_TASKS = 10_000
"""For more, Ray's own work for each task would count: then each has more pictures."""
_RETRIES = 2
"""How often a worker may die of the same inputs."""
_MOST_LOST = 100
"""How many tasks may be lost until the command ends: then it is not the inputs."""


class Unit(NamedTuple):
    """An input that one worker handles, and the name of its results, without an ending."""

    address: str
    name: str

    @property
    def kind(self) -> str:
        """What it is by its suffix."""
        address = self.address.lower()
        return "shard" if address.endswith(_SHARD) else "video" if address.endswith(VIDEO_SUFFIXES) else "picture"

    def last_file(self, maps: str) -> str:
        """The file that is written last, and so means that the unit is done; `maps` is the option's value."""
        endings = {"npy": ".npy", "npz": ".npz", "video": MAPS_SUFFIX}
        ending = {"shard": _SHARD_MAPS, "video": endings[maps], "picture": ".npy"}[self.kind]
        return self.name + ending


# --- which inputs there are ---


def find_units(inputs: Iterable[str], *, recursive: bool, output: str = "") -> list[Unit]:
    """The pictures, videos and shards (.tar) among the inputs, in their folders and lists (.txt), sorted by address.

    A list has one address per line; those without a protocol are relative to it. Results are named after their files,
    as seen from the folder or list; a number is added if an earlier one has the same name. The same inputs always get
    the same names.

    Args:
        inputs: addresses as `stores.whole_address` returns them.
        recursive: search the subfolders of folders, too.
        output: folder of the results, which is left out where it lies in a folder that is searched.

    Raises:
        DataError: an input does not exist, is neither a file nor a folder, or nothing is found.
    """
    inputs = list(inputs)
    found: dict[str, str] = {}
    for each in inputs:
        for address, name in _found_in(each, recursive):
            if not (_is_below(output, each) and _is_below(address, output)):
                found.setdefault(address, name)
    if not found:
        advice = "check the paths" if recursive else "check the paths, or add --recursive to search subfolders"
        raise DataError(f"{', '.join(map(masked, inputs))}: no pictures, videos or shards are there", advice)
    wanted = [Unit(*item) for item in sorted(found.items())]
    names = unique_names((each.name for each in wanted), (STAMPS if each.kind == "video" else "" for each in wanted))
    return [Unit(each.address, name) for each, name in zip(wanted, names, strict=True)]


def _found_in(address: str, recursive: bool) -> Iterator[tuple[str, str]]:
    """Address and name of every unit in an input."""
    if not _is_input(address) and stores.is_folder(address):
        for file in _picked(stores.files_in(address, recursive=recursive, hidden=False)):
            yield posixpath.join(address, file), _stem(file)
    elif not stores.exists(address):
        raise DataError(f"{masked(address)} does not exist", "check the path")
    elif Path(address).exists() and not Path(address).is_file():
        raise DataError(f"{address} is no file", "save it as a file, or predict it without --ray")
    elif address.lower().endswith(_LIST):
        yield from _listed_in(address)
    else:
        yield address, _stem(posixpath.basename(address))


def _is_below(address: str, folder: str) -> bool:
    return address.startswith(f"{folder.rstrip('/')}/")


def _listed_in(address: str) -> Iterator[tuple[str, str]]:
    folder = posixpath.dirname(address)
    for line in stores.read(address).decode("utf-8", "surrogateescape").splitlines():
        if entry := line.strip():
            is_whole = "://" in entry or entry.startswith("/")
            whole = stores.whole_address(entry if is_whole else _normal(posixpath.join(folder, entry)))
            _, protocol, name = whole.removeprefix(f"{folder}/").rpartition("://")
            if protocol:
                name = re.sub("^[^/]*@", "", name)  # user name and password
            yield whole, _stem(posixpath.normpath(f"/{name}").lstrip("/"))


def _normal(address: str) -> str:
    protocol, separator, path = address.rpartition("://")
    return protocol + separator + posixpath.normpath(path)


def _picked(files: Collection[str]) -> list[str]:
    """The pictures, videos and shards among the files of a folder, but no results of earlier commands."""
    found = [each for each in files if _is_input(each)]
    beside: dict[str, set[str]] = {}
    for each in files:
        folder, name = posixpath.split(each)
        beside.setdefault(folder, set()).add(name)
    return [each for each in found if not _is_result(posixpath.basename(each), beside[posixpath.dirname(each)])]


def _is_input(file: str) -> bool:
    return file.lower().endswith((*PICTURE_SUFFIXES, *VIDEO_SUFFIXES, _SHARD))


def _is_result(name: str, beside: set[str]) -> bool:
    is_map_shard = name.endswith(_SHARD_MAPS) and name.removesuffix(_SHARD_MAPS) + _SHARD in beside
    return is_map_shard or is_overlay(Path(name), beside)


def _stem(path: str) -> str:
    return posixpath.splitext(path)[0]


def tasks(units: Sequence[Unit], workers: int) -> list[list[Unit]]:
    """What a worker gets at once: a video, a shard, or a few pictures, so that every worker gets some several times.

    Videos and shards, which take long, come first.
    """
    pictures = [each for each in units if each.kind == "picture"]
    size = max(1, min(_MOST_TOGETHER, len(pictures) // (4 * workers)), -(-len(pictures) // _MOST_TASKS))
    groups = [pictures[start : start + size] for start in range(0, len(pictures), size)]
    return [[each] for each in units if each.kind != "picture"] + groups


# --- what a worker does ---


class _Prepared(NamedTuple):
    """A decoded picture, or what prevents it."""

    error: str = ""
    is_done: bool = False
    """Whether it has a map already."""
    pixels: Pixels | None = None
    """BGR at the model's size."""
    view: Pixels | None = None
    """The picture for the overlay, if one is wanted."""
    to_camera: Callable[[Density], Density] | None = None


class Worker:
    """One model, and what is done with each task. Pictures are read, decoded and written while the model runs.

    Args:
        options: the options of `sal360 predict`, with the address of the results as `output`.
        threads: number of threads that read, decode and write.
        together: number of pictures that the model takes at once.
    """

    def __init__(self, options: argparse.Namespace, threads: int = 1, together: int = 1) -> None:
        self._options = options
        self._refusal = ""
        try:
            self._predictor = Predictor(**model_options(options))
        except Sal360Error as error:  # answered, because Ray prints a traceback for what is raised here
            self._refusal = str(error)
        self._threads = ThreadPoolExecutor(max(2, threads))
        self._together = together
        self._ahead = together + 2 * threads

    def __call__(self, task: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The number of each unit of the task, and its errors, one per line; only -1 and the error if the model fails.

        Args:
            task: `units`, as `_row` wrote them.
        """
        if not self._refusal:
            try:
                return self._answers(json.loads(task["units"]))
            except ModelError as error:
                self._refusal = str(error)
        return [{"unit": -1, "errors": self._refusal}]

    def _answers(self, entries: Sequence[tuple[int, tuple[str, str]]]) -> list[dict[str, Any]]:
        units = [Unit(address, name) for _, (address, name) in entries]
        if units[0].kind == "picture":
            errors = self._handle_pictures(units)
        else:
            errors = [self._handle_whole(unit) for unit in units]
        return [
            {"unit": number, "errors": "\n".join(map(printable, lines))}  # Arrow refuses names that are not UTF-8
            for (number, _), lines in zip(entries, errors, strict=True)
        ]

    def _place(self, name: str) -> str:
        return posixpath.join(self._options.output, name)

    def _is_done(self, unit: Unit) -> bool:
        return stores.exists(self._place(unit.last_file(self._options.maps)))

    def _handle_whole(self, unit: Unit) -> list[str]:
        """The errors of a shard or video, which a file beside its maps lists, too, if some of it has maps."""
        handle = self._handle_shard if unit.kind == "shard" else self._handle_video
        try:
            return [] if self._is_done(unit) else handle(unit)
        except ModelError:  # which would be that of all others
            raise
        except Exception as error:
            return [stores.describe(error, unit.address)]

    def _write_errors(self, unit: Unit, errors: Sequence[str]) -> None:
        if errors:
            stores.write(self._place(unit.name + _ERRORS), _lines(errors))
        else:
            stores.remove(self._place(unit.name + _ERRORS))

    def _handle_pictures(self, units: Sequence[Unit]) -> list[list[str]]:
        contents = ((unit.address, functools.partial(self._content, unit)) for unit in units)
        answers = []
        for unit, (picture, density) in zip(units, self._predicted(contents), strict=True):
            saved = density is not None and self._threads.submit(self._save, unit, density, picture.view)
            answers.append(saved or (picture.error and _named(picture.error, masked(unit.address))))
        return [_errors_of(answer) for answer in answers]

    def _content(self, unit: Unit) -> bytes | None:
        return None if self._is_done(unit) else stores.read(unit.address)

    def _save(self, unit: Unit, density: Density, view: Pixels | None) -> str:
        try:
            if view is not None:
                overlay = draw_overlay(view, density, full_scale=self._options.full_scale)
                stores.write(self._place(f"{unit.name}_overlay.png"), cv2.imencode(".png", overlay)[1].tobytes())
            stores.write(self._place(unit.last_file(self._options.maps)), _npy(density))
        except Exception as error:
            return stores.describe(error, self._place(unit.name))
        return ""

    def _predicted(
        self, pictures: Iterable[tuple[str, Callable[[], bytes | None]]]
    ) -> Iterator[tuple[_Prepared, Density | None]]:
        """The maps of pictures in order; None for those that are done already, or have an error.

        Args:
            pictures: address, for messages, and what reads the encoded picture, or returns None if it is done already.
        """
        waiting: deque[Future[_Prepared]] = deque()
        for address, content in pictures:
            waiting.append(self._threads.submit(self._prepared, address, content))
            if len(waiting) >= self._ahead:
                yield from self._densities([waiting.popleft().result() for _ in range(self._together)])
        while waiting:
            number = min(self._together, len(waiting))
            yield from self._densities([waiting.popleft().result() for _ in range(number)])

    def _prepared(self, address: str, read: Callable[[], bytes | None]) -> _Prepared:
        options, spec = self._options, self._predictor.spec
        try:
            content = read()
            if content is None:
                return _Prepared(is_done=True)
            picture = decode_picture(content, masked(address), max_pixels=options.max_pixels)
            try:
                camera = kept_camera(options.camera, *picture.shape[:2], read_gpano(content[:METADATA_BYTES]))
                lookup = lookup_for(camera, spec.input_height, spec.input_width)
                pixels = lookup(picture)
            except FrameError as error:
                raise error.about(masked(address)) from None
            view = equirectangular_view(camera, picture, MAX_WIDTH) if options.overlays else None
        except Exception as error:
            return _Prepared(stores.describe(error, address))
        return _Prepared("", False, pixels, view, lookup.to_camera)

    def _densities(self, pictures: Sequence[_Prepared]) -> Iterator[tuple[_Prepared, Density | None]]:
        usable = [each for each in pictures if each.pixels is not None]
        maps = iter(self._maps([each.pixels for each in usable if each.pixels is not None]))
        for each in pictures:
            density = next(maps) if each.to_camera is not None else None
            if isinstance(density, str):
                yield each._replace(error=density), None
            elif density is None or each.to_camera is None:
                yield each, None
            else:
                yield each, each.to_camera(density)

    def _maps(self, frames: Sequence[Pixels]) -> list[Density | str]:
        """The map, or the error, of each frame."""
        if not frames:
            return []
        try:
            return list(self._predictor.predict_batch(frames, ["bgr"] * len(frames)))
        except FrameError as error:
            if len(frames) == 1:
                return [str(error)]
        return [each for frame in frames for each in self._maps([frame])]

    def _handle_shard(self, unit: Unit) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder, "maps.tar")
            count, errors = self._pack(unit, packed)
            if not count:
                return errors or [f"{masked(unit.address)} has no pictures; leave it out"]
            self._write_errors(unit, errors)
            stores.put(packed, self._place(unit.last_file(self._options.maps)))
        return errors

    def _pack(self, unit: Unit, packed: Path) -> tuple[int, list[str]]:
        """Write the maps of the pictures in a tar file as a tar file, KEY.npy for KEY.jpg; their number, and errors."""
        shown = masked(unit.address)
        names: deque[str] = deque()
        errors: list[str] = []
        taken: set[str] = set()
        with (
            stores.open_file(unit.address) as file,
            _opened_shard(file, shown) as shard,
            tarfile.open(packed, "w") as maps,
        ):
            for picture, density in self._predicted(_shard_pictures(shard, shown, names, errors)):
                name = names.popleft()
                if density is None:
                    errors.append(_named(picture.error, f"{shown}:{name}"))
                    continue
                key = f"{_stem(name)}.npy"
                _add(maps, f"{name}.npy" if key in taken else key, _npy(density))
                taken.add(key)
        return len(taken), errors

    def _handle_video(self, unit: Unit) -> list[str]:
        """Write what `sal360 predict` writes, first into a temporary folder."""
        with tempfile.TemporaryDirectory() as name:
            results = Path(name, "results")
            results.mkdir()
            video = stores.fetch(unit.address, Path(name))
            options = argparse.Namespace(**{**vars(self._options), "output": results})
            outcome, errors = Outcome(), []
            try:
                write_video_maps(Input(video, "video"), self._predictor, options, outcome)
            except (FrameError, DataError) as error:
                errors.append(str(error).replace(str(video), masked(unit.address)))
            if not outcome.written:
                return errors
            if outcome.skipped:
                frames = f"{outcome.skipped} of {outcome.skipped + outcome.written} frames"
                errors.append(f"{masked(unit.address)}: {frames} are unusable; the others have maps")
            self._write_errors(unit, errors)
            last = Unit("video.mp4", "video").last_file(options.maps)
            for file in sorted(results.iterdir(), key=lambda each: each.name == last):
                stores.put(file, self._place(unit.name + file.name.removeprefix("video")))
        return errors


def _errors_of(answer: Future[str] | str) -> list[str]:
    error = answer if isinstance(answer, str) else answer.result()
    return [error] if error else []


def _named(error: str, name: str) -> str:
    name = printable(name)
    return error if name in error else f"{name}: {error}"


class _Entry(tarfile.TarInfo):
    """An entry of a shard. A damaged one is an error; tarfile would take it for the end."""

    @classmethod
    def fromtarfile(cls, shard: tarfile.TarFile) -> _Entry:
        """The next entry."""
        try:
            return super().fromtarfile(shard)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from None


def _opened_shard(file: Any, shown: str) -> tarfile.TarFile:
    """Read from beginning to end, as object stores are read best."""
    try:
        return tarfile.open(fileobj=file, mode="r|*", tarinfo=_Entry)
    except tarfile.TarError as error:
        raise DataError(f"{shown} is no tar file ({error})", "copy it again, or leave it out") from None


def _shard_pictures(
    shard: tarfile.TarFile, shown: str, names: deque[str], errors: list[str]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The encoded pictures up to the end or a damaged place; their names and that error are appended to the lists."""
    try:
        for entry in filter(_is_shard_picture, shard):
            file = shard.extractfile(entry)
            assert file is not None
            content = file.read()  # in order, here, because it is one stream
            names.append(entry.name)
            yield f"{shown}:{entry.name}", functools.partial(bytes, content)
    except tarfile.TarError as error:
        errors.append(str(DataError(f"{shown} is damaged or cut ({error})", "copy it again")))


def _is_shard_picture(entry: tarfile.TarInfo) -> bool:
    is_shown = not any(map(is_hidden, entry.name.removeprefix("./").split("/")))
    return entry.isfile() and is_shown and entry.name.lower().endswith(PICTURE_SUFFIXES)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _npy(density: Density) -> bytes:
    content = io.BytesIO()
    np.save(content, density)
    return content.getvalue()


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(f"{each}\n" for each in texts).encode("utf-8", "backslashreplace")


# --- the command ---


def predict_on_ray(options: argparse.Namespace) -> int:
    """Predict everything that has no results yet; 1 if something has no maps at the end.

    Raises:
        DataError: nothing is found.
        ParameterError: an option does not go with Ray, or there is no cluster at the address.
        Sal360Error: the workers cannot run.
        ImportError: Ray, or PyAV for videos, is not installed.
    """
    _check(options)
    require_modules("ray.data", "fsspec")
    options = _everywhere(options)
    inputs = map(stores.whole_address, options.inputs)
    units = find_units(inputs, recursive=options.recursive, output=options.output)
    has_video = any(each.kind == "video" for each in units)
    refuse_useless(options, useless_for(options, has_video=has_video, is_live=False))
    stores.check_is_writable(options.output)
    files = set(stores.files_in(options.output))
    left = [each for each in units if each.last_file(options.maps) not in files]
    errors: dict[Unit, str] = {}
    if any(each.kind == "video" for each in left):
        require_modules("av")  # before the pictures among them are predicted
    if left:
        errors = _with_progress(left, options, len(units))
        files = set(stores.files_in(options.output))
    failures = list(_failures(units, files, errors, options))
    _write_failures(failures, options.output, files)
    done = sum(each.last_file(options.maps) in files for each in units)
    shown = printable(masked(options.output))
    number = "1 error is" if len(failures) == 1 else f"{len(failures)} errors are"
    listed = f"; {number} listed in {posixpath.join(shown, _FAILURES)}" if failures else ""
    print(f"{done} of {len(units)} inputs have maps in {shown}, {len(units) - len(left)} of them from before{listed}")
    return 1 if failures else 0


def _check(options: argparse.Namespace) -> None:
    if options.device.startswith("cuda:"):
        raise ParameterError(f"--device is {options.device}", "set cuda: Ray gives each worker a GPU that is free")


def _everywhere(options: argparse.Namespace) -> argparse.Namespace:
    """The options with paths that are valid in every folder."""
    changed: dict[str, Any] = {"output": stores.whole_address(str(options.output))}
    if options.model:
        changed["model"] = os.path.abspath(options.model)
    if options.camera.file:
        changed["camera"] = dataclasses.replace(options.camera, file=os.path.abspath(options.camera.file))
    return argparse.Namespace(**{**vars(options), **changed})


def _with_progress(left: Sequence[Unit], options: argparse.Namespace, total: int) -> dict[Unit, str]:
    """Predict the units; the errors of each that was answered, one per line."""
    errors: dict[Unit, str] = {}
    # a job's log is no terminal, and gets a line per minute
    interval_s = 0.1 if sys.stderr.isatty() else 60
    with tqdm(total=total, initial=total - len(left), unit="input", mininterval=interval_s) as bar:
        for unit, text in _answers(left, options):
            errors[unit] = text
            for line in text.splitlines():
                tqdm.write(f"skipped: {printable(line)}", file=sys.stderr)
            bar.update()
    return errors


def _failures(
    units: Iterable[Unit], files: set[str], errors: Mapping[Unit, str], options: argparse.Namespace
) -> Iterator[str]:
    """Everything that has no maps, and why, in lines."""
    for unit in units:
        is_done = unit.last_file(options.maps) in files
        if unit.name + _ERRORS in files and is_done:
            content = stores.read(posixpath.join(options.output, unit.name + _ERRORS))
            yield from content.decode("utf-8", "replace").splitlines()
        elif not is_done and unit not in errors:
            yield f"{masked(unit.address)}: its worker died or failed; run the command again, or see Ray's logs"
        elif not is_done:
            yield errors[unit] or (
                f"{masked(unit.address)}: its maps are not in {masked(options.output)}; "
                "choose an output that all machines of the cluster share"
            )


def _write_failures(failures: Sequence[str], output: str, files: set[str]) -> None:
    if failures:
        stores.write(posixpath.join(output, _FAILURES), _lines(failures))
    elif _FAILURES in files:
        stores.remove(posixpath.join(output, _FAILURES))


class Share(NamedTuple):
    """How many workers a cluster has room for, and what each of them gets."""

    workers: int
    cpus: int
    gpus: int

    @classmethod
    def of(cls, nodes: Iterable[Mapping[str, Any]], options: argparse.Namespace) -> Share:
        """A worker for each GPU, or where none is wanted or there, for each `--threads` cores, by default one."""
        alive = [each["Resources"] for each in nodes if each["Alive"]]
        with_gpu = [each for each in alive if each.get("GPU", 0) >= 1 and options.device != "cpu"]
        if with_gpu:
            cpus = min(int(each.get("CPU", 1) // each["GPU"]) for each in with_gpu)
            return cls(sum(int(each["GPU"]) for each in with_gpu), max(1, cpus), 1)
        cores = [int(each.get("CPU", 0)) for each in alive] or [0]
        cpus = max(1, min(options.threads or 1, max(cores)))
        return cls(max(1, sum(each // cpus for each in cores)), cpus, 0)


def _answers(units: Sequence[Unit], options: argparse.Namespace) -> Iterator[tuple[Unit, str]]:
    """Units and their errors, one per line, in the order in which they are done."""
    import ray
    import ray.data

    _connect(options.ray)
    try:
        for row in _dataset(units, options).iter_rows():
            if row["unit"] < 0:
                raise Sal360Error(str(row["errors"]), "then run the same command, which continues")
            yield units[row["unit"]], str(row["errors"])
    except (Sal360Error, OSError):
        raise
    except Exception as error:  # of Ray: its own, and those of workers, with tracebacks
        *_, reason = [type(error).__name__, *str(error).strip().splitlines()]
        reason = re.sub(r"^[\w.]+(Error|Exception): ", "", reason.strip())
        raise Sal360Error(
            f"the workers cannot run: {reason}", "then run the same command, which continues; Ray's logs say more"
        ) from None
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    """Join the cluster, or start Ray here.

    Raises:
        ParameterError: there is none at the address, or Ray does not start.
    """
    import ray
    import ray.data

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray that is started here reports nothing to its makers
    try:
        ray.init(
            None if address == THIS_MACHINE else address,
            include_dashboard=False,  # of a Ray that is started here
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if address == THIS_MACHINE:
            raise ParameterError(
                f"Ray does not start on {THIS_MACHINE}, or the cluster in RAY_ADDRESS does not answer ({reason})",
                "correct or unset RAY_ADDRESS, or see what `ray start --head` says",
            ) from None
        raise ParameterError(
            f"there is no Ray cluster at {address} ({reason})",
            "start one with ray start --head, correct the address, or leave it out to use this machine",
        ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts inputs
    context.max_errored_blocks = _MOST_LOST
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # its file gets the tracebacks of workers, too
            handler.setLevel(logging.CRITICAL + 1)


def _dataset(units: Sequence[Unit], options: argparse.Namespace) -> Any:
    """A Ray dataset with a row for each unit: its number and its errors."""
    import ray
    import ray.data

    share = Share.of(ray.nodes(), options)
    numbers = {unit: number for number, unit in enumerate(units)}
    rows = [{"units": json.dumps([(numbers[unit], unit) for unit in task])} for task in tasks(units, share.workers)]
    options = argparse.Namespace(**{**vars(options), "threads": 0 if share.gpus else share.cpus})
    at_once = min(share.workers, len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.60 warns of max_task_retries, and has nothing for it yet
        return ray.data.from_items(rows, override_num_blocks=len(rows)).flat_map(
            Worker,
            fn_constructor_args=(options, share.cpus, _MOST_TOGETHER if share.gpus else 1),
            # more, where a cluster grows
            compute=ray.data.ActorPoolStrategy(min_size=at_once, max_size=len(rows)),
            max_task_retries=_RETRIES,
            **({"num_gpus": 1} if share.gpus else {"num_cpus": share.cpus}),
        )

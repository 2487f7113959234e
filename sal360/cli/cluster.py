"""Maps of very many pictures and videos with Ray, on one machine or a cluster: `sal360 predict --ray`.

Ray Data starts one model for each worker, gives it batches of inputs, and gives the inputs of a worker that dies to
another. Here are what one worker does with a batch, and which inputs are still without results. Inputs and outputs may
be anything that fsspec opens (s3://, gs://, http://, memory://).

Every file is written under another name and renamed, or put as a whole into an object store, and its presence means
that the input is done: an interrupted command continues, and a second worker with the same input changes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import posixpath
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from sal360.arrays import Density, Pixels
from sal360.cameras.equirectangular import read_gpano
from sal360.cameras.lookup import equirectangular_view
from sal360.cameras.settings import kept_camera
from sal360.cli.options import model_options
from sal360.errors import (
    DataError,
    FrameError,
    ParameterError,
    Sal360Error,
    describe_os_error,
    printable,
    require_modules,
)
from sal360.files import write_bytes
from sal360.images import decode_picture
from sal360.outputs.overlay import draw_overlay
from sal360.picture_formats import PICTURE_FORMATS
from sal360.predictor import Predictor
from sal360.sources.video import VIDEO_SUFFIXES

THIS_MACHINE = "this machine"
"""The value of `--ray` without an address."""
_SHARD = ".tar"
_LIST = ".txt"
_PICTURES = tuple(suffix for each in PICTURE_FORMATS for suffix in each.suffixes)
_METADATA_BYTES = 1 << 20
_TOGETHER = 16
"""Number of inputs that a worker gets at once."""


class Unit(NamedTuple):
    """An input that one worker handles, and the name of its results, without an ending."""

    address: str
    name: str

    @property
    def ending(self) -> str:
        """What is added to the name for the file that is written last: a shard of maps, or an array."""
        return "_maps.tar" if self.address.lower().endswith(_SHARD) else ".npy"


def find_units(inputs: Sequence[str], *, recursive: bool) -> list[Unit]:
    """The pictures, videos and shards (.tar) among the inputs, in their folders and lists (.txt), sorted by name.

    A list has one address per line, relative to itself. Results of a folder are named as the files in it; a number is
    added where a name is used already.

    Raises:
        DataError: an input does not exist, or nothing is found.
    """
    found: dict[str, str] = {}
    for each in inputs:
        for address, name in _found_in(each, recursive):
            found.setdefault(address, name)
    if not found:
        raise DataError(f"{', '.join(inputs)} has no pictures, videos or shards", "check the paths; see --recursive")
    units, taken = [], set()
    for address, name in sorted(found.items(), key=lambda item: item[1]):
        unique, number = name, 1
        while unique in taken:
            number += 1
            unique = f"{name}_{number}"
        taken.add(unique)
        units.append(Unit(address, unique))
    return units


def _found_in(address: str, recursive: bool) -> Iterator[tuple[str, str]]:
    """Address and name of every unit in an input."""
    system, path = _opened(address)
    if system.isdir(path):
        depth = None if recursive else 1
        for file in system.find(path, maxdepth=depth):
            if _is_unit(file) and "_overlay." not in file:
                yield system.unstrip_protocol(file), _stem(posixpath.relpath(file, path))
    elif not system.exists(path):
        raise DataError(f"{address} does not exist", "check the path")
    elif address.lower().endswith(_LIST):
        folder = posixpath.dirname(address)
        for line in system.cat_file(path).decode("utf-8", "surrogateescape").splitlines():
            if entry := line.strip():
                whole = entry if "://" in entry or entry.startswith("/") else posixpath.join(folder, entry)
                yield _whole(whole), _stem(posixpath.basename(entry))
    else:
        yield _whole(address), _stem(posixpath.basename(path))


def _is_unit(path: str) -> bool:
    return path.lower().endswith((*_PICTURES, *VIDEO_SUFFIXES, _SHARD))


def _stem(path: str) -> str:
    return posixpath.splitext(path)[0]


def _whole(address: str) -> str:
    """The address from any working directory."""
    return address if "://" in address else Path(address).absolute().as_uri()


def _opened(address: str) -> tuple[Any, str]:
    """File system and path of an address."""
    from fsspec.core import url_to_fs  # starts slowly

    system, path = url_to_fs(address)
    return system, path


def pending(units: Sequence[Unit], output: str) -> list[Unit]:
    """The units whose last file is not in the output folder."""
    system, path = _opened(output)
    done = {posixpath.relpath(each, path) for each in system.find(path)} if system.isdir(path) else set()
    return [each for each in units if each.name + each.ending not in done]


class Worker:
    """One model, and what is done with each batch.

    Args:
        options: the options of `sal360 predict`, with `output`, the folder or address for the results.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._predictor = Predictor(**model_options(options))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The results of the units address[i], name[i]: number of maps, and the error of each, or ""."""
        units = [Unit(str(address), str(name)) for address, name in zip(batch["address"], batch["name"], strict=True)]
        outcomes = [self._handled(unit) for unit in units]
        return {
            "address": np.array([unit.address for unit in units], dtype=object),
            "maps": np.array([maps for maps, _ in outcomes]),
            "error": np.array([error for _, error in outcomes], dtype=object),
        }

    def _handled(self, unit: Unit) -> tuple[int, str]:
        """Number of maps, and the errors in one line."""
        try:
            if unit.address.lower().endswith(_SHARD):
                return self._shard(unit)
            if unit.address.lower().endswith(VIDEO_SUFFIXES):
                return self._video(unit)
            density, overlay = self._predicted(self._read(unit.address), unit.address)
        except Sal360Error as error:
            return 0, str(error)
        except OSError as error:
            return 0, describe_os_error(error)
        self._write(f"{unit.name}_overlay.png", overlay)
        self._write(f"{unit.name}{unit.ending}", density)
        return 1, ""

    def _read(self, address: str) -> bytes:
        system, path = _opened(address)
        content: bytes = system.cat_file(path)
        return content

    def _write(self, name: str, content: bytes) -> None:
        """Write a file completely or not at all."""
        system, path = _opened(posixpath.join(self._options.output, name))
        if "file" in _protocols(system):
            write_bytes(path, content)
        else:
            with contextlib.suppress(NotImplementedError):
                system.makedirs(posixpath.dirname(path), exist_ok=True)
            system.pipe_file(path, content)

    def _predicted(self, content: bytes, name: str) -> tuple[bytes, bytes]:
        """The map as .npy and its overlay as PNG of an encoded picture."""
        options = self._options
        picture = decode_picture(content, name, max_pixels=options.max_pixels)
        try:
            camera = kept_camera(options.camera, *picture.shape[:2], read_gpano(content[:_METADATA_BYTES]))
            density = self._predictor.predict(picture, "bgr", camera=camera)
        except FrameError as error:
            raise error.about(name) from None
        overlay: Pixels = draw_overlay(equirectangular_view(camera, picture), density, full_scale=options.full_scale)
        return _npy(density), cv2.imencode(".png", overlay)[1].tobytes()

    def _shard(self, unit: Unit) -> tuple[int, str]:
        """The maps of the pictures in a tar file as a tar file, KEY.npy for KEY.jpg; without overlays."""
        count, errors = 0, []
        packed = io.BytesIO()
        content = self._read(unit.address)
        try:
            with tarfile.open(fileobj=io.BytesIO(content)) as shard, tarfile.open(fileobj=packed, mode="w") as maps:
                for entry in shard:
                    if not (entry.isfile() and entry.name.lower().endswith(_PICTURES)):
                        continue
                    file = shard.extractfile(entry)
                    assert file is not None
                    try:
                        map_file = self._predicted(file.read(), f"{unit.address}:{entry.name}")[0]
                    except FrameError as error:
                        errors.append(str(error))
                        continue
                    described = tarfile.TarInfo(f"{_stem(entry.name)}.npy")
                    described.size = len(map_file)
                    maps.addfile(described, io.BytesIO(map_file))
                    count += 1
        except tarfile.TarError as error:
            raise DataError(f"{unit.address} cannot be read ({error})", "copy it again") from None
        if not count:
            return 0, errors[0] if errors else f"{unit.address} has no pictures"
        self._write(unit.name + unit.ending, packed.getvalue())
        return count, "; ".join(errors[:1]) + (f" and {len(errors) - 1} more" if len(errors) > 1 else "")

    def _video(self, unit: Unit) -> tuple[int, str]:
        """As `sal360 predict` does it, in a folder from which the files are then put into the output."""
        from sal360.cli.predict import Input, Outcome, write_video_maps

        system, path = _opened(unit.address)
        with tempfile.TemporaryDirectory() as name:
            folder, local = Path(name), Path(path)
            if "file" not in _protocols(system):
                local = folder / f"video{posixpath.splitext(path)[1]}"
                system.get_file(path, str(local))
            (folder / "maps").mkdir()
            outcome, cut = Outcome(), ""
            options = argparse.Namespace(**{**vars(self._options), "output": folder / "maps", "maps": "npy"})
            try:
                write_video_maps(Input(local, "video"), self._predictor, options, outcome)
            except (FrameError, DataError) as error:
                if not outcome.written:
                    raise
                cut = str(error)
            written = sorted(
                (folder / "maps").iterdir(), key=lambda each: each.suffix == ".npy" and each.stem == "video"
            )
            for each in written:  # the maps last: they mean that the video is done
                self._write(unit.name + each.name.removeprefix("video"), each.read_bytes())
        lost = f"{unit.address}: {outcome.skipped} frames cannot be used" if outcome.skipped else ""
        return outcome.written, cut or lost


def _npy(density: Density) -> bytes:
    content = io.BytesIO()
    np.save(content, density)
    return content.getvalue()


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def predict_on_ray(options: argparse.Namespace) -> int:
    """Predict everything that has no results yet; 1 if something could not be predicted.

    Raises:
        DataError: nothing is found.
        ParameterError: pages were asked for, which workers do not write.
        ImportError: Ray is not installed.
    """
    if options.html:
        raise ParameterError("--html is given with --ray", "leave it out, and see some of the maps with sal360 view")
    require_modules("ray.data", "fsspec")
    output = _whole(str(options.output))
    options = argparse.Namespace(**{**vars(options), "output": output})
    units = find_units([str(each) for each in options.inputs], recursive=options.recursive)
    left = pending(units, output)
    written, failures = 0, []
    if left:
        with tqdm(total=len(units), initial=len(units) - len(left), unit="input", disable=None) as bar:
            for maps, error in _results(left, options):
                written += maps
                if error:
                    failures.append(error)
                    tqdm.write(f"skipped: {printable(error)}", file=sys.stderr)
                bar.update()
    there = len(units) - len(left)
    print(f"{written} maps in {printable(output)}, {there} inputs were done before, {len(failures)} have errors")
    return 1 if failures else 0


def _results(units: Sequence[Unit], options: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """Number of maps and error of each unit, in the order in which they are done."""
    import ray
    import ray.data

    address = None if options.ray == THIS_MACHINE else options.ray
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    ray.init(address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        gpus = int(ray.cluster_resources().get("GPU", 0)) if options.device != "cpu" else 0
        threads = options.threads or 1
        workers = gpus or max(1, int(ray.cluster_resources()["CPU"]) // threads)
        workers = min(workers, -(-len(units) // _TOGETHER))
        rows = [{"address": unit.address, "name": unit.name} for unit in units]
        done = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // _TOGETHER)).map_batches(
            Worker,
            fn_constructor_args=(argparse.Namespace(**{**vars(options), "threads": threads}),),
            batch_size=_TOGETHER,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=0 if gpus else threads,
            num_gpus=1 if gpus else 0,
        )
        for row in done.iter_rows():
            yield int(row["maps"]), str(row["error"])
    finally:
        ray.shutdown()

"""Small valid files of every supported kind, and ways to corrupt them; for `fuzz_files.py`.

`write_originals` makes the files once; `Spoiler` draws one of them and mutations of it by a seed and a number, so that
each case can be made again alone.
"""

from __future__ import annotations

import importlib
import os
import pickle
import random
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

KINDS = {"picture": 0.44, "video": 0.16, "bag": 0.14, "model": 0.12, "gaze": 0.09, "dataset": 0.05}
"""Kind of case → share of all cases."""
FRAMES = 6
"""Of each video and bag."""
SPLIT = 75
"""A picture number of Salient360!; all cases of it read this one picture."""
TOPIC = "/camera/image"
GAZE = "-gaze"
"""Part of the names of bags with gaze, on /gaze/points and /gaze/maps."""
_SECOND_NS = 10**9
_START_NS = 1_700_000_000 * _SECOND_NS
_VIDEOS = (
    ("clip.mp4", "libx264", {}),
    ("first.mp4", "libx264", {"movflags": "faststart"}),
    ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
    ("clip.mkv", "libx264", {}),
    ("clip.webm", "libvpx", {}),
    ("clip.avi", "mjpeg", {}),
    ("clip.mov", "mpeg4", {}),
    ("clip.ts", "mpeg2video", {}),
    ("clip.mpg", "mpeg2video", {}),
    ("clip.wmv", "wmv2", {}),
    ("clip.flv", "flv", {}),
    ("clip.ogv", "libvpx", {}),
)


# --- the originals ---


def from_tests(module: str) -> Any:
    """A helper module of the tests."""
    root = os.fspath(Path(__file__).resolve().parent.parent)
    if root not in sys.path:
        sys.path.append(root)
    return importlib.import_module(f"tests.{module}")


def picture() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(32, 64, 3) uint8 BGR, smooth, with a bright spot."""
    values = cv2.resize(np.random.default_rng(5).integers(30, 220, (4, 8, 3), np.uint8), (64, 32))
    values[8:14, 40:48] = 240
    return np.asarray(values, np.uint8)


def write_originals(folder: Path) -> None:
    """Write the originals of each of `KINDS` into a subfolder, and model.onnx and bag, which cases refer to."""
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
    _write_pictures(folder / "picture")
    _write_videos(folder / "video")
    _write_bags(folder / "bag")
    _write_models(folder / "model")
    _write_gaze(folder / "gaze")
    _write_datasets(folder / "dataset")
    shutil.copy(folder / "model/tiny.onnx", folder / "model.onnx")
    shutil.copytree(folder / "bag/mcap", folder / "recording")


def _write_pictures(folder: Path) -> None:
    pictures = from_tests("pictures")
    formats = importlib.import_module("sal360.picture_formats").PICTURE_FORMATS
    suffixes = {each.name: each.suffixes[0] for each in formats}
    large = cv2.resize(picture(), (128, 64))
    for kind in pictures.FORMATS:
        name = max((each for each in suffixes if each in kind), key=len)
        (folder / f"{kind.replace(' ', '-')}{suffixes[name]}").write_bytes(pictures.encoded(kind, large))
    wide = (large.astype(np.uint16) << 8) + 1
    for name, values in (("grey.png", large[..., 0]), ("wide.png", wide), ("wide.tif", wide)):
        cv2.imwrite(str(folder / name), values)
    (folder / "turned.jpg").write_bytes(pictures.encoded("JPEG", large, exif=pictures.exif(3)))


def _write_videos(folder: Path) -> None:
    for name, codec, options in _VIDEOS:
        write_video(folder / name, codec, options)


def write_video(path: Path, codec: str, options: dict[str, str]) -> None:
    """A video of `FRAMES` frames at 25 Hz; the same bytes each time."""
    with av.open(str(path), "w", container_options={"fflags": "+bitexact", **options}) as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "2"} if codec == "libx264" else {})
        stream.width, stream.height = 64, 32
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.roll(picture(), 5 * index, axis=1), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_bags(folder: Path) -> None:
    writers = from_tests("bag_writer")
    for kind in writers.BAG_KINDS:
        bag = writers.BagWriter(kind)
        stamps = [_START_NS + index * _SECOND_NS // 5 for index in range(FRAMES)]
        raw = [(stamp, bag.image(stamp, picture(), "bgr8")) for stamp in stamps]
        jpeg = [(stamp, bag.compressed(stamp, picture())) for stamp in stamps]
        suffix = ".bag" if kind == "ros1" else ""
        bag.write(folder / f"{kind}{suffix}", {TOPIC: raw})
        bag.write(folder / f"{kind}-jpeg{suffix}", {"/camera/image/compressed": jpeg})
        gaze = {"/gaze/points": [(stamp, _cloud(bag, stamp)) for stamp in stamps]}
        gaze["/gaze/maps"] = [(stamp, bag.image(stamp, picture()[..., 0], "mono8")) for stamp in stamps]
        bag.write(folder / f"{kind}{GAZE}{suffix}", {TOPIC: raw, **gaze})


def _cloud(bag: Any, stamp_ns: int) -> Any:
    """Three points that people looked at, as a PointCloud2."""
    fields = [
        bag.new("sensor_msgs/msg/PointField", name=name, offset=4 * index, datatype=7, count=1)
        for index, name in enumerate("xyz")
    ]
    points = np.array([[1, 0, 0], [0.7, 0.7, 0], [0, 1, 0.1]], "<f4")
    return bag.new(
        "sensor_msgs/msg/PointCloud2",
        header=bag.header(stamp_ns),
        height=1,
        width=3,
        fields=fields,
        is_bigendian=False,
        point_step=12,
        row_step=36,
        data=np.frombuffer(points.tobytes(), np.uint8),
        is_dense=True,
    )


def _write_models(folder: Path) -> None:
    models = from_tests("tiny_model")
    for name, batch in (("tiny.onnx", "N"), ("fixed.onnx", 1)):
        (folder / name).write_bytes(models.tiny_graph(models.tiny_spec(), batch).SerializeToString())


def _write_gaze(folder: Path) -> None:
    """Folders of ground truth for the frames of `recording`, one file a frame."""
    stamps = [str(_START_NS + index * _SECOND_NS // 5) for index in range(FRAMES)]
    rows = "1,0,0,1\n0.7,0.7,0,2\n0,1,0.1,3\n"
    tables = {
        "commas": "x,y,z,observer\n" + rows,
        "semicolons": "\ufeffX;Y;Z;Observer\n" + rows.replace(",", ";").replace(".", ","),
        "nameless": rows.replace(",", " "),
    }
    for name, text in tables.items():
        (folder / name).mkdir()
        for stamp in stamps:
            (folder / name / f"{stamp}.csv").write_text(text, encoding="utf-8")
    for name, suffix in (("arrays", ".npy"), ("pictures", ".png")):
        (folder / name).mkdir()
        for stamp in stamps:
            _write_map(folder / name / f"{stamp}{suffix}")


def _write_map(path: Path) -> None:
    grey = picture()[..., 0]
    if path.suffix == ".npy":
        np.save(path, grey.astype(np.float32))
    else:
        cv2.imwrite(str(path), grey)


def _write_datasets(folder: Path) -> None:
    """One panorama of each data set in its exact layout."""
    jpeg = from_tests("pictures").encoded("JPEG", picture())
    files: dict[str, bytes] = {
        f"salient360/P{SPLIT}_64x32.jpg": jpeg,
        f"salient360/HEsalmap_{SPLIT}_64x32_32b.bin": picture()[..., 0].astype("<f4").tobytes(),
        f"salient360/HEscanpath_{SPLIT}.txt": b"Idx, longitude, latitude, start\n0,0.5,0.5,0\n1,0.25,0.1,300\n",
        "vr_eyetracking/Gaze_txt_files/p001/004.txt": b"".join(
            b"frame,%d,forward,0.5,0.5,eye,0.25,0.5\n" % number for number in range(1, FRAMES + 1)
        ),
        "sitzmann/cubemap_0000.png": cv2.imencode(".png", picture())[1].tobytes(),
        **{f"sitzmann/{each}/cubemap_0000.pck": _sitzmann_runs() for each in ("vr", "seated_vr", "browser")},
        "osie/stimuli/1000.jpg": from_tests("pictures").encoded("JPEG", cv2.resize(picture(), (800, 600)), quality=30),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_video(folder / "vr_eyetracking/004.mp4", "mpeg4", {})
    split = folder / "vr_eyetracking/train_test_set.xlsx"
    sheet = importlib.import_module("openpyxl").Workbook()
    sheet.active.title = "train_set"
    sheet.active.append([4, "text"])
    sheet.create_sheet("test_set").append([4, "text"])
    sheet.save(folder / "sheet.xlsx")
    with zipfile.ZipFile(folder / "sheet.xlsx") as made, zipfile.ZipFile(split, "w") as fixed:
        for name in made.namelist():
            fixed.writestr(
                zipfile.ZipInfo(name), re.sub(rb"20\d\d-[\dT:-]+Z", b"2020-01-01T00:00:00Z", made.read(name))
            )
    (folder / "sheet.xlsx").unlink()
    columns = {"image": np.int16, "subject": np.int8, "x": np.float32, "y": np.float32, "duration_ms": np.float32}
    values = {name: np.zeros(3, kind) for name, kind in columns.items()}
    np.savez(folder / "osie/fixations.npz", names=np.array(["1000.jpg"]), **values)


def _sitzmann_runs() -> bytes:
    rows = np.repeat([[0.5, 0.5], [0.25, 0.5]], 3, axis=0)
    return pickle.dumps({"data": [{"timestamp": np.arange(6.0), "gaze_fixations": rows}]}, protocol=2)


# --- the mutations ---

Mutation = Callable[[bytes, random.Random], bytes]


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _edit_header(data: bytes, rng: random.Random) -> bytes:
    """Extreme values in the first bytes, where sizes, types and versions stand."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        changed[rng.randrange(min(len(changed), 96))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def _huge_number(data: bytes, rng: random.Random) -> bytes:
    """Four or eight bytes that are a very large, very small or negative number in either byte order."""
    value = rng.choice((2**31 - 1, 2**32 - 1, 2**31, 2**24, 10**6, 2**16, 0))
    number = value.to_bytes(rng.choice((4, 8)), rng.choice(("little", "big")))
    at = rng.randrange(len(data))
    return data[:at] + number + data[at + len(number) :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice((rng.randrange(len(data)), len(data) - rng.randint(1, 16), len(data) // 2))]


def _cut_start(data: bytes, rng: random.Random) -> bytes:
    return data[rng.choice((1, 4, rng.randrange(len(data)))) :]


def _insert_zeros(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes(rng.choice((1, 4, 100, 5000))) + data[at:]


def _insert_noise(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 100, 2000))) + data[at:]


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    """Zeros or noise over a stretch, as a damaged sector has them."""
    at, length = rng.randrange(len(data)), rng.choice((4, 64, 512))
    filler = bytes(length) if rng.random() < 0.5 else rng.randbytes(length)
    return data[:at] + filler[: len(data) - at] + data[at + length :]


def _zero_end(data: bytes, rng: random.Random) -> bytes:
    """The end of a download that was reserved and never written."""
    at = rng.randrange(len(data))
    return data[:at] + bytes(len(data) - at)


def _append_zeros(data: bytes, rng: random.Random) -> bytes:
    return data + bytes(rng.choice((1, 512, 65536)))


def _append_noise(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, 100, 5000)))


def _append_itself(data: bytes, rng: random.Random) -> bytes:
    return data + data[rng.choice((0, 0, len(data) // 2)) :]


def _duplicate_block(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((8, 100, 1000)))
    return data[:end] + data[start:end] + data[end:]


def _delete_block(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice((1, 8, 100, 1000)) :]


def _swap_halves(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[at:] + data[:at]


_WORDS = (b"nan", b"inf", b"-1", b"1e999", b"9" * 400, b"", b"\x00", b'"', b"\xff", b";", b",", b"\n", b"None", b"0x1F")


def _edit_text(data: bytes, rng: random.Random) -> bytes:
    """Replace a number or a name with another word, as in tables, headers of arrays, YAML and JSON."""
    words = list(re.finditer(rb"[\w.+-]+|[,;:{}\[\]\n]", data[:20000]))
    if not words:
        return _flip_bits(data, rng)
    chosen = rng.choice(words)
    return data[: chosen.start()] + rng.choice(_WORDS) + data[chosen.end() :]


def _empty(_data: bytes, _rng: random.Random) -> bytes:
    return b""


MUTATIONS: dict[str, tuple[Mutation, float]] = {
    "flip_bits": (_flip_bits, 3.0),
    "edit_header": (_edit_header, 2.0),
    "huge_number": (_huge_number, 1.5),
    "cut": (_cut, 2.0),
    "cut_start": (_cut_start, 0.5),
    "insert_zeros": (_insert_zeros, 1.0),
    "insert_noise": (_insert_noise, 1.0),
    "overwrite": (_overwrite, 1.5),
    "zero_end": (_zero_end, 1.0),
    "append_zeros": (_append_zeros, 0.5),
    "append_noise": (_append_noise, 0.5),
    "append_itself": (_append_itself, 0.5),
    "duplicate_block": (_duplicate_block, 0.7),
    "delete_block": (_delete_block, 1.0),
    "swap_halves": (_swap_halves, 0.3),
    "edit_text": (_edit_text, 1.5),
    "empty": (_empty, 0.1),
}
"""Name → what it does to the bytes of a file, and its weight in the draw."""
_OTHER_SUFFIXES = (".jpg", ".png", ".tif", ".webp", ".hdr", ".mp4", ".avi", ".mcap", ".db3", ".bag", ".onnx", ".npy")
RENAMED, MISSING = "rename", "remove"


# --- cases ---


@dataclass(frozen=True)
class Case:
    """A corrupted copy of an original."""

    number: int
    kind: str
    """A key of `KINDS`."""
    original: str
    """Its name in the folder of its kind."""
    spoilt: str
    """The file that was changed, relative to the original if that is a folder, else its name."""
    mutations: tuple[str, ...]
    path: Path
    """The copy."""

    def __str__(self) -> str:
        return f"case {self.number} ({self.kind} {self.original}, {self.spoilt}: {', '.join(self.mutations)})"


class Spoiler:
    """Makes case after case.

    Args:
        originals: the folder that `write_originals` filled.
        seed: with the number of a case it decides everything about it.
    """

    def __init__(self, originals: Path, seed: int) -> None:
        self._seed = seed
        self._originals = {kind: sorted((originals / kind).iterdir()) for kind in KINDS}

    def make(self, number: int, folder: Path) -> tuple[Case, random.Random]:
        """The case of a number, written into an empty folder, and a generator for what is done with it."""
        rng = random.Random(f"{self._seed}/{number}")
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        original = rng.choice(self._originals[kind])
        copy = folder / original.name
        if original.is_dir():
            shutil.copytree(original, copy)
            spoilt = rng.choice(sorted(each for each in copy.rglob("*") if each.is_file()))
        else:
            shutil.copy(original, copy)
            spoilt = copy
        mutations = self._spoil(spoilt, rng)
        relative = spoilt.name
        if original.is_dir():
            relative = os.fspath(spoilt.relative_to(copy))
            if rng.random() < 0.05:
                mutations = (*mutations, MISSING)
                spoilt.unlink()
        elif rng.random() < 0.08:
            mutations = (*mutations, RENAMED)
            copy = copy.rename(copy.with_suffix(rng.choice(_OTHER_SUFFIXES)))
        return Case(number, kind, original.name, relative, mutations, copy), rng

    def _spoil(self, path: Path, rng: random.Random) -> tuple[str, ...]:
        data = path.read_bytes()
        names = rng.choices(
            list(MUTATIONS), [weight for _, weight in MUTATIONS.values()], k=rng.choice((1, 1, 1, 2, 3))
        )
        for name in names:
            if data:
                data = MUTATIONS[name][0](data, rng)
        path.write_bytes(data)
        return tuple(names)

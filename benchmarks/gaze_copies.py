"""Small copies of the data sets that docs/reproduce.md names, in their formats on disk, with what is irregular in them.

Salient360!, VR-EyeTracking and Sitzmann et al. have all their pictures, videos and recordings, so that they count as
complete; the pictures are small, and most videos have fewer people. `write_copies` gives the files and folders the
names that stand for them on the page: PANORAMAS, SALIENT360, VR, SITZMANN, OSIE, GAZE, CEAP, HEADSET, PERSON1.csv.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import openpyxl
from torchvision.models.vgg import cfgs

from sal360.arrays import Pixels

HEADER = "Idx, longitude, latitude, start timestamp\n"
PHOTOGRAPHS = {"mit1003": 15, "pascal_s": 12, "eyecrowd": 12, "nus_scene": 12, "rydel35": 10}
HEADSETS = ("ceap", "avtrack", "rcqoea", "nasrabadi", "pavs10k", "own")
_RATE_HZ = 120


def write_copies(folder: Path, seed: int) -> None:
    """Write all of them into `folder`."""
    random = np.random.default_rng(seed)
    write_panoramas(folder / "PANORAMAS", random)
    write_salient360(folder / "SALIENT360", random)
    write_sitzmann(folder / "SITZMANN", random)
    write_vr_eyetracking(folder / "VR", random)
    write_photographs(folder / "GAZE/osie", random, pictures=600, people=15, fixations=84_290)
    for name, pictures in PHOTOGRAPHS.items():
        write_photographs(folder / "GAZE" / name, random, pictures=pictures, people=8, fixations=40 * pictures)
    write_photographs_with_maps(folder / "GAZE/ham", random)
    for name in HEADSETS:
        write_headset(folder / "HEADSET" / name, random, maps=name == "pavs10k", folders=name == "rcqoea")
    (folder / "OSIE").symlink_to("GAZE/osie")
    (folder / "CEAP").symlink_to("HEADSET/ceap")
    write_log(folder / "PERSON1.csv", "{:d},0,{:.6f},0,{:.6f},{},{},{},True,True\n", _QUATERNION)
    write_log(folder / "PERSON2.csv", "{:d};0;{:.6f};0;{:.6f};{};{};{};True;True\n", _QUATERNION.replace(",", ";"))
    write_salgan(folder / "gen_modelWeights0090.npz", random)


def picture(random: np.random.Generator, height: int, width: int) -> Pixels:
    """A smooth picture with some structure, (height, width, 3) uint8."""
    coarse = random.integers(0, 256, (4, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def save(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"{path} could not be written")


def write_panoramas(root: Path, random: np.random.Generator) -> None:
    """Twelve panoramas, one in a subfolder, and one that is cut short."""
    for number in range(12):
        name = f"{number:02d}.{'png' if number % 3 == 0 else 'jpg'}"
        save(root / ("more/" if number == 5 else "") / name, picture(random, 192, 384))
    (root / "cut.jpg").write_bytes((root / "01.jpg").read_bytes()[:-400])


# --- Salient360! ---


def write_salient360(root: Path, random: np.random.Generator) -> None:
    """85 pictures of P1 to P98, of which P75 to P98 validate."""
    gaps = set(random.choice(np.arange(1, 75), 13, replace=False).tolist())
    for number in (each for each in range(1, 99) if each not in gaps):
        save(root / f"Stimuli/P{number}_256x128.jpg", picture(random, 128, 256))
        for movement in ("HE", "H"):
            path = root / f"{movement}/SalMaps/{movement}salmap_{number}_128x64_32b.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            (random.random((64, 128)) ** 8).astype("<f4").tofile(path)
        for eye in "LR":
            path = root / f"HE/Scanpaths/{eye}/HEscanpath_{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_scanpath(number, random))


def _scanpath(number: int, random: np.random.Generator) -> bytes:
    """A scanpath file; the picture's number says what is irregular in it."""
    people = 1 if number % 20 == 7 else 4
    paths = [[[i, *random.random(2), 300 * i] for i in range(6)] for _ in range(people)]
    kind = number % 9
    if kind == 1:
        paths[0][2][1:3] = [1.004, -0.003]  # by rounding
    elif kind == 2:
        paths[0][1][1] = np.nan
    elif kind == 3:
        del paths[0][0]  # the beginning of a person is missing
    elif kind == 4:
        paths[-1][3][3] = 100.0  # the clock steps back
    lines = [",".join(f"{value:g}" for value in row) for path in paths for row in path]
    text = ("" if kind == 5 else HEADER) + "\n".join(lines) + "\n"  # or without a header
    if kind == 6:
        text = text.replace(",", ";").replace(".", ",")
    elif kind == 7:
        text = text.replace("\n", "\n\n").replace(",", "\t").replace(".", ",")
    return text.encode("utf-16" if kind == 8 else "utf-8")


# --- Sitzmann et al. ---


class _Table:
    """Stands for a table of pandas, in which the authors keep their runs."""

    def __init__(self, runs: Sequence[dict[str, object]]) -> None:
        self._data = np.empty((1, len(runs)), dtype=object)
        self._data[0] = runs


def write_sitzmann(root: Path, random: np.random.Generator) -> None:
    """22 panoramas with the runs of three conditions; those of the browser have other names, and some are tables."""
    for number in range(22):
        save(root / f"rotated/cubemap_{number:04d}.png", picture(random, 128, 256))
        for condition in ("vr", "seated_vr", "browser"):
            path = root / f"data/{condition}/cubemap_{number:04d}.pck"
            runs = list(_runs(number, random))
            content: object = {"data": runs}
            if condition == "browser":
                path = path.with_name(f"{number}.pck")
                content = _Table(runs) if number % 2 else content
            path.parent.mkdir(parents=True, exist_ok=True)
            data = pickle.dumps(content, protocol=2)
            name = f"c{_Table.__module__}\n{_Table.__name__}\n".encode()
            data = data.replace(name, b"cpandas.core.frame\nDataFrame\n")
            path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


def _runs(number: int, random: np.random.Generator) -> Iterator[dict[str, object]]:
    for person in range(5):
        positions = np.repeat(random.random((8, 2)), 4, axis=0)
        positions[8:12] = [0, 0] if person % 2 else [np.nan, np.nan]  # lost samples
        run: dict[str, object] = {
            "timestamp": 100.0 + np.arange(len(positions)) / 10,
            "gaze_fixations": positions,
            "gaze_lat_lon": positions[:, ::-1] * [180, 360],
            "headLatLon": positions[:, ::-1] * [180, 360],
            "viewpoint_idx": np.int64(person),
        }
        kind = (number + person) % 7
        if kind == 1:
            positions[:4] = [1.002, 0.5]
        elif kind == 2:
            run["timestamp"] = 100.0 - np.arange(len(positions)) / 10  # the clock steps back
        elif kind == 3:
            del run["timestamp"]
        elif kind == 4:
            run["gaze_fixations"] = []
        yield run


# --- VR-EyeTracking ---


def write_vr_eyetracking(root: Path, random: np.random.Generator) -> None:
    """208 videos, of which three have the gaze of 31 people, and the sheet with the split."""
    numbers = [each for each in range(1, 216) if each not in (3, 50, 77, 101, 140, 177, 199)]
    for video in numbers:
        frames = int(random.integers(30, 70))
        _write_video(root / f"videos/{video:03d}.mp4", frames, picture(random, 32, 64))
        people = range(1, 32) if video < 5 else random.choice(np.arange(1, 46), 4, replace=False).tolist()
        for place, person in enumerate(people):
            path = root / f"Gaze_txt_files/p{person:03d}/{video:03d}._2017-10-13-10-28_ori_{place}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_gaze(frames, (video + place) % 11, random))
    sheet = openpyxl.Workbook()
    sheet.remove(sheet.active)
    for name, part in (("train_set", numbers[:134]), ("test_set", numbers[134:])):
        table = sheet.create_sheet(name)
        for place, video in enumerate(part):
            table.append([f"{video:03d}" if place % 3 == 0 else float(video) if place % 3 == 1 else video, "text"])
    sheet.save(root / "train_test_set.xlsx")


def _gaze(frames: int, kind: int, random: np.random.Generator) -> str:
    """A file of one person's gaze on a video; `kind` says what is irregular in it."""
    if kind == 10:
        return "\n"  # nothing was recorded
    numbers = list(range(1, frames + 1 + 12 * (kind == 1)))  # more lines than frames
    gaze = np.round(random.random((len(numbers), 2)), 6).tolist()
    if kind == 2:
        gaze[:29] = [[0, 0]] * 29  # frames without gaze
    elif kind == 3:
        gaze[5:] = [["nan", "nan"] for _ in gaze[5:]]
    elif kind == 4:
        gaze[29] = [1.003, -0.002]  # by rounding, on a frame that is used
    elif kind == 5:
        numbers += [25, 26, 30]  # the clock was set
        gaze += [[0.5, 0.5]] * 3
    elif kind == 6:
        del numbers[29], gaze[29]
    lines = [f"frame,{n},forward,0.5,0.5,eye,{x},{y}" for n, (x, y) in zip(numbers, gaze, strict=True)]
    if kind == 7:
        lines = [line.replace(",", ";").replace(".", ",") for line in lines]
    return "\n".join(lines) + "\n"


def _write_video(path: Path, frames: int, pixels: Pixels) -> None:
    """A video whose coding and display order differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"bf": "2", "g": "12"})
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            shown = np.ascontiguousarray(np.roll(pixels, i, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())


# --- the forms of docs/gaze_data.md ---


def write_photographs(root: Path, random: np.random.Generator, *, pictures: int, people: int, fixations: int) -> None:
    """Photographs with fixations; nobody looked at the last one, and sizes differ, except in the first set."""
    sizes = np.array([(90, 120) if pictures == 600 or i % 2 else (120, 80) for i in range(pictures)])
    names = [f"{1000 + i}.jpg" for i in range(pictures)]
    for name, (height, width) in zip(names, sizes.tolist(), strict=True):
        save(root / "stimuli" / name, picture(random, height, width))
    image = np.arange(fixations) % (pictures - (pictures != 600))
    np.savez(
        root / "fixations.npz",
        names=np.array(names),
        image=image.astype(np.int16),
        subject=(np.arange(fixations) // pictures % people).astype(np.int8),
        x=(random.random(fixations) * sizes[image, 1]).astype(np.float32),
        y=(random.random(fixations) * sizes[image, 0]).astype(np.float32),
        duration_ms=np.where(random.random(fixations) < 0.1, np.nan, 200).astype(np.float32),
    )


def write_photographs_with_maps(root: Path, random: np.random.Generator) -> None:
    """Photographs with maps and without fixations."""
    names = [f"{i:03d}.png" for i in range(10)]
    for name in names:
        save(root / "stimuli" / name, picture(random, 96, 128))
    np.savez(root / "maps.npz", names=np.array(names), maps=random.integers(0, 256, (10, 56, 56), dtype=np.uint8))


def write_headset(root: Path, random: np.random.Generator, *, maps: bool, folders: bool) -> None:
    """Ten panoramas with directions, or with published maps; nobody looked at the last one."""
    names = [f"{'video' + str(i // 2) + '/' if folders else 'frame'}{i}.jpg" for i in range(10)]
    for name in names:
        save(root / "stimuli" / name, picture(random, 128, 256))
    count = 9 * 24
    gaze: dict[str, Any] = {
        "image": np.arange(count) % 9,
        "observer": np.arange(count) // 9 % 6,
        "lon_rad": random.normal(0, 1, count).clip(-3, 3),
        "lat_rad": random.normal(0, 0.3, count).clip(-1.5, 1.5),
        "t_s": np.where(np.arange(count) % 5 == 0, np.nan, np.arange(count) / 10),
    }
    if maps:
        gaze = {"maps": random.random((10, 32, 64)).astype(np.float32)}
    np.savez(root / "gaze.npz", names=np.array(names), **gaze)


# --- other inputs ---

_QUATERNION = (
    "OcutimeStamp,cameraRotation.x,cameraRotation.y,cameraRotation.z,cameraRotation.w,"
    "rightEyeDirection.x,rightEyeDirection.y,rightEyeDirection.z,valL,valR\n"
)


def write_log(path: Path, row: str, header: str) -> None:
    """A raw log of a headset: four fixations, lost samples, repeated stamps, and a clock that steps back."""
    lines = [header]
    for i in range(2 * _RATE_HZ):
        yaw = 0.002 * i / 2
        x = 0.3 * (i // (_RATE_HZ // 2)) - 0.45 + 0.001 * np.sin(i)
        lost = i in (20, 21, 150)
        toward = np.array([x, 0.1, 1.0]) / np.hypot(x, np.hypot(0.1, 1.0))
        eye = ["nan"] * 3 if lost else [f"{each:.6f}" for each in toward]
        stamp = int((i - 30 * (100 <= i < 104) - (i == 50)) * 1e6 / _RATE_HZ) + 10**9
        line = row.format(stamp, np.sin(yaw), np.cos(yaw), *eye)
        lines.append(line.replace(".", ",") if ";" in row else line)
    path.write_text("".join(lines))


def write_salgan(path: Path, random: np.random.Generator) -> None:
    """A file with the parameters of SalGAN's encoder, random ones, and of the first layer of its decoder."""
    found, inputs = [], 3
    for outputs in cfgs["D"]:
        if outputs != "M":
            found += [random.normal(0, 0.02, (int(outputs), inputs, 3, 3)), np.zeros(int(outputs))]
            inputs = int(outputs)
    np.savez(path, *(each.astype(np.float32) for each in (*found, np.zeros((512, 512, 3, 3)))))

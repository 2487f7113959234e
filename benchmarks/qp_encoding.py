"""What regions of interest are worth to people: python benchmarks/qp_encoding.py [options] [--json].

The regions come from the model's map, and the judgement from people: recorded gaze on pictures that the model has not
seen. Each picture is panned for a few frames; an encoder encodes them at four qualities, without regions and with those
of `sal360.outputs.qp_offset`, and decodes them. The result is the change in rate at equal quality (BD-rate; negative is
a saving). Quality is luma PSNR weighted by solid angle and recorded gaze; and by solid angle alone, which shows what
the rest of the sphere pays. Intervals are 95 % bootstrap intervals over scenes.

--headset names panoramas with gaze recorded in headsets (gaze.npz and stimuli, docs/gaze_data.md). Frames of one scene
count as one.

--photographs names photographs with gaze (osie=FOLDER), of which those of one fold are measured, on panoramas of
--backgrounds, placed as in training. Only gaze within photographs is known, so each photograph, and the rest of the
sphere, keeps the weight of its solid angle: the model gains nothing by finding the photographs.

Variants: "projection" has only the offsets for the stretched poles; "map" is the whole thing, with --strength; "mean
map" uses the mean of all maps of the model, which knows where people look in general, but not this scene; "people" uses
the recorded gaze itself, a bound.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from sal360.arrays import Density, Floats, Pixels
from sal360.density import normalised
from sal360.encoding.codecs import EncoderSettings, find_codec
from sal360.encoding.quality import GAZE, SPHERE, gains, measure, qualities_of, shot_of
from sal360.errors import DataError, clean_end, one_line_errors
from sal360.outputs.qp_offset import QpOffset, QpOffsetSettings
from sal360.predictor import Predictor

RATE_HZ = 30.0
VARIANTS = ("projection", "map", "mean map", "people")
_PAN_PX = 4
"""Columns by which a picture is turned from frame to frame, at 512 rows."""


@dataclass(frozen=True)
class Scene:
    """A panorama with recorded gaze."""

    name: str
    scene: str
    """Of which scene it is; intervals are over these."""
    picture: Pixels
    """(H, 2H, 3) uint8 RGB."""
    gaze: Density
    """(h, w), relative to uniform: where people looked."""


def main() -> None:
    arguments = _arguments()
    scenes = list(_scenes(arguments))
    if not scenes:
        raise DataError("there is nothing to encode", "name data with --headset or --photographs")
    maps = _maps(scenes)
    mean = np.mean(maps, axis=0)
    rows: list[dict[str, Any]] = []
    for codec in arguments.codecs:
        settings = EncoderSettings(find_codec(codec), arguments.preset)
        bar = tqdm(zip(scenes, maps, strict=True), total=len(scenes), desc=codec, unit="picture", disable=None)
        for scene, density in bar:
            chosen = {"projection": density, "map": density, "mean map": mean, "people": scene.gaze}
            rows += [{"codec": codec, **each} for each in _compare(scene, chosen, settings, arguments)]
    summary = _summary(rows, arguments.codecs)
    if arguments.json:
        print(json.dumps({"settings": vars(arguments), "summary": summary, "pictures": rows}, default=str))
        return
    print(f"{len(scenes)} pictures of {len({each.scene for each in scenes})} scenes; change in rate at equal PSNR")
    print(
        "| encoder | offsets | rate, weighted by gaze | rate, by solid angle | WS-PSNR at equal rate |\n"
        "|---|---|---|---|---|"
    )
    for each in summary:
        shown = [f"{each[name][0]:+.1f} % ({each[name][1]:+.1f} to {each[name][2]:+.1f})" for name in (GAZE, SPHERE)]
        print(f"| {each['codec']} | {each['variant']} | {shown[0]} | {shown[1]} | {each['sphere_db']:+.2f} dB |")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--headset", nargs="+", type=Path, default=[], metavar="FOLDER")
    add("--scenes", type=Path, metavar="CSV", help="table of scenes (docs/gaze_data.md) of the headset data")
    add("--photographs", default="", metavar="DATASET=FOLDER")
    add("--backgrounds", type=Path, metavar="FOLDER", help="panoramas for --photographs")
    add("--fold", type=int, default=0, help="of 5, of the photographs that are measured")
    add("--most", type=int, default=40, help="most pictures of a set")
    add("--codecs", nargs="+", default=["libx264", "libx265"], metavar="NAME")
    add("--preset", default="", help="of the encoders (default: theirs)")
    add("--frames", type=int, default=8, help="frames of a panned picture")
    add("--height", type=int, default=480, help="rows of the encoded frames (even)")
    add("--strength", type=float, default=QpOffsetSettings.strength, help="of the offsets (default: %(default)s)")
    add("--max-offset", type=int, default=QpOffsetSettings.max_offset, help="QP (default: %(default)s)")
    add("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


def _scenes(arguments: argparse.Namespace) -> Iterator[Scene]:
    for folder in arguments.headset:
        yield from _headset(folder, arguments)
    if arguments.photographs:
        yield from _photographs(arguments)


def _headset(folder: Path, arguments: argparse.Namespace) -> Iterator[Scene]:
    from training.data.gaze.panoramas_with_gaze import RecordedPanoramas
    from training.data.gaze.records import spread
    from training.data.gaze.scenes import scene_numbers

    records = RecordedPanoramas(folder, panorama_height=arguments.height, scenes=str(arguments.scenes or ""))
    scenes = scene_numbers(records.scenes, lambda index: records.read(index).panorama())
    for index in spread(len(records), arguments.most):
        record = records.read(index)
        assert record.density is not None
        yield Scene(f"{folder.name}/{record.name}", f"{folder.name}/{scenes[index]}", record.panorama(), record.density)


def _photographs(arguments: argparse.Namespace) -> Iterator[Scene]:
    """Panoramas with photographs of the fold, each photograph about once."""
    from training.data.gaze.datasets import GazeConfig, photograph_parts
    from training.data.gaze.placed_photographs import PlacedPhotographs, PlacementConfig
    from training.data.panoramas import PanoramaConfig, open_panoramas

    name, _, root = arguments.photographs.partition("=")
    config = GazeConfig(dataset=name, root=root, fold=arguments.fold, panoramas=str(arguments.backgrounds))
    photographs, _ = photograph_parts(config)
    panoramas = open_panoramas(PanoramaConfig(str(arguments.backgrounds), arguments.height))
    size = (arguments.height // 4, arguments.height // 2)
    placed = PlacedPhotographs(
        [each.read(400) for each in photographs],
        [each.density(200) for each in photographs],
        [panoramas[index] for index in range(len(panoramas))],
        PlacementConfig(exposure=0.0),
        size,
        seed=0,
    )
    for index in range(min(len(placed), arguments.most)):
        frame, densities, masks = placed[0, index]
        yield Scene(f"{name}/{index:03d}", f"{name}/{index:03d}", frame, judged(densities, masks))


def judged(densities: Density, masks: Any) -> Density:
    """Gaze within photographs (K, h, w) as one density (h, w): each, and the rest, keeps the weight of its area."""
    whole = np.ones(densities.shape[1:])
    for density, mask in zip(densities, masks, strict=True):
        if mask.any():
            whole[mask] = normalised(density.astype(np.float64), mask)[mask]
    return normalised(whole)


def _maps(scenes: Sequence[Scene]) -> list[Density]:
    with Predictor() as predictor:
        return [predictor.predict(each.picture, "rgb") for each in tqdm(scenes, unit="map", disable=None)]


def _compare(
    scene: Scene, chosen: dict[str, Density], settings: EncoderSettings, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The change in rate of each variant against the encoder without regions."""
    height = arguments.height
    picture = np.asarray(cv2.resize(scene.picture, (2 * height, height), interpolation=cv2.INTER_AREA), np.uint8)
    turns = [number * _PAN_PX * height // 512 for number in range(arguments.frames)]
    shots = [
        shot_of(np.roll(picture, turn, 1), "rgb", turned(scene.gaze, turn / (2 * height)), number, RATE_HZ)
        for number, turn in enumerate(turns)
    ]
    qualities = qualities_of(settings)
    plain = measure(shots, settings, None, qualities, RATE_HZ, with_ssim=False)
    for variant in VARIANTS:
        strength = 0.0 if variant == "projection" else arguments.strength
        output = QpOffset(height, 2 * height, QpOffsetSettings(strength=strength, max_offset=arguments.max_offset))
        offsets = [output.update(turned(chosen[variant], turn / (2 * height))) for turn in turns]
        curve = measure(shots, settings, offsets, qualities, RATE_HZ, with_ssim=False)
        yield {"picture": scene.name, "scene": scene.scene, "variant": variant, **gains(plain, curve)}


def turned(density: Density, share: float) -> Density:
    """A map (h, w) rolled to the right by a share of its width, interpolated between columns."""
    columns = share * density.shape[1]
    whole = math.floor(columns)
    part = columns - whole
    return (1 - part) * np.roll(density, whole, 1) + part * np.roll(density, whole + 1, 1)


def _summary(rows: Sequence[dict[str, Any]], codecs: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for codec in codecs:
        for variant in VARIANTS:
            mine = [each for each in rows if (each["codec"], each["variant"]) == (codec, variant)]
            found.append(
                {
                    "codec": codec,
                    "variant": variant,
                    GAZE: _interval(mine, lambda each: each["gaze_bd_rate_percent"]),
                    SPHERE: _interval(mine, lambda each: each["sphere_bd_rate_percent"]),
                    "sphere_db": float(np.nanmean([each["sphere_bd_psnr_db"] for each in mine])),
                }
            )
    return found


def _interval(rows: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> tuple[float, float, float]:
    """The mean over scenes of a scene's mean log ratio of rates, in percent, with its 95 % bootstrap interval."""
    by_scene: dict[str, list[float]] = {}
    for each in rows:
        if math.isfinite(value(each)):
            by_scene.setdefault(each["scene"], []).append(math.log1p(value(each) / 100))
    means: Floats = np.array([np.mean(each) for each in by_scene.values()])
    if not len(means):
        return math.nan, math.nan, math.nan
    picks = np.random.default_rng(0).integers(len(means), size=(2000, len(means)))
    low, high = np.percentile(means[picks].mean(axis=1), (2.5, 97.5))
    return tuple(100 * math.expm1(each) for each in (float(means.mean()), float(low), float(high)))  # type: ignore[return-value]


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))

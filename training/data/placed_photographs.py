"""Training samples: photographs and their gaze on real panoramas.

Several photographs lie on one panorama without overlap, so every forward pass counts and the model never sees an empty
sphere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from torch.utils.data import Dataset

from sal360_ros.projection import Viewport
from sal360_ros.sphere import Array, erp_directions
from training.config.placement import PlacementConfig
from training.data.colour import scale_colours
from training.data.loader import Key
from training.data.placement import Inset, draw_picture, gaze_on_sphere, inset_at, viewport_at

_GRID = (40, 80)
"""Coarse panorama on which viewports are kept apart."""


class PlacedPhotographs(Dataset[tuple[Array, Array, Array]]):
    """Panoramas with photographs on them; the item of key (epoch, index) is a function of (seed, epoch, index) alone.

    Each item is (frame (H, W, 3) uint8 RGB, densities (K, h, w) float32, masks (K, h, w) bool); unused slots of the K
    hold zeros. With taught maps, the last slot is the panorama where no photograph lies. Every photograph occurs about
    once an epoch.

    Args:
        pictures: (h, w, 3) uint8 RGB each.
        densities: (h', w') float32 each, gaze per area of the picture.
        backgrounds: panoramas (H, W, 3) uint8 of the frame's size.
        config: how they are placed.
        map_size: (h, w) of the model's map.
        seed: of all draws.
        taught: what to learn of each background, densities of `map_size`; None: nothing.
    """

    def __init__(
        self,
        pictures: Sequence[Array],
        densities: Sequence[Array],
        backgrounds: Sequence[Array],
        config: PlacementConfig,
        map_size: tuple[int, int],
        seed: int,
        taught: Sequence[Array] | None = None,
    ) -> None:
        self.taught = taught
        self.pictures, self.densities, self.backgrounds = pictures, densities, backgrounds
        self.config, self.map_size, self.seed = config, map_size, seed

    def __len__(self) -> int:
        return math.ceil(len(self.pictures) / self.config.mean_photographs)

    def __getitem__(self, key: Key) -> tuple[Array, Array, Array]:
        epoch, index = key
        generator = np.random.default_rng((self.seed, epoch, index))
        chosen = int(generator.integers(len(self.backgrounds)))
        background = self.backgrounds[chosen]
        columns = int(generator.integers(background.shape[1]))
        mirrored = generator.random() < 0.5
        frame = _turned(background, columns, mirrored)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.pictures))
        queue = np.roll(order, -round(index * self.config.mean_photographs))
        on_sphere: Array = np.zeros((self.config.slots, *self.map_size), np.float32)
        masks: Array = np.zeros((self.config.slots, *self.map_size), bool)
        for slot, place in enumerate(itertools.islice(self._places(generator, *frame.shape[:2]), self.config.slots)):
            photograph = queue[slot % len(queue)]
            picture, density = self.pictures[photograph], self.densities[photograph]
            if generator.random() < 0.5:
                picture, density = np.ascontiguousarray(picture[:, ::-1]), np.ascontiguousarray(density[:, ::-1])
            picture, density = crop(picture, density, self.config.crop, generator)
            picture = vary_exposure(picture, self.config.exposure, generator)
            saturation = 1 + self.config.saturation * generator.uniform(-1, 1)
            picture = scale_colours(picture, 1.0, 1.0, saturation)
            if isinstance(place, Inset):
                place.draw(frame, picture)
                on_sphere[slot], masks[slot] = place.gaze(density, *self.map_size, of_height=frame.shape[0])
            else:
                draw_picture(frame, picture, place)
                on_sphere[slot], masks[slot] = gaze_on_sphere(density, place, *self.map_size)
        if self.taught is not None:
            rest = np.asarray(~masks.any(axis=0))  # (h, w)
            per_column = background.shape[1] / self.map_size[1]
            taught = _turned(self.taught[chosen], columns / per_column, mirrored)
            on_sphere = np.concatenate([on_sphere, (taught * rest)[None]])  # (K + 1, h, w)
            masks = np.concatenate([masks, rest[None]])
        return frame, on_sphere, masks

    def _places(self, generator: np.random.Generator, height: int, width: int) -> Iterator[Inset | Viewport]:
        """Now and then insets, and viewports that do not overlap, most near the equator, where people look."""
        free = np.ones(_GRID, bool)
        directions = erp_directions(*_GRID)
        if generator.random() < self.config.inset_share:
            first, count = int(generator.integers(width)), int(generator.integers(self.config.insets)) + 1
            for i in range(count):
                share = min(generator.uniform(*self.config.inset_width), 1 / count)
                centre = first + i * width // count
                inset = inset_at(centre, share * width, height, multiple=height // self.map_size[0])
                free &= ~inset.mask(*_GRID, of_height=height)
                yield inset
        for attempt in range(self.config.attempts):
            # the wide ones first: the narrow ones then fill what is left
            share = attempt / self.config.attempts
            low, high = self.config.fov_deg
            fov = math.radians(high - (high - low) * min(1.0, share + generator.uniform(0, 0.5)))
            near = generator.random() < self.config.equator_share
            spread = self.config.elevation_deg if near else 90.0
            elevation = math.asin(generator.uniform(-1, 1) * math.sin(math.radians(spread)))
            roll = math.radians(self.config.roll_deg) * generator.uniform(-1, 1)
            viewport = viewport_at(generator.uniform(-math.pi, math.pi), elevation, roll, fov, 3, 4)
            inside = viewport.project(directions)[2]
            if not free[inside].all():
                continue
            free &= ~inside
            yield viewport


def _turned(panorama: Array, columns: float, mirrored: bool) -> Array:
    """A panorama (h, w, …) rolled to the right by that many columns, linear between whole ones, then mirrored."""
    whole = math.floor(columns)
    turned = np.roll(panorama, whole, axis=1)
    if part := columns - whole:
        turned = (1 - part) * turned + part * np.roll(turned, 1, axis=1)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def crop(picture: Array, density: Array, smallest: float, generator: np.random.Generator) -> tuple[Array, Array]:
    """A random part of a photograph (h, w, 3) and of its gaze (h', w'), at least `smallest` of the width, same aspect.

    The photograph stays whole where the part would hold less than half of its gaze: what is left at the edge of an
    attractive thing is no ground truth.
    """
    share = generator.uniform(smallest, 1)
    top, left = generator.uniform(0, 1 - share, 2)

    def part(whole: Array) -> Array:
        height, width = whole.shape[:2]
        rows = slice(round(top * height), round((top + share) * height))
        return whole[rows, round(left * width) : round((left + share) * width)]

    gaze = part(density)
    if gaze.sum() < 0.5 * density.sum():
        return picture, density
    return np.ascontiguousarray(part(picture)), np.ascontiguousarray(gaze)


def vary_exposure(picture: Array, strength: float, generator: np.random.Generator) -> Array:
    """Random gain of each colour and offset of all, as white balance and exposure vary: (h, w, 3) uint8."""
    if strength == 0:
        return picture
    gain = 1 + strength * generator.uniform(-1, 1) + 0.3 * strength * generator.uniform(-1, 1, 3)
    offset = 128 * (1 - gain.mean()) + 64 * strength * generator.uniform(-1, 1)
    table = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)  # (256, 3)
    varied: Array = cv2.LUT(picture, table[None])
    return varied

"""Variable-rate shading: one byte a tile that Vulkan and Direct3D 12 both take as it is.

Vulkan reads a texel b of a fragment shading rate attachment as width 2^((b / 4) & 3), height 2^(b & 3)
(VK_KHR_fragment_shading_rate, "Attachment Fragment Shading Rate"); D3D12's DXGI_FORMAT_R8_UINT shading-rate image holds
D3D12_SHADING_RATE values, log2(width) << 2 | log2(height): the same byte. Only 1x1, 2x2 and 4x4 are written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sal360.outputs.tiles import ErpTiles, TileGrid, WindowTiles, cube_faces
from sal360.settings import Settings, setting
from sal360.sphere import Array

RATE_1X1, RATE_2X2, RATE_4X4 = 0b0000, 0b0101, 0b1010


@dataclass(frozen=True)
class ShadingRateSettings(Settings):
    """Which tiles are shaded how finely."""

    tile_px: int = setting(16, "side of a tile: the GPU's shading-rate tile size", choices=(8, 16, 32), unit="px")
    limit: str = setting("2x2", "coarsest shading rate", choices=("2x2", "4x4"))
    """Direct3D 12 has 4x4 only where AdditionalShadingRatesSupported is set."""
    projection: str = setting(
        "erp",
        "picture that is rendered; erp: equirectangular; cubemap: six faces, one below the other",
        choices=("erp", "cubemap"),
    )
    """For the faces and their order see `tiles.cube_faces`."""
    full_rate_density: float = setting(
        1.0, "minimum density, relative to uniform, of a tile shaded at 1x1", minimum=0, maximum=1e6
    )
    half_rate_density: float = setting(
        0.5,
        "minimum density, relative to uniform, of a tile shaded at 2x2; used with limit 4x4",
        minimum=0,
        maximum=1e6,
    )
    full_rate_share: float = setting(
        0.0,
        "share of the picture's pixels shaded at 1x1, densest tiles first; replaces full_rate_density; 0: off",
        minimum=0,
        maximum=1,
    )
    """Counted by pixels and not by solid angle, because pixels are what shading costs."""
    hysteresis: float = setting(
        0.15,
        "how far below its threshold, as a share of it, a tile keeps its finer rate; prevents flicker",
        minimum=0,
        maximum=0.9,
    )


class ShadingRate:
    """Shading rates for the pictures of one stream.

    Args:
        height, width: of the rendered panorama in pixels; for a cube map the face's side is `height`.
        settings: how they are chosen.
    """

    def __init__(self, height: int, width: int, settings: ShadingRateSettings | None = None) -> None:
        self.settings = settings or ShadingRateSettings()
        self.grid: TileGrid
        if self.settings.projection == "cubemap":
            self.grid = WindowTiles(cube_faces(height), self.settings.tile_px)
        else:
            self.grid = ErpTiles(height, width, self.settings.tile_px)
        self.reset()

    def reset(self) -> None:
        """Forget the last rates: the next ones come from the map alone."""
        self._full: Array = np.zeros(self.grid.shape, bool)
        self._half: Array = np.zeros(self.grid.shape, bool)

    def update(self, density: Array) -> Array:
        """The rates after one more map (h, w): (rows, columns) uint8; cube faces follow each other downwards."""
        average = self.grid.average(density)
        settings = self.settings
        held = 1 / (1 - settings.hysteresis)  # a tile that has a rate counts as this many times denser for keeping it
        for_full = average * np.where(self._full, held, 1)
        if settings.full_rate_share > 0:
            self._full = self._within_budget(for_full)
        else:
            self._full = for_full >= settings.full_rate_density
        self._half = self._full | (average * np.where(self._half, held, 1) >= settings.half_rate_density)
        coarsest = RATE_4X4 if settings.limit == "4x4" else RATE_2X2
        return np.where(self._full, RATE_1X1, np.where(self._half, RATE_2X2, coarsest)).astype(np.uint8)

    def _within_budget(self, rank: Array) -> Array:
        """The tiles of highest rank whose pixels together stay within the budget."""
        order = np.argsort(-rank, axis=None, kind="stable")
        spent = np.cumsum(self.grid.pixels.ravel()[order])
        full = np.zeros(rank.size, bool)
        full[order[spent <= self.settings.full_rate_share * spent[-1]]] = True
        return full.reshape(rank.shape)


def decode_rates(rates: Array) -> tuple[Array, Array]:
    """Width and height in pixels of the fragments that the bytes ask for."""
    return 1 << ((rates >> 2) & 3), 1 << (rates & 3)


def shaded_share(rates: Array, grid: TileGrid) -> float:
    """Fragments shaded, as a share of shading every pixel, in (0, 1]."""
    width, height = decode_rates(rates)
    return float((grid.pixels / (width * height)).sum() / grid.pixels.sum())

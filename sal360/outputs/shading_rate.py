"""Variable-rate shading: one byte per tile, in an encoding that Vulkan and Direct3D 12 share.

Vulkan reads a texel b of a fragment shading rate attachment as width 2^((b / 4) & 3), height 2^(b & 3)
(VK_KHR_fragment_shading_rate, "Attachment Fragment Shading Rate"); D3D12's DXGI_FORMAT_R8_UINT shading-rate image holds
D3D12_SHADING_RATE values, log2(width) << 2 | log2(height): the same byte. Only 1x1, 2x2 and 4x4 are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Mask, Pixels
from sal360.errors import ParameterError
from sal360.outputs.layout import EQUIRECTANGULAR, Layout
from sal360.outputs.tiles import TileGrid, WindowTiles, cube_faces
from sal360.settings import Settings, setting

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
    """Counted by pixels and not by solid angle, because the cost of shading depends on pixels."""
    hysteresis: float = setting(
        0.15,
        "how far below its threshold, as a share of it, a tile keeps its finer rate; prevents flicker",
        minimum=0,
        maximum=0.9,
    )


class ShadingRate:
    """Shading rates for the frames of one stream.

    Args:
        height, width: size of the rendered picture in pixels; for a cube map, `height` is the side of a face.
        settings: how the rates are chosen.
        layout: of the rendered picture; for the projection cubemap, that of `tiles.cube_faces`.

    Raises:
        ParameterError: the projection is cubemap, and another layout is given.
    """

    def __init__(
        self,
        height: int,
        width: int,
        settings: ShadingRateSettings | None = None,
        layout: Layout = EQUIRECTANGULAR,
    ) -> None:
        self.settings = settings or ShadingRateSettings()
        self.grid: TileGrid
        if self.settings.projection == "cubemap":
            if layout is not EQUIRECTANGULAR:
                raise ParameterError(
                    "projection is 'cubemap', and the shading rates are for the camera's own layout",
                    "set projection to erp, or the layout to equirectangular",
                )
            self.grid = WindowTiles(cube_faces(height), self.settings.tile_px)
        else:
            self.grid = layout.tiles(height, width, self.settings.tile_px)
        self._has_picture: Mask = self.grid.picture_pixels > 0
        self.reset()

    def reset(self) -> None:
        """Forget the last rates, so that the next ones depend only on the map."""
        self._full: Mask = np.zeros(self.grid.shape, bool)
        self._half: Mask = np.zeros(self.grid.shape, bool)

    def update(self, density: Density) -> Pixels:
        """The rates for the next map (h, w): (rows, columns) uint8, cube faces one below the other.

        Tiles that show nothing get the coarsest rate.
        """
        average = self.grid.average(density)
        settings = self.settings
        held = 1 / (1 - settings.hysteresis)  # a tile keeps a rate as if it were this many times denser
        for_full = average * np.where(self._full, held, 1)
        if settings.full_rate_share > 0:
            self._full = self._within_budget(for_full)
        else:
            self._full = for_full >= settings.full_rate_density
        self._full &= self._has_picture
        for_half = average * np.where(self._half, held, 1)
        self._half = self._full | (for_half >= settings.half_rate_density) & self._has_picture
        coarsest = RATE_4X4 if settings.limit == "4x4" else RATE_2X2
        return np.where(self._full, RATE_1X1, np.where(self._half, RATE_2X2, coarsest)).astype(np.uint8)

    def _within_budget(self, rank: NDArray[Any]) -> Mask:
        """The tiles of highest rank whose pixels together stay within the budget."""
        order = np.argsort(-rank, axis=None, kind="stable")
        spent = np.cumsum(self.grid.pixels.ravel()[order])
        full = np.zeros(rank.size, bool)
        full[order[spent <= self.settings.full_rate_share * spent[-1]]] = True
        return full.reshape(rank.shape)


def decode_rates(rates: Pixels) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    """Width and height in pixels of the fragments that the bytes encode."""
    return 1 << ((rates >> 2) & 3), 1 << (rates & 3)


def shaded_share(rates: Pixels, grid: TileGrid) -> float:
    """Number of shaded fragments divided by the number of pixels, in (0, 1]."""
    width, height = decode_rates(rates)
    return float((grid.pixels / (width * height)).sum() / grid.pixels.sum())

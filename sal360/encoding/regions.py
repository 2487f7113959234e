"""Regions of interest on frames, as FFmpeg's encoders read them (AVRegionOfInterest, libavutil/frame.h).

PyAV has no function that attaches such data to a frame. FFmpeg's filter `addroi` attaches one region, and further ones
behind it. So one small chain of these filters makes a frame with as many regions as will be needed; each picture is
written into a copy of that frame, and its regions over the ones there.
"""

from __future__ import annotations

import ctypes
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Integers
from sal360.encoding.codecs import Codec

if TYPE_CHECKING:
    import av

# uint32 self_size; int top, bottom, left, right; AVRational qoffset
_REGION = np.dtype([("self_size", "<u4"), ("edges", "<i4", 4), ("numerator", "<i4"), ("denominator", "<i4")])
_TIME_BASE = Fraction(1, 90_000)
_FIRST_CAPACITY = 256


def rectangles(offsets: NDArray[np.int8]) -> Integers:
    """Rectangles of equal offsets that cover all blocks with an offset other than zero.

    Args:
        offsets: (rows, columns) int8.

    Returns:
        (n, 5): top, bottom, left, right in blocks (bottom and right outside), and the offset. They do not overlap.
    """
    found: list[list[int]] = []
    open_runs: dict[tuple[int, int, int], int] = {}  # left, right, value → index of the rectangle above
    for row, values in enumerate(offsets):
        edges = np.flatnonzero(np.diff(values.astype(np.int16))) + 1
        runs = {}
        for left, right in zip([0, *edges.tolist()], [*edges.tolist(), len(values)], strict=True):
            value = int(values[left])
            if value == 0:
                continue
            index = open_runs.get((left, right, value))
            if index is None:
                index = len(found)
                found.append([row, row + 1, left, right, value])
            found[index][1] = row + 1
            runs[left, right, value] = index
        open_runs = runs
    return np.array(found, np.int64).reshape(-1, 5)


def with_few_levels(offsets: NDArray[np.int8], levels: int) -> NDArray[np.int8]:
    """The offsets with at most `levels` different values besides zero, evenly spaced; 0: unchanged."""
    largest = int(np.abs(offsets).max(initial=0))
    if levels == 0 or len(np.setdiff1d(offsets, [0])) <= levels:
        return offsets
    each_side = max(1, levels // 2)
    step = largest / each_side
    return np.rint(np.rint(offsets / step) * step).astype(np.int8)


class RegionFrames:
    """Frames of one size with regions of interest.

    Args:
        height, width: even, pixels.
        codec: of the encoder that takes the frames.
        block_px: side of the blocks that the offsets are for.
    """

    def __init__(self, height: int, width: int, codec: Codec, block_px: int) -> None:
        self._height, self._width, self._codec, self._block_px = height, width, codec, block_px
        self._capacity = 0
        self._template: Any = None
        self._copier: Any = None

    def marked(self, picture: av.VideoFrame, offsets: NDArray[np.int8]) -> Any:
        """The picture with its regions; neither is shared with the argument.

        Args:
            picture: of the codec's pixel format, and of this size.
            offsets: (rows, columns) int8, QP; negative is better.
        """
        regions = rectangles(with_few_levels(offsets, self._codec.levels))
        frame: Any = self._empty(len(regions))
        planes: Any = zip(frame.planes, picture.planes, strict=True)
        for written, read in planes:
            target = np.frombuffer(written, np.uint8).reshape(-1, written.line_size)
            source = np.frombuffer(read, np.uint8).reshape(-1, read.line_size)
            length = min(written.line_size, read.line_size)
            target[:, :length] = source[: len(target), :length]
        side = frame.side_data["REGIONS_OF_INTEREST"]
        content = self._content(regions)
        assert content.nbytes == side.buffer_size
        # PyAV offers the data read-only; this frame is ours, and nobody else has it yet
        ctypes.memmove(side.buffer_ptr, content.ctypes.data, content.nbytes)
        frame.pts = picture.pts
        if picture.time_base is not None:
            frame.time_base = picture.time_base
        frame.pict_type = picture.pict_type
        return frame

    def _content(self, regions: Integers) -> NDArray[Any]:
        """All regions of a frame, with empty ones without an offset behind them."""
        content = np.zeros(self._capacity, _REGION)
        content["self_size"] = _REGION.itemsize
        content["denominator"] = self._codec.qp_range
        edges = regions[:, :4] * self._block_px
        limits = (self._height, self._height, self._width, self._width)
        content["edges"][: len(regions)] = np.minimum(edges, limits)
        content["numerator"][: len(regions)] = regions[:, 4]
        return content

    def _empty(self, count: int) -> Any:
        """A frame of undefined content with room for at least `count` regions."""
        from av.filter import Graph

        if count > self._capacity or self._template is None:
            self._capacity = max(_FIRST_CAPACITY, 1 << (count - 1).bit_length())
            self._template = self._make_template()
            self._copier = Graph()
            # the filter copies the data beside the picture, too
            self._copier.link_nodes(self._source(self._copier), self._copier.add("copy"), self._sink(self._copier))
            self._copier.configure()
        self._copier.push(self._template)
        return self._copier.pull()

    def _make_template(self) -> Any:
        from av import VideoFrame
        from av.filter import Graph

        graph = Graph()
        chain = [graph.add("addroi", "x=0:y=0:w=2:h=2:qoffset=0") for _ in range(self._capacity)]
        graph.link_nodes(self._source(graph), *chain, self._sink(graph))
        graph.configure()
        frame = VideoFrame(self._width, self._height, self._codec.pixel_format)
        frame.pts, frame.time_base = 0, _TIME_BASE
        graph.push(frame)
        return graph.pull()

    def _source(self, graph: Any) -> Any:
        return graph.add_buffer(
            width=self._width, height=self._height, format=self._codec.pixel_format, time_base=_TIME_BASE
        )

    @staticmethod
    def _sink(graph: Any) -> Any:
        return graph.add("buffersink")

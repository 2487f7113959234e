"""Map files for other encoders, read back by parsers of the formats that those encoders document."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from sal360.encoding.map_files import KINDS, MapFile, map_format
from sal360.errors import DataError, ParameterError

HEIGHT, WIDTH = 130, 260


def written(kind: str, suffix: str, count: int = 3) -> tuple[bytes, list[np.ndarray]]:
    form = map_format(kind, Path(f"map{suffix}"))
    shape = -(-HEIGHT // form.block_px), -(-WIDTH // form.block_px)
    generator = np.random.default_rng(0)
    maps = [generator.integers(-8, 9, shape).astype(np.int8) for _ in range(count)]
    file = io.BytesIO()
    with MapFile(file, form, HEIGHT, WIDTH) as target:
        for each in maps:
            target.append(each)
    return file.getvalue(), maps


@pytest.mark.parametrize("kind", ["kvazaar", "uvg266"])
def test_the_text_of_kvazaar_is_columns_rows_and_offsets_of_each_frame(kind: str) -> None:
    content, maps = written(kind, ".txt")
    numbers = [int(each) for each in content.split()]
    for offsets in maps:
        columns, rows, *numbers = numbers
        assert (rows, columns) == offsets.shape == (3, 5)
        assert numbers[: rows * columns] == offsets.ravel().tolist()
        numbers = numbers[rows * columns :]
    assert numbers == []


@pytest.mark.parametrize("kind", ["kvazaar", "uvg266"])
def test_the_binary_form_has_32_bit_sizes_and_signed_bytes(kind: str) -> None:
    content, maps = written(kind, ".bin")
    for offsets in maps:
        columns, rows = struct.unpack_from("<ii", content)
        assert np.array_equal(np.frombuffer(content, np.int8, rows * columns, 8).reshape(rows, columns), offsets)
        content = content[8 + rows * columns :]
    assert content == b""


def test_the_lines_of_svt_av1_have_a_frame_number_and_at_most_eight_offsets() -> None:
    content, maps = written("svt-av1", ".txt")
    lines = content.decode().splitlines()
    assert len(lines) == len(maps)
    for number, (line, offsets) in enumerate(zip(lines, maps, strict=True)):
        picture, *values = map(int, line.split())
        assert picture == number
        assert len(values) == ((WIDTH + 63) // 64) * ((HEIGHT + 63) // 64)
        assert len(set(values)) <= 8
        assert -255 <= min(values) <= max(values) <= 255
        assert np.corrcoef(values, offsets.ravel())[0, 1] > 0.9


def test_the_largest_offset_of_svt_av1_is_not_negative() -> None:
    file = io.BytesIO()
    MapFile(file, map_format("svt-av1", Path("map.txt")), 64, 128).append(np.array([[-8, -4]], np.int8))
    assert file.getvalue() == b"0 -20 0\n"


def test_android_gets_a_byte_for_each_macroblock() -> None:
    content, maps = written("android", ".bin")
    size = ((WIDTH + 15) // 16) * ((HEIGHT + 15) // 16)
    assert len(content) == len(maps) * size
    for number, offsets in enumerate(maps):
        assert np.array_equal(np.frombuffer(content, np.int8, size, number * size), offsets.ravel())


def test_offsets_of_another_size_are_refused() -> None:
    target = MapFile(io.BytesIO(), map_format("android", Path("map.bin")), HEIGHT, WIDTH)
    with pytest.raises(DataError, match=r"frame 0 has offsets of 4 x 2 blocks; expected 17 x 9"):
        target.append(np.zeros((2, 4), np.int8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_the_encoder_would_read_in_another_way_is_refused(kind: str) -> None:
    with pytest.raises(ParameterError, match=r"map.roi does not end in \."):
        map_format(kind, Path("map.roi"))

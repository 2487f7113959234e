"""Maps in shared memory: what readers in C, C++ and Python get, and what happens when writers end, die or restart."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sal360 import projection, sphere
from sal360.arrays import Density, Floats, Pixels
from sal360.errors import ParameterError
from sal360.outputs import shared_memory
from sal360.outputs.overlay import saliency_to_mono8
from sal360.outputs.shared_memory import (
    RING,
    SLOT,
    MapInfo,
    SharedMap,
    SharedMapError,
    SharedMapWriter,
    include_path,
    shared_path,
)

pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no /dev/shm")
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow")
WRAPPERS = """
#include "sal360.h"
#include <stdio.h>
typedef struct { sal360_ring ring; sal360_map map; } both;
void *make(void) { return calloc(1, sizeof(both)); }
int open_ring(both *it, const char *name) { return sal360_open(&it->ring, name); }
int read_map(both *it) { return sal360_read(&it->ring, &it->map); }
int is_alive(const both *it) { return sal360_writer_is_alive(&it->ring); }
void look_up(const both *it, int axes, const float *rays, size_t count, float *out) {
    sal360_lookup_rays(&it->map, (sal360_axes)axes, rays, count, out);
}
void to_mono8(const both *it, unsigned char *out) { sal360_to_mono8(&it->map, out); }
const sal360_map *map_of(const both *it) { return &it->map; }
void forget(both *it) { sal360_close(&it->ring); sal360_map_free(&it->map); }
const char *message(int status) { return sal360_strerror(status); }
"""
BAD_NAME, DAMAGED, NO_MAP, NO_RING, NOT_A_RING, OK, OTHER_VERSION, UNCHANGED = -3, -7, -2, -1, -5, 0, -6, 1


class CMap(ctypes.Structure):
    """The beginning of `sal360_map`."""

    _fields_ = (
        ("number", ctypes.c_uint64),
        ("writer", ctypes.c_uint64),
        ("stamp_ns", ctypes.c_int64),
        ("written_ns", ctypes.c_int64),
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("full_scale", ctypes.c_float),
        ("yaw_offset_rad", ctypes.c_float),
        ("frame_axes", ctypes.c_int),
        ("has_up", ctypes.c_int),
        ("up", ctypes.c_float * 3),
        ("has_orientation", ctypes.c_int),
        ("orientation", ctypes.c_float * 9),
        ("frame_id", ctypes.c_char * 152),
    )


class CReader:
    """sal360.h, compiled into a library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name in ("make", "map_of", "message"):
            getattr(library, name).restype = ctypes.c_void_p
        library.message.restype = ctypes.c_char_p
        self._both = ctypes.c_void_p(library.make())

    def open(self, name: str) -> int:
        return int(self._library.open_ring(self._both, name.encode()))

    def read(self) -> int:
        return int(self._library.read_map(self._both))

    @property
    def map(self) -> CMap:
        return CMap.from_address(self._library.map_of(self._both))

    @property
    def is_alive(self) -> bool:
        return bool(self._library.is_alive(self._both))

    def look_up(self, rays: Floats, axes: str = "body") -> Density:
        given = np.ascontiguousarray(rays, np.float32)
        found = np.empty(given.shape[:-1], np.float32)
        self._library.look_up(
            self._both,
            sphere.FRAME_CONVENTIONS.index(axes),
            given.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_size_t(found.size),
            found.ctypes.data_as(ctypes.c_void_p),
        )
        return found

    def mono8(self) -> Pixels:
        pixels = np.empty((self.map.height, self.map.width), np.uint8)
        self._library.to_mono8(self._both, pixels.ctypes.data_as(ctypes.c_void_p))
        return pixels

    def message(self, status: int) -> str:
        return str(self._library.message(status).decode())

    def forget(self) -> None:
        self._library.forget(self._both)


def compiler(name: str) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}")
    return name


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("c")
    (folder / "wrappers.c").write_text(WRAPPERS)
    command = [compiler("cc"), "-std=c99", "-O2", "-shared", "-fPIC", *STRICT, f"-I{include_path()}"]
    subprocess.run([*command, str(folder / "wrappers.c"), "-o", str(folder / "reader.so"), "-lm"], check=True)
    return ctypes.CDLL(str(folder / "reader.so"))


@pytest.fixture
def c_reader(library: ctypes.CDLL) -> Iterator[CReader]:
    reader = CReader(library)
    yield reader
    reader.forget()


@pytest.fixture(scope="module")
def program(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C program of the benchmark."""
    target = tmp_path_factory.mktemp("program") / "reader"
    source = repository / "benchmarks" / "shared_memory_reader.c"
    command = [compiler("cc"), "-std=c99", "-O2", *STRICT, f"-I{include_path()}", str(source), "-o", str(target), "-lm"]
    subprocess.run(command, check=True)
    return target


@pytest.fixture
def name() -> Iterator[str]:
    """A topic of this test's own; nothing of it must be left behind."""
    topic = f"/test_{uuid.uuid4().hex}/saliency"
    yield topic
    left = list(Path("/dev/shm").glob(f"*{topic.split('/')[1]}*"))
    for each in left:
        each.unlink()
    assert left == []


def noise(height: int, width: int, seed: int = 0) -> Density:
    return np.random.default_rng(seed).gamma(1, 1, (height, width)).astype(np.float32)


def exact(density: Density, directions: Floats) -> Floats:
    """The slow oracle: bilinear between the four pixels around each body vector, pixel by pixel on the sphere."""
    height, width = density.shape
    padded = projection.pad_sphere(density).astype(np.float64)
    u, v = sphere.vector_to_pixel(directions, height, width)
    column, row = np.floor(u).astype(int), np.floor(v).astype(int)
    right, lower = u - column, v - row
    at = padded[row + 1, column + 1] * (1 - right) + padded[row + 1, column + 2] * right
    below = padded[np.minimum(row + 2, height + 1), column + 1] * (1 - right)
    below += padded[np.minimum(row + 2, height + 1), column + 2] * right
    result: Floats = at * (1 - lower) + below * lower
    return result


# --- lookups ---


AXES = st.sampled_from(sphere.FRAME_CONVENTIONS)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 81))
SPECIAL = np.array(
    [[1, 0, 0], [-1, 0, 0], [-1, -0.0, 0], [-1, 1e-7, 0], [0, 1, 0], [0, -1, 0], [1e-7, 0, 1], [0, 1e-6, -1]]
)


@given(
    size=SIZES,
    axes=AXES,
    seed=st.integers(0, 2**31),
    yaw=st.floats(-6.28, 6.28),
    length=st.sampled_from([1e-30, 1.0, 1e30]),
)
@settings(max_examples=60)
def test_a_lookup_in_c_is_the_bilinear_lookup_on_the_sphere(
    library: ctypes.CDLL, size: tuple[int, int], axes: str, seed: int, yaw: float, length: float
) -> None:
    rng = np.random.default_rng(seed)
    density = noise(*size, seed)
    rays = np.concatenate([rng.standard_normal((50, 3)), SPECIAL])
    rays = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    topic = f"/test_{uuid.uuid4().hex}"
    reader = CReader(library)
    with SharedMapWriter(topic, *size) as writer:
        writer.write(density, MapInfo(yaw_offset_rad=yaw))
        assert reader.open(topic) == OK
        assert reader.read() == OK
        found = reader.look_up(length * sphere.body_to_frame(rays, axes), axes)
        in_map = rays @ sphere.rotation_yaw_pitch_roll(yaw_rad=float(np.float32(yaw)))  # Rᵀ: from frame_id to the map
        expected = exact(density, in_map)
    reader.forget()
    # float32 angles: an error of some 1e-6 rad, times pixels per rad, times the largest step between pixels
    np.testing.assert_allclose(found, expected, atol=1e-6 * max(size) * float(np.ptp(density)) * 4 + 1e-6)


def test_a_lookup_in_c_agrees_with_the_python_lookup(c_reader: CReader, name: str) -> None:
    density = noise(96, 192)
    directions = np.random.default_rng(1).standard_normal((200, 100, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    with SharedMapWriter(name, 96, 192) as writer:
        writer.write(density, MapInfo())
        assert (c_reader.open(name), c_reader.read()) == (OK, OK)
    expected = projection.sample_erp(density, directions)
    # OpenCV rounds the places to 1/32 pixel
    assert np.abs(c_reader.look_up(directions) - expected).max() < np.ptp(density) / 32
    up, down = c_reader.look_up(np.array([[0.0, 0, 1], [0, 0, -1]]))  # where any azimuth would do
    assert density[0].min() <= up <= density[0].max()
    assert density[-1].min() <= down <= density[-1].max()


def test_a_map_without_a_ray_or_a_ray_without_a_map_is_no_crash(c_reader: CReader, name: str) -> None:
    rays = np.array([[1.0, 0, 0], [0, 0, 0], [np.nan, 0, 0], [0, 0, np.nan], [np.inf, 0, 0], [np.inf, np.inf, -np.inf]])
    assert c_reader.look_up(rays).tolist() == [1.0] * 6
    with SharedMapWriter(name, 4, 8) as writer:
        writer.write(noise(4, 8), MapInfo())
        assert (c_reader.open(name), c_reader.read()) == (OK, OK)
    found = c_reader.look_up(rays)
    assert found[1] == found[0] == found[4]  # the zero vector looks forward, as in Python
    assert np.isnan(found).tolist() == [False, False, True, True, False, False]


def test_the_map_in_8_bits_is_that_of_the_topic(c_reader: CReader, name: str) -> None:
    density = noise(31, 63) * 4
    with SharedMapWriter(name, 31, 63) as writer:
        writer.write(density, MapInfo(full_scale=6.0))
        assert (c_reader.open(name), c_reader.read()) == (OK, OK)
    assert np.abs(c_reader.mono8().astype(int) - saliency_to_mono8(density, 6.0)).max() <= 1
    assert c_reader.mono8().max() == 255


# --- what a map says ---


def test_readers_get_the_map_with_everything_that_it_says(c_reader: CReader, name: str) -> None:
    density, turn = noise(6, 12), sphere.rotation_yaw_pitch_roll(0.5, 0.2, -0.1)
    info = MapInfo(-5, "kamera_ä", "openxr", 3.0, 0.25, turn[2], turn)
    begin_ns = time.monotonic_ns()
    with SharedMapWriter(name, 10, 20) as writer:
        writer.write(density, info)
        reader = SharedMap.open(name)
        found = reader.read()
        assert (c_reader.open(name), c_reader.read()) == (OK, OK)
    assert found is not None
    np.testing.assert_array_equal(found.density, density)
    assert (found.number, found.stamp_ns, found.frame_id, found.frame_axes) == (1, -5, "kamera_ä", "openxr")
    assert begin_ns <= found.written_ns <= time.monotonic_ns()
    assert (found.full_scale, found.yaw_offset_rad) == (3.0, 0.25)
    assert found.up is not None
    assert found.orientation is not None
    np.testing.assert_allclose(found.up, turn[2], atol=1e-6)
    np.testing.assert_allclose(found.orientation, turn, atol=1e-6)
    c_map = c_reader.map
    assert (c_map.number, c_map.stamp_ns, c_map.frame_id.decode(), c_map.frame_axes) == (1, -5, "kamera_ä", 2)
    assert (c_map.width, c_map.height, c_map.full_scale, c_map.yaw_offset_rad) == (12, 6, 3.0, 0.25)
    assert (c_map.has_up, c_map.has_orientation, c_map.written_ns) == (1, 1, found.written_ns)
    np.testing.assert_allclose(c_map.up, turn[2], atol=1e-6)
    np.testing.assert_allclose(np.reshape(c_map.orientation, (3, 3)), turn, atol=1e-6)


def test_what_is_not_known_is_not_said_and_a_long_frame_id_is_cut(c_reader: CReader, name: str) -> None:
    with SharedMapWriter(name, 2, 4) as writer:
        writer.write(noise(2, 4), MapInfo(frame_id="x" * 300))
        found = SharedMap.open(name).read()
        assert (c_reader.open(name), c_reader.read()) == (OK, OK)
    assert found is not None
    assert (found.up, found.orientation, found.frame_id) == (None, None, "x" * 151)
    assert (c_reader.map.has_up, c_reader.map.has_orientation, c_reader.map.frame_id) == (0, 0, b"x" * 151)


def test_only_newer_maps_are_read_and_the_newest_of_several(c_reader: CReader, name: str) -> None:
    with SharedMapWriter(name, 2, 4) as writer:
        reader = SharedMap.open(name)
        assert reader.read() is None
        assert (c_reader.open(name), c_reader.read()) == (OK, NO_MAP)
        for number in range(1, 12):
            writer.write(np.full((2, 4), number, np.float32), MapInfo(stamp_ns=number))
            if number in (1, 2, 11):
                found = reader.read()
                assert found is not None
                assert (found.number, found.stamp_ns, found.density[1, 3]) == (number, number, number)
                assert c_reader.read() == OK
                assert c_reader.map.stamp_ns == number
        assert reader.read() is None
        assert c_reader.read() == UNCHANGED
    assert found is not None
    assert found.density[0, 0] == 11  # a copy, which outlives the writer


def test_a_map_of_another_size_is_followed_and_one_that_is_too_large_refused(c_reader: CReader, name: str) -> None:
    with SharedMapWriter(name, 8, 16) as writer:
        assert c_reader.open(name) == OK
        for size in ((4, 8), (8, 16), (1, 1), (2, 4)):
            writer.write(noise(*size), MapInfo())
            assert c_reader.read() == OK
            assert (c_reader.map.height, c_reader.map.width) == size
            directions = sphere.erp_directions(*size).reshape(-1, 3)
            np.testing.assert_allclose(c_reader.look_up(directions), noise(*size).ravel(), atol=1e-4)
        with pytest.raises(ParameterError, match=r"^the map is 18 x 9, larger than the 128 pixels"):
            writer.write(noise(9, 18), MapInfo())


# --- names, files, permissions ---


def test_the_layouts_of_c_and_python_are_one(program: Path) -> None:
    printed = subprocess.run([program, "layout"], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(\w+ [\w-]+) (\d+)\n", printed))
    for kind, layout in (("ring", RING), ("slot", SLOT)):
        assert layout.fields is not None
        expected = {f"{kind} {field}": str(offset) for field, (_, offset, *_) in layout.fields.items()}
        expected[f"{kind} -"] = str(layout.itemsize)
        assert {key: value for key, value in found.items() if key.startswith(kind)} == expected
    assert RING.fields is not None
    assert RING.fields["newest"][1] == shared_memory._NEWEST
    assert RING.fields["state"][1] == shared_memory._STATE


@pytest.mark.parametrize(
    ("topic", "domain", "path"),
    [
        ("/saliency", "", "/dev/shm/sal360.saliency"),
        ("front/saliency", "0", "/dev/shm/sal360.front.saliency"),
        ("/robot_1/front/saliency", "42", "/dev/shm/sal360.42.robot_1.front.saliency"),
        ("/saliency", " 07", "/dev/shm/sal360.7.saliency"),
        ("/saliency", "none", "/dev/shm/sal360.saliency"),
    ],
)
def test_the_file_is_named_after_topic_and_domain_in_c_as_in_python(
    topic: str, domain: str, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    assert shared_path(topic) == Path(path)
    (tmp_path / "name.c").write_text(
        '#include <stdio.h>\n#include "sal360.h"\nint main(int n, char **words) {\nsal360_ring ring;\n(void)n;\n'
        "sal360_open(&ring, words[1]);\nputs(ring.path);\nreturn 0;\n}\n"
    )
    command = [compiler("cc"), "-std=c99", *STRICT, f"-I{include_path()}", "name.c", "-o", "name", "-lm"]
    subprocess.run(command, check=True, cwd=tmp_path)
    printed = subprocess.run([tmp_path / "name", topic], capture_output=True, text=True, check=True).stdout
    assert printed == f"{path}\n"


@pytest.mark.parametrize("topic", ["", "/", "a//b", "a/", "../x", "a.b", "a b", "ä", "a\n"])
def test_a_name_that_is_no_topic_is_refused(topic: str, c_reader: CReader) -> None:
    with pytest.raises(ParameterError, match="is not the full name of a topic; use one such as /front/saliency"):
        shared_path(topic)
    assert c_reader.open(topic) == BAD_NAME
    assert c_reader.read() == BAD_NAME


def test_a_name_that_is_too_long_for_a_file_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"^the topic a+ has 250 characters; use at most 220 for shm$"):
        shared_path("a" * 250)


@pytest.mark.parametrize(("readers", "permissions"), [("user", 0o600), ("group", 0o640), ("all", 0o644)])
def test_only_the_user_may_read_unless_told_otherwise_and_nothing_is_left(
    name: str, readers: str, permissions: int
) -> None:
    before = os.umask(0o777)
    try:
        with SharedMapWriter(name, 2, 4, readers=readers) as writer:
            assert stat.S_IMODE(writer.path.stat().st_mode) == permissions
        assert not writer.path.exists()
    finally:
        os.umask(before)
    writer.write(noise(2, 4), MapInfo())  # a thread that was abandoned: nothing happens
    writer.close()
    with pytest.raises(ParameterError, match=r"readers is 'nobody'; choose one of user, group, all"):
        SharedMapWriter(name, 2, 4, readers="nobody")


def test_a_name_in_use_is_refused_in_one_line_with_its_process(name: str) -> None:
    with SharedMapWriter(name, 2, 4) as writer:
        with pytest.raises(SharedMapError) as refused:
            SharedMapWriter(name, 2, 4)
        assert str(refused.value) == (
            f"{writer.path} is in use by a living process ({os.getpid()}); stop that node, or give this one another "
            "namespace or ROS_DOMAIN_ID"
        )
        writer.write(noise(2, 4), MapInfo())
        assert SharedMap.open(name).read() is not None
    SharedMapWriter(name, 2, 4).close()


def test_a_full_shm_is_one_line_and_leaves_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SharedMapError) as refused:
        SharedMapWriter(name, 100, 200)
    assert re.fullmatch(
        r"/dev/shm has \d+ kB free, and the maps in sal360\.\S+ need 321 kB; delete files there, or start the "
        r"container with a larger --shm-size",
        str(refused.value),
    )


def test_a_link_a_folder_and_an_unwritable_place_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    path = shared_path(name)
    path.symlink_to(tmp_path / "other")
    with pytest.raises(SharedMapError, match=r"is a link or a folder; remove it$"):
        SharedMapWriter(name, 2, 4)
    path.unlink()
    path.mkdir()
    with pytest.raises(SharedMapError, match=r"is a link or a folder; remove it$"):
        SharedMapWriter(name, 2, 4)
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path / "none")
    with pytest.raises(SharedMapError, match=r"^there is no .*/none; use Linux, or mount a tmpfs there$"):
        SharedMapWriter(name, 2, 4)
    assert list(tmp_path.iterdir()) == [path]


# --- ends and restarts ---


def test_readers_wait_for_a_writer_and_survive_its_restart(c_reader: CReader, name: str) -> None:
    assert c_reader.open(name) == NO_RING
    assert c_reader.read() == NO_RING
    assert not c_reader.is_alive
    assert "ROS_DOMAIN_ID" in c_reader.message(NO_RING)
    with pytest.raises(SharedMapError, match=r"^there is no /dev/shm/\S+; set the node's parameter shm"):
        SharedMap.open(name)
    reader = None
    for value, size in ((1, (2, 4)), (2, (8, 16))):
        with SharedMapWriter(name, *size) as writer:
            writer.write(np.full(size, value, np.float32), MapInfo())
            reader = reader or SharedMap.open(name)
            found = reader.read()
            assert found is not None
            assert found.density.shape == size
            assert c_reader.read() == OK
            assert c_reader.read() == UNCHANGED
            assert c_reader.is_alive
        assert reader.read() is None
        assert c_reader.read() == NO_RING
        assert not c_reader.is_alive
        assert c_reader.look_up(np.array([[0, 1.0, 0]])) == value  # the last map stays


WRITE_AND_HANG = """
import sys, time
import numpy as np
from sal360.outputs.shared_memory import MapInfo, SharedMapWriter
writer = SharedMapWriter(sys.argv[1], 2, 4)
writer.write(np.full((2, 4), 5, np.float32), MapInfo())
time.sleep(1000)
"""


def test_the_ring_of_a_killed_process_is_replaced_and_its_readers_follow(
    c_reader: CReader, name: str, repository: Path
) -> None:
    child = subprocess.Popen([sys.executable, "-c", WRITE_AND_HANG, name], cwd=repository)
    try:
        while c_reader.open(name) != OK or c_reader.read() != OK:
            assert child.poll() is None
            time.sleep(0.01)
        assert c_reader.is_alive
        reader = SharedMap.open(name)
        with pytest.raises(SharedMapError, match=rf"is in use by a living process \({child.pid}\)"):
            SharedMapWriter(name, 2, 4)
    finally:
        child.kill()
        child.wait()
    assert c_reader.read() == UNCHANGED
    assert not c_reader.is_alive
    assert reader.read() is not None
    with SharedMapWriter(name, 4, 8) as writer:
        writer.write(np.full((4, 8), 6, np.float32), MapInfo())
        assert c_reader.read() == OK
        assert c_reader.is_alive
        assert c_reader.map.height == 4
        found = reader.read()
        assert found is not None
        assert found.density[0, 0] == 6


def test_a_reader_that_is_killed_while_it_reads_does_not_disturb_the_writer(name: str, program: Path) -> None:
    with SharedMapWriter(name, 16, 32) as writer:
        process = subprocess.Popen([program, "torn", name, "1000000000"])
        for number in range(1, 2000):
            writer.write(np.full((16, 32), number, np.float32), MapInfo(stamp_ns=number, frame_id=str(number)))
            if number == 1000:
                process.kill()
                process.wait()
        found = SharedMap.open(name).read()
    assert found is not None
    assert found.number == 1999


# --- files that are no rings ---


@pytest.mark.parametrize(
    ("content", "status", "line"),
    [
        (b"", NO_RING, r"^there is no "),
        (b"something else" * 50, NOT_A_RING, r"was not written by sal360; remove it"),
        (b"sal360sm", NOT_A_RING, r"is damaged|layout version 0"),
        ((8, struct.pack("I", 2)), OTHER_VERSION, r"has the layout version 2; expected 1; install the same version"),
        ((12, struct.pack(">I", 0x01020304)), DAMAGED, r"is damaged; start the node again"),
        ((20, struct.pack("I", 2**31)), DAMAGED, r"is damaged; start the node again"),
        ((24, struct.pack("I", 4)), DAMAGED, r"is damaged; start the node again"),
        ((256 + 32, struct.pack("I", 60000)), DAMAGED, r"is damaged; start the node again"),
        ((256 + 36, struct.pack("I", 0)), DAMAGED, r"is damaged; start the node again"),
        ((256 + 44, struct.pack("I", 7)), DAMAGED, r"is damaged; start the node again"),
    ],
)
def test_a_file_that_is_no_ring_is_refused_by_both_readers(
    content: bytes | tuple[int, bytes], status: int, line: str, c_reader: CReader, name: str
) -> None:
    with SharedMapWriter(name, 4, 8) as writer:
        writer.write(noise(4, 8), MapInfo())
        if isinstance(content, bytes):
            writer.path.unlink()
            writer.path.write_bytes(content)
        else:
            with writer.path.open("r+b") as file:
                file.seek(content[0])
                file.write(content[1])
        opened = c_reader.open(name)
        assert (opened if opened != OK else c_reader.read()) == status
        with pytest.raises(SharedMapError, match=line):
            SharedMap.open(name).read()
    shared_path(name).unlink(missing_ok=True)


def test_every_status_has_a_line_with_a_remedy(c_reader: CReader) -> None:
    lines = [c_reader.message(status) for status in range(-10, 2)]
    assert len(set(lines)) == 12
    for status in range(-10, 0):
        assert "; " in c_reader.message(status)
    assert c_reader.message(99) == "this is not a status of sal360.h"


# --- torn copies ---


@pytest.mark.parametrize("height", [8, 48])
def test_no_copy_is_torn_beside_a_writer_at_full_speed(name: str, program: Path, height: int) -> None:
    with SharedMapWriter(name, height, 2 * height) as writer:
        process = subprocess.Popen([program, "torn", name, "5000"], stdout=subprocess.PIPE, text=True)
        density, number, reader, python_reads = np.empty((height, 2 * height), np.float32), 0, SharedMap.open(name), 0

        def read() -> None:
            nonlocal python_reads
            while python_reads < 20:
                found = reader.read()
                if found is not None:
                    python_reads += 1
                    assert found.stamp_ns == found.number
                    assert (found.density == found.number % 2**20).all()

        thread = threading.Thread(target=read)
        thread.start()
        while thread.is_alive() or process.poll() is None:
            number += 1
            density.fill(number % 2**20)
            writer.write(density, MapInfo(stamp_ns=number, frame_id=str(number)))
        thread.join()
    assert process.communicate()[0].startswith("reads 5000 torn 0 back 0 ")
    assert python_reads == 20


# --- the page ---


@pytest.mark.parametrize(("name_of", "standard"), [("cc", "c99"), ("cc", "c11"), ("c++", "c++98"), ("c++", "c++17")])
def test_the_example_on_the_page_compiles_and_prints_the_map(
    name_of: str, standard: str, repository: Path, tmp_path: Path, name: str
) -> None:
    page = (repository / "docs" / "shared_memory.md").read_text()
    (example,) = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    (tmp_path / "program.c").write_text(example)
    posix = () if name_of == "c++" else ("-D_POSIX_C_SOURCE=200809L",)  # nanosleep is not C99
    language = ("-x", "c++") if name_of == "c++" else ()
    command = [compiler(name_of), *language, f"-std={standard}", *posix, *STRICT, f"-I{include_path()}"]
    subprocess.run([*command, "program.c", "-o", "program", "-lm"], check=True, cwd=tmp_path)
    density = noise(16, 32)
    with SharedMapWriter(name, 16, 32) as writer:
        writer.write(density, MapInfo(stamp_ns=3_000_000_005, frame_id="theta"))
        done = subprocess.run([tmp_path / "program", name], capture_output=True, text=True, check=True)
    forward, right, up = exact(density, np.array([[1.0, 0, 0], [0, -1.0, 0], [0, 0, 1.0]]))
    assert done.stdout.splitlines()[0] == "theta 3.000000005 32x16"
    printed = [float(line.split()[1]) for line in done.stdout.splitlines()[1:]]
    assert printed == pytest.approx([forward, right, up], abs=1e-4)
    refused = subprocess.run([tmp_path / "program", "a b"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)

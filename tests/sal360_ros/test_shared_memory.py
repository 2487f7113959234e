"""What is selected, removed and refused in /dev/shm, in a folder in its place; test_executables has real processes."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sal360_ros import shared_memory
from sal360_ros.environment import PROFILE_VARIABLES, profile_variables
from sal360_ros.shared_memory import SharedMemoryError, shared_memory_profile, use_shared_memory_profile

pytestmark = pytest.mark.usefixtures("folder")
SEGMENT = "fastrtps_0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replaces /dev/shm; no profile is configured, and none has been made."""
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shared_memory, "_record", None)
    monkeypatch.setattr(shared_memory, "_segment_bytes", math.inf)
    for name in (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS", "RMW_IMPLEMENTATION"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    for name in PROFILE_VARIABLES:
        os.environ.pop(name, None)
    if shared_memory._record is not None:
        os.close(shared_memory._record.handle)


def leave(folder: Path, name: str, *segments: str) -> Path:
    """The leftovers of a killed process."""
    for segment in segments:
        (folder / segment).write_bytes(b"frames")
        (folder / f"{segment}_el").touch()
    record = folder / name
    record.write_text("<dds/>\n" + "".join(f"<!-- {segment} -->\n" for segment in segments))
    return record


@pytest.mark.parametrize(("message_bytes", "segment_bytes"), [(0, 2**20), (5_529_600, 2**20 + 2 * 5_529_600)])
def test_the_profile_is_the_shipped_one_with_room_for_two_messages(message_bytes, segment_bytes):
    use_shared_memory_profile(message_bytes)
    (path,) = {os.environ[name] for name in profile_variables()}
    profile = Path(path).read_text()
    assert shared_memory.segment_bytes() == segment_bytes
    assert set(re.findall(r"[sS]ize>(\d+)<", profile)) == {str(segment_bytes)}
    assert re.sub(r"(?<=[sS]ize>)\d+", "67108864", profile) == shared_memory_profile().read_text()


@pytest.mark.parametrize(
    "chosen",
    [
        {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"},
        {"FASTRTPS_DEFAULT_PROFILES_FILE": "/etc/profile.xml"},
        {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"},
    ],
)
def test_the_choice_of_the_user_is_kept(chosen, monkeypatch):
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    use_shared_memory_profile()
    assert dict(os.environ) == before
    assert shared_memory.segment_bytes() == math.inf


def test_the_profile_of_the_parent_process_is_not_a_choice(folder, monkeypatch):
    for name in PROFILE_VARIABLES:
        monkeypatch.setenv(name, f"{folder}/sal360_parent.xml")
    use_shared_memory_profile()
    profiles = {name: os.environ[name] for name in PROFILE_VARIABLES if name in os.environ}
    assert tuple(profiles) == profile_variables()
    assert f"{folder}/sal360_parent.xml" not in profiles.values()


def test_segments_of_dead_processes_of_ours_are_removed_and_no_others(folder):
    dead = leave(folder, "sal360_dead.xml", SEGMENT)
    alive = leave(folder, "sal360_alive.xml", "fastdds_00000000000000aa")
    others = leave(folder, "somebody_else.xml", "fastrtps_00000000000000bb")
    before = set(folder.iterdir())
    with alive.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        use_shared_memory_profile()
    (own,) = {Path(os.environ[name]) for name in profile_variables()}
    assert before - set(folder.iterdir()) == {dead, folder / SEGMENT, folder / f"{SEGMENT}_el"}
    assert set(folder.iterdir()) - before == {own}
    assert others.exists()


def test_a_record_names_nothing_outside_shared_memory(folder):
    outside = folder.parent / "precious"
    outside.touch()
    leave(folder, "sal360_dead.xml").write_text("<!-- ../precious --><!-- /etc/passwd -->")
    use_shared_memory_profile()
    assert outside.exists()


def test_too_little_room_is_refused_with_what_is_needed(monkeypatch):
    full = SimpleNamespace(f_bavail=1024, f_frsize=4096, f_blocks=16384)  # 4 of 64 MB are free
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    use_shared_memory_profile(0)
    with pytest.raises(SharedMemoryError, match=r"4 MB free.* need 13 MB; .* --shm-size=128m"):
        use_shared_memory_profile(5_529_600)


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/dev/shm/.sal360_abc.xml")

    monkeypatch.setattr(shared_memory.tempfile, "mkstemp", refuse)


@pytest.mark.usefixtures("unwritable")
def test_memory_that_cannot_be_written_is_refused_with_a_way_out(monkeypatch):
    with pytest.raises(SharedMemoryError, match=r"cannot be written \(Read-only.*set FASTDDS_BUILTIN_TRANSPORTS=UDPv4"):
        use_shared_memory_profile()
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")  # the way out
    use_shared_memory_profile()
    shared_memory.remember_segments()
    shared_memory.release_segments()


def test_memory_that_is_full_does_not_end_a_process_that_runs(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    use_shared_memory_profile()
    monkeypatch.setattr(os, "pwrite", refuse)
    shared_memory.remember_segments()


def test_pipes_and_links_that_look_like_records_are_left_alone(folder):
    """Anybody can create them in /dev/shm; opening a pipe would wait for its writer."""
    os.mkfifo(folder / "sal360_pipe.xml")
    target = leave(folder, "somebody_else.xml", SEGMENT)
    (folder / "sal360_link.xml").symlink_to(target)
    opening = threading.Thread(target=use_shared_memory_profile, daemon=True)
    opening.start()
    opening.join(10)
    assert not opening.is_alive()
    assert (folder / SEGMENT).exists()


def test_nothing_is_made_where_there_is_no_shared_memory(folder, monkeypatch):
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", folder / "absent")
    use_shared_memory_profile()
    assert not set(PROFILE_VARIABLES) & set(os.environ)


def test_the_record_is_gone_at_the_end(folder):
    use_shared_memory_profile()
    shared_memory.release_segments()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "variables"),
    [
        ("7.1.5", ("FASTRTPS_DEFAULT_PROFILES_FILE",)),
        ("9.1.2", ("FASTDDS_DEFAULT_PROFILES_FILE",)),
        ("unknown", PROFILE_VARIABLES),
    ],
)
def test_only_the_variable_of_the_installed_fast_dds_is_set(version, variables, monkeypatch):
    monkeypatch.setattr("sal360_ros.environment.metadata.version", lambda _: version)
    assert profile_variables() == variables

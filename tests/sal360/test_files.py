"""Files are replaced completely or not at all."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from sal360.errors import ParameterError, describe_os_error
from sal360.files import cache_folder, write_bytes, write_text, written_beside


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_text_and_bytes_are_written_and_missing_folders_made(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "deep" / "a.txt", "azimuth φ\n")
    write_bytes(tmp_path / "b.bin", b"\x00\xff")
    assert (tmp_path / "new" / "deep" / "a.txt").read_bytes() == "azimuth φ\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"
    assert names(tmp_path) == ["b.bin", "new"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_leaves_the_old_file_whole_and_nothing_beside_it(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(error), written_beside(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.json"]


def test_the_old_file_stays_readable_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "map.npy"
    path.write_bytes(b"old")
    with written_beside(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent  # a rename across file systems would be a copy
        assert temporary.suffix == ".npy"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["map.npy"]


def test_a_killed_process_leaves_the_old_file_whole(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    script = (
        "import os, sys\n"
        "from sal360.files import written_beside\n"
        "with written_beside(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    status = subprocess.run([sys.executable, "-c", script, str(path)], env=environment)
    assert status.returncode == -9
    assert path.read_text() == "old"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_results_have_the_permissions_of_ordinary_files(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a", "x")
        assert os.umask(umask) == umask  # reading the mask must not change it
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


def test_a_file_where_a_folder_is_needed_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("old")
    with pytest.raises(OSError):  # noqa: PT011 (NotADirectoryError or FileExistsError, by Python's version)
        write_text(tmp_path / "taken" / "a.txt", "new")
    assert (tmp_path / "taken").read_text() == "old"


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "taken", "new")
    assert names(tmp_path) == ["taken"]


def test_a_folder_without_permission_is_an_os_error_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "locked" / "a.txt"
    write_text(path, "old")
    path.parent.chmod(0o555)
    try:
        if os.access(path.parent, os.W_OK):  # root writes anywhere: only the kernel can refuse it
            path = Path("/proc/self/a.txt")
        with pytest.raises(OSError):  # noqa: PT011 (PermissionError, or what /proc answers to root)
            write_text(path, "new")
    finally:
        (tmp_path / "locked").chmod(0o755)
    assert (tmp_path / "locked" / "a.txt").read_text() == "old"
    assert names(tmp_path / "locked") == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_text(path, "new")
    assert describe_os_error(caught.value).startswith(f"the disk is full ({path}); ")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_that_numpy_does_not_name_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.npy"

    def write() -> None:
        with written_beside(path):
            raise OSError("18432 requested and 15328 written")

    with pytest.raises(OSError, match="18432 requested") as limited:  # there is room: something else has happened
        write()
    assert describe_os_error(limited.value).startswith(f"not all of the file could be written ({path}); check the disk")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="18432 requested") as caught:
        write()
    assert describe_os_error(caught.value).startswith(f"the disk is full ({path}); ")
    assert names(tmp_path) == []


def test_errors_name_the_users_file_and_never_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(FileNotFoundError) as caught, written_beside(path) as temporary:
        temporary.unlink()
    assert caught.value.filename == str(path)

    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system", f"{tmp_path}/.report-x2.json")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(OSError, match="Read-only") as caught_too:
        write_text(path, "new")
    assert describe_os_error(caught_too.value) == f"the file system is read-only ({tmp_path}); choose another folder"


def test_a_name_as_long_as_file_systems_allow_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 250 + ".json")
    write_text(path, "x")
    assert names(tmp_path) == [path.name]


def test_text_with_a_file_name_that_is_not_utf_8_is_written_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "caf\udce9.jpg")
    assert (tmp_path / "a.txt").read_bytes() == rb"caf\udce9.jpg"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "/var/cache", "HOME": "/home/a"}, "/var/cache/sal360_ros"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/a"}, "/home/a/.cache/sal360_ros"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/a"}, "/home/a/.cache/sal360_ros"),
        ({"HOME": ""}, "/home/of-passwd/.cache/sal360_ros"),
        ({}, "/home/of-passwd/.cache/sal360_ros"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_dir="/home/of-passwd"))
    assert cache_folder() == Path(expected)


def test_without_pwd_as_on_windows_the_home_is_that_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setitem(sys.modules, "pwd", None)
    monkeypatch.setattr(Path, "home", lambda: Path("/Users/a"))
    assert cache_folder() == Path("/Users/a/.cache/sal360_ros")

    def unknown() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(ParameterError, match=r"neither HOME nor USERPROFILE is set; set XDG_CACHE_HOME"):
        cache_folder()


def test_an_unknown_user_without_home_is_told_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(ParameterError, match=r"HOME is not set and user \d+ has no home folder; set XDG_CACHE_HOME"):
        cache_folder()

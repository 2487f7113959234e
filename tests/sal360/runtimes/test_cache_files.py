"""The cache of compiled models: one process makes an entry, the others wait, and old entries go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from sal360.errors import ModelError
from sal360.runtimes.cache_files import locked, mark_used, remove_all_but_newest, writable_folder

HOLDS_THE_LOCK = """
import sys, time
from pathlib import Path
from sal360.runtimes.cache_files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_thread_at_a_time_is_inside(tmp_path):
    inside, most = [], []

    def enter():
        with locked(tmp_path / "entry"):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert most == [1] * 16
    assert list(tmp_path.iterdir()) == []  # no lock is left


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(tmp_path, repository, end):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS_THE_LOCK, str(tmp_path / "entry")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    entered = threading.Event()

    def enter():
        with locked(tmp_path / "entry"):
            entered.set()

    waiting = threading.Thread(target=enter)
    with holder:
        assert holder.stdout.readline() == "held\n"
        waiting.start()
        assert not entered.wait(0.2)
        holder.send_signal(end)
    assert entered.wait(30)
    waiting.join(30)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_is_not_a_lock(tmp_path):
    """Whoever removes a stale lock file must not let two processes in."""
    with locked(tmp_path / "entry"):
        (tmp_path / "entry.lock").unlink()
        (tmp_path / "entry.lock").touch()
    with locked(tmp_path / "entry"):
        assert (tmp_path / "entry.lock").exists()


def test_a_file_system_without_locks_is_logged_and_used_anyway(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / "entry"):
        pass
    assert "cannot be locked" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_gives_a_one_line_error(tmp_path):
    (tmp_path / "file").touch()
    for attempt in (
        lambda: writable_folder(tmp_path / "file" / "folder"),
        lambda: locked(tmp_path / "no" / "entry").__enter__(),
    ):
        with pytest.raises(ModelError, match=r"cannot be written .*set XDG_CACHE_HOME"):
            attempt()


def test_the_entries_that_were_used_last_are_kept(tmp_path):
    entries = [tmp_path / name for name in "abcd"]
    for age, entry in enumerate(entries):
        if entry.name == "b":
            entry.mkdir()
            (entry / "inside").touch()
        else:
            entry.touch()
        os.utime(entry, (1e9 - age, 1e9 - age))
    mark_used(entries[3])
    assert remove_all_but_newest(entries, 2) == entries[1:3]
    assert sorted(tmp_path.iterdir()) == [entries[0], entries[3]]
    remove_all_but_newest([*entries, tmp_path / "gone"], 0)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_stays_and_is_no_error(tmp_path, monkeypatch):
    """The files of another user in a folder with the sticky bit."""
    entries = [tmp_path / "a", tmp_path / "b"]
    for each in entries:
        each.touch()

    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    assert remove_all_but_newest(entries, 0) == []
    with locked(tmp_path / "entry"):
        pass
    assert sorted(tmp_path.iterdir()) == [*entries, tmp_path / "entry.lock"]

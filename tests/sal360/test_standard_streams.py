"""Commands whose standard streams are closed, full or no longer read."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sal360 import standard_streams
from sal360.standard_streams import call_with_stderr

SCRIPT = """
import os, sys
from sal360.errors import one_line_errors

def main():
    for _ in range(20000):
        print("a line of what is printed")
    print("a name: caf\\udce9.jpg 360\\u00b0", flush=True)
    print("on stderr", file=sys.stderr, flush=True)
    with open("result.txt", "w") as file:
        file.write("whole")
    os.write(2, b"printed by a C library")

sys.exit(one_line_errors(main))
"""


def run(repository: Path, folder: Path, redirections: str) -> subprocess.CompletedProcess[str]:
    """Runs the script in a shell with these redirections; returns its status and its stderr."""
    environment = {**os.environ, "PYTHONPATH": str(repository), "PY": sys.executable, "SCRIPT": SCRIPT}
    command = f'"$PY" -c "$SCRIPT" {redirections}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("redirections", ["| true", "2>&-", ">&-", "<&- >&- 2>&-", "2> >(true)"])
def test_a_command_continues_when_nobody_reads_its_output(repository: Path, tmp_path: Path, redirections: str) -> None:
    done = run(repository, tmp_path, redirections)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result.txt").read_text() == "whole"
    assert "Broken pipe" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_behind_stdout_is_reported(repository: Path, tmp_path: Path) -> None:
    done = run(repository, tmp_path, "> /dev/full")
    assert done.returncode == 2
    assert "error: the disk is full; free some space" in done.stderr
    assert "Traceback" not in done.stderr


def test_text_that_a_terminal_does_not_know_is_printed_escaped(repository: Path, tmp_path: Path) -> None:
    done = run(repository, tmp_path, "> out.txt")
    assert done.returncode == 0, done.stderr
    assert r"a name: caf\udce9.jpg 360" in (tmp_path / "out.txt").read_text()


def test_output_of_a_call_is_captured_and_output_of_other_threads_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    begun, printed = threading.Event(), threading.Event()

    def other() -> None:
        begun.wait(10)
        os.write(2, b"of the other thread\n")
        printed.set()

    def call() -> int:
        os.write(2, b"of the call\n")
        begun.set()
        printed.wait(10)
        return 7

    thread = threading.Thread(target=other)
    thread.start()
    with open(os.devnull, "rb") as kept:
        assert call_with_stderr(call) == (7, "of the call\n")
        assert kept.read() == b""
    thread.join()
    assert capfd.readouterr().err == "of the other thread\n"


def test_an_exception_in_a_call_is_passed_on() -> None:
    with pytest.raises(KeyError):
        call_with_stderr(lambda: {}["nothing"])


def test_a_call_continues_where_nothing_can_be_caught(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard_streams, "_close_range", lambda: lambda *_: -1)
    assert call_with_stderr(lambda: os.write(2, b"printed")) == (7, "")
    assert capfd.readouterr().err == "printed"


def test_a_call_goes_on_where_a_file_in_memory_is_forbidden(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(_: str) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbid)
    assert call_with_stderr(lambda: os.write(2, b"printed")) == (7, "")
    assert capfd.readouterr().err == "printed"

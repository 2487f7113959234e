"""Errors: three parts in one line, and the exit codes of commands."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from sal360 import errors
from sal360.errors import FrameError, ParameterError, Sal360Error, describe_os_error, one_line_errors

KINDS = [ParameterError, errors.ModelError, errors.DataError, errors.CheckpointError, errors.TrainingError]


def raiser(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize("kind", [Sal360Error, *KINDS])
def test_a_message_says_what_was_found_and_what_to_do(kind: type[Sal360Error]) -> None:
    error = kind("the rate is 0", "set rate_hz to 30")
    assert str(error) == "the rate is 0; set rate_hz to 30"
    assert (error.found, error.expected, error.remedy) == ("the rate is 0", "", "set rate_hz to 30")
    assert isinstance(error, Sal360Error)


@pytest.mark.parametrize("kind", [Sal360Error, *KINDS])
def test_what_was_needed_is_said_where_it_adds_something(kind: type[Sal360Error]) -> None:
    error = kind("the rate is 0", "set rate_hz", expected="1 to 60")
    assert str(error) == "the rate is 0; expected 1 to 60; set rate_hz"


def test_a_frame_error_carries_the_reason_that_diagnostics_count() -> None:
    error = FrameError("640 x 480", "send ERP", expected="2:1", reason="not_2_to_1")
    assert error.reason == "not_2_to_1"
    assert isinstance(error, Sal360Error)


@pytest.mark.parametrize("status", [None, 0, 1, 7])
def test_the_status_of_a_command_is_passed_on(status: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line_errors(lambda: status) == (status or 0)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [
        ParameterError("a", "c", expected="b"),
        ParameterError("a library said:\n  two lines\n", "c", expected="b"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x.mcap"),
        PermissionError(errno.EACCES, "Permission denied", "/root/x"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("no errno"),
        ModuleNotFoundError("No module named 'rclpy'", name="rclpy"),
    ],
)
def test_an_expected_failure_is_one_line_and_status_2(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line_errors(raiser(error)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1


def test_ctrl_c_says_so_and_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line_errors(raiser(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_fault_of_ours_is_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        one_line_errors(lambda: 1 // 0)
    with pytest.raises(ModuleNotFoundError):
        one_line_errors(raiser(ModuleNotFoundError("No module named 'sal360_ros.x'", name="sal360_ros.x")))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out.npy"), "the disk is full (out.npy)"),
        (PermissionError(errno.EACCES, "Permission denied", "out.npy"), "no permission (out.npy)"),
        (OSError(errno.EROFS, "Read-only file system", "out.npy"), "no permission (out.npy)"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.mp4"), "No such file or directory (a.mp4)"),
    ],
)
def test_operating_system_errors_are_said_in_three_parts(error: OSError, said: str) -> None:
    text = describe_os_error(error)
    assert text.startswith(said)
    assert text.count(";") == 2
    assert "expected" in text

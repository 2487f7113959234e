"""Errors: three parts in one line, and the exit codes of commands."""

from __future__ import annotations

import ast
import errno
from collections.abc import Callable
from pathlib import Path

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
def test_the_expectation_is_shown_if_it_adds_something(kind: type[Sal360Error]) -> None:
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
def test_an_expected_failure_gives_a_one_line_error_and_status_2(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert one_line_errors(raiser(error)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1


def test_ctrl_c_says_so_and_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line_errors(raiser(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_of_ours_is_not_disguised() -> None:
    with pytest.raises(ZeroDivisionError):
        one_line_errors(lambda: 1 // 0)
    with pytest.raises(ModuleNotFoundError):
        one_line_errors(raiser(ModuleNotFoundError("No module named 'sal360_ros.x'", name="sal360_ros.x")))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out.npy"), "the disk is full (out.npy)"),
        (PermissionError(errno.EACCES, "Permission denied", "out.npy"), "no permission (out.npy)"),
        (OSError(errno.EROFS, "Read-only file system", "out.npy"), "the file system is read-only (out.npy)"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.mp4"), "no such file or folder (a.mp4)"),
        (FileNotFoundError(errno.ENOENT, "", b"caf\xe9.mp4"), r"no such file or folder (caf\udce9.mp4)"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "no folder for temporary files is writable",
        ),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a"), "Invalid cross-device link (a)"),
    ],
)
def test_operating_system_errors_say_what_was_found_where_and_what_to_do(error: OSError, said: str) -> None:
    text = describe_os_error(error)
    assert text.startswith(f"{said}; ")
    text.encode("utf-8")


def test_a_system_error_without_a_file_blames_no_path() -> None:
    assert describe_os_error(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")) == "Connection refused"


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("rclpy", 'source your ROS 2 installation, or pip install ".[ros]" in the checkout'),
        ("sensor_msgs.msg", 'source your ROS 2 installation, or pip install ".[ros]" in the checkout'),
        ("rosbags", '; pip install ".[replay]" in the checkout'),
        ("torch", '; pip install ".[train]" in the checkout'),
        ("something", "; install something"),
    ],
)
def test_a_missing_module_is_named_with_what_installs_it(
    module: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert one_line_errors(raiser(ModuleNotFoundError(f"No module named {module!r}", name=module))) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: the Python module {module} is missing; ")
    assert remedy in line


def test_every_extra_that_a_remedy_names_exists(repository: Path) -> None:
    setup = (repository / "setup.py").read_text(encoding="utf-8")
    for extra in {"ros", *errors._EXTRAS.values()}:
        assert f'"{extra}": ' in setup


def test_a_library_that_cannot_be_loaded_gives_a_one_line_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line_errors(raiser(ImportError("libGL.so.1: cannot open\nshared object", name="cv2"))) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: the Python module cv2 cannot be imported (libGL.so.1: cannot open shared object); ")
    with pytest.raises(ImportError):
        one_line_errors(raiser(ImportError("cannot import name 'x'", name="sal360.images")))


def reasons_in_the_code(repository: Path) -> set[str]:
    """Every string that is passed as `reason` or to the counter of rejected frames."""
    used: set[str] = set()
    for path in (
        path for package in ("sal360", "sal360_ros", "training") for path in (repository / package).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "reason" and isinstance(node.value, ast.Constant):
                used.add(node.value.value)
            elif isinstance(node, ast.Constant) and node.value in errors.FRAME_REJECTIONS and path.name != "errors.py":
                used.add(node.value)
    return used


def test_every_reason_of_a_rejected_frame_stands_in_the_table_and_is_used(repository: Path) -> None:
    assert reasons_in_the_code(repository) == set(errors.FRAME_REJECTIONS)
    with pytest.raises(AssertionError):
        FrameError("x", "y", reason="not in the table")

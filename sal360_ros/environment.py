"""Checks of the environment before ROS starts: variables, and a log folder.

The libraries of ROS report a wrong variable late, in several lines, without its name, or end the process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from sal360.errors import ParameterError

# Fast DDS 2 (up to Jazzy) reads the first, Fast DDS 3 (since Kilted) the second.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
_FIRST_RCLPY_OF_FAST_DDS_3 = 9  # Kilted's; Jazzy has 7
MAX_DOMAIN_ID = 232
"""The UDP ports of higher domains do not exist (RTPS 2.3, 9.6.1.1)."""

# Part of an error message of rcl → the variable that causes it, if it is set.
_CAUSES = {
    "peer": "ROS_STATIC_PEERS",
    "ecurity": "ROS_SECURITY_KEYSTORE",
    "rmw": "RMW_IMPLEMENTATION",
    "logging": "ROS_LOG_DIR",
}


def profile_variables() -> tuple[str, ...]:
    """The variable that this ROS's Fast DDS reads, because Kilted's warns about the older one; both if unknown."""
    try:
        major = int(metadata.version("rclpy").partition(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        return PROFILE_VARIABLES
    return (PROFILE_VARIABLES[major >= _FIRST_RCLPY_OF_FAST_DDS_3],)


def check_environment(variables: Mapping[str, str] = os.environ, arguments: Sequence[str] = ()) -> None:
    """Raise if ROS cannot start with these environment variables.

    Args:
        arguments: ROS arguments; with `--disable-external-lib-logs` no log folder is needed.

    Raises:
        ParameterError: a variable has a wrong value, or there is no folder for the log files.
    """
    _check_domain(variables.get("ROS_DOMAIN_ID", ""))
    for name in PROFILE_VARIABLES:
        if variables.get(name) and not Path(variables[name]).is_file():
            raise ParameterError(f"{name} is {variables[name]}, which is not a file", f"correct or unset {name}")
    if "--disable-external-lib-logs" not in arguments:
        _check_log_folder(variables)


def _check_domain(text: str) -> None:
    try:
        is_valid = not text or 0 <= int(text, 0) <= MAX_DOMAIN_ID
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ParameterError(
            f"ROS_DOMAIN_ID is {text!r}",
            "correct or unset ROS_DOMAIN_ID",
            expected=f"a whole number from 0 to {MAX_DOMAIN_ID}",
        )


def _check_log_folder(variables: Mapping[str, str]) -> None:
    """Make the folder that rcl will use: ROS_LOG_DIR, else ROS_HOME/log, else HOME/.ros/log."""
    home = variables.get("HOME", "")
    if variables.get("ROS_LOG_DIR"):
        name, folder = "ROS_LOG_DIR", variables["ROS_LOG_DIR"]
    elif variables.get("ROS_HOME"):
        name, folder = "ROS_HOME", f"{variables['ROS_HOME']}/log"
    elif home:
        name, folder = "HOME", f"{home}/.ros/log"
    else:
        raise ParameterError(
            "HOME is not set, so there is no folder for log files", "set HOME, or ROS_LOG_DIR to a writable folder"
        )
    if folder.startswith("~"):
        folder = home + folder[1:]
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ParameterError(
            f"the log folder {folder}, from {name}, cannot be made or written ({error.strerror})",
            "set ROS_LOG_DIR to a writable folder",
        ) from error


@contextmanager
def ros_start_errors(arguments: Sequence[str] = ()) -> Iterator[None]:
    """Turn an error of rclpy about arguments, parameter files, names or variables into a `ParameterError`.

    Args:
        arguments: the command line of the process.
    """
    from rclpy.exceptions import NameValidationException
    from rclpy.impl.implementation_singleton import rclpy_implementation

    try:
        yield
    except (
        NameValidationException,
        rclpy_implementation.RCLError,
        rclpy_implementation.RCLInvalidROSArgsError,
        rclpy_implementation.UnknownROSArgsError,
    ) as error:
        text = " ".join(str(error).split())
        cause = next((name for part, name in _CAUSES.items() if part in text and os.environ.get(name)), "")
        if cause:
            remedy = f"correct or unset {cause}"
        elif "--ros-args" in arguments:
            remedy = "correct what follows --ros-args"
        else:
            remedy = "check the environment variables whose names begin with ROS_ and RMW_"
        raise ParameterError(text, remedy) from error

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sal360.errors import ParameterError
from sal360_ros.environment import check_environment, ros_start_errors

pytestmark = pytest.mark.ros


@pytest.fixture
def usable(tmp_path: Path) -> dict[str, str]:
    """Variables with which ROS starts."""
    return {"HOME": str(tmp_path)}


@pytest.mark.parametrize("domain", ["", "0", "7", " 7", "0x7", "232"])
def test_a_domain_that_ros_takes_is_accepted(usable, domain):
    check_environment({**usable, "ROS_DOMAIN_ID": domain})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ROS_DOMAIN_ID": "abc"}, "ROS_DOMAIN_ID is 'abc'; expected a whole number from 0 to 232; correct or unset"),
        ({"ROS_DOMAIN_ID": "233"}, "ROS_DOMAIN_ID is '233'"),
        ({"ROS_DOMAIN_ID": "-1"}, "ROS_DOMAIN_ID is '-1'"),
        ({"HOME": ""}, "HOME is not set, so there is no folder for log files; set HOME, or ROS_LOG_DIR to"),
        ({"HOME": "/proc/none"}, r"the log folder /proc/none/.ros/log, from HOME, cannot be made or written"),
        ({"ROS_HOME": "/proc/none"}, r"the log folder /proc/none/log, from ROS_HOME, cannot be made or written"),
        ({"ROS_LOG_DIR": "/proc/none"}, r"the log folder /proc/none, from ROS_LOG_DIR, cannot be made or written"),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "/no/such.xml"}, "FASTRTPS_DEFAULT_PROFILES_FILE is /no/such.xml, which"),
    ],
)
def test_a_variable_that_ros_cannot_use_is_named(usable, changes, message):
    with pytest.raises(ParameterError, match=message):
        check_environment({**usable, **changes})


def test_without_log_files_no_folder_is_needed():
    check_environment({}, ["node", "--ros-args", "--disable-external-lib-logs"])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"HOME": "", "ROS_LOG_DIR": ""}, "HOME"),
        ({"ROS_LOG_DIR": "/proc/none"}, "ROS_LOG_DIR"),
        ({"ROS_DOMAIN_ID": "abc"}, "ROS_DOMAIN_ID"),
        ({"ROS_STATIC_PEERS": "a:::"}, "ROS_STATIC_PEERS"),
    ],
)
def test_the_executables_name_the_variable_in_one_line(variables, message):
    command = [sys.executable, "-W", "ignore", "-m", "sal360_ros.panorama_camera", "--ros-args", "-p", "height_px:=64"]
    ended = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    *_, last = ended.stderr.splitlines()
    assert last.startswith("error: ")
    assert message in last
    assert "--ros-args" not in last


def test_an_error_of_the_arguments_leads_to_the_arguments():
    from rclpy.exceptions import InvalidNodeNameException

    for arguments, remedy in (["node", "--ros-args"], "correct what follows --ros-args"), ([], "check the environment"):
        with pytest.raises(ParameterError, match=remedy), ros_start_errors(arguments):
            raise InvalidNodeNameException("a-b", "no dashes", 1)


def test_with_warnings_as_errors_and_without_stderr_an_executable_runs():
    command = [sys.executable, "-m", "sal360_ros.panorama_camera", "--ros-args", "-p", "height_px:=64"]
    variables = {**os.environ, "PYTHONWARNINGS": "error"}
    process = subprocess.Popen(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], env=variables)
    time.sleep(4)
    process.terminate()
    assert process.wait(60) == 0

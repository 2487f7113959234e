"""The package as ROS and pip see it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from catkin_pkg.package import parse_package

import sal360
from sal360.weights import WEIGHTS, bundled_model


def test_package_xml_is_a_valid_ament_python_package(repository: Path) -> None:
    package = parse_package(str(repository / "package.xml"))
    package.validate()
    assert package.name == "sal360_ros"
    assert package.get_build_type() == "ament_python"
    assert package.licenses == ["Apache-2.0"]


def test_one_version_everywhere(repository: Path) -> None:
    package = parse_package(str(repository / "package.xml"))
    assert package.version == sal360.__version__  # setup.py reads it from there


def test_colcon_takes_the_checkout_for_a_ros_package(repository: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "colcon", "list", "--base-paths", str(repository)],
        capture_output=True,
        text=True,
        check=True,
        cwd=repository,
    )
    assert "ros.ament_python" in listed.stdout


def test_wrappers_are_executable_and_name_modules_that_exist(repository: Path) -> None:
    wrappers = sorted((repository / "scripts").iterdir())
    assert {wrapper.name for wrapper in wrappers} >= {
        "saliency_node",
        "panorama_camera",
        "saliency_viewer",
        "evaluate_bag",
    }
    for wrapper in wrappers:
        assert os.access(wrapper, os.X_OK), wrapper
        text = wrapper.read_text()
        assert text.startswith("#!/usr/bin/env python3\n"), wrapper
        module = re.search(r"^from (sal360[\w.]+) import main", text, re.MULTILINE)
        assert module is not None, wrapper
        assert importlib.util.find_spec(module.group(1)) is not None, wrapper


def test_an_installation_has_the_files_that_launch_and_run_look_for(repository: Path, tmp_path: Path) -> None:
    installed = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--ignore-installed",
            "--no-build-isolation",
            "--no-compile",
        ]
        + ["--prefix", str(tmp_path / "prefix"), "."],
        capture_output=True,
        text=True,
        check=False,
        cwd=_copy_of_tracked_files(repository, tmp_path / "source"),
    )
    assert installed.returncode == 0, installed.stderr
    prefix = tmp_path / "prefix"
    assert (prefix / "share/ament_index/resource_index/packages/sal360_ros").is_file()
    for shared in ("package.xml", "launch/saliency.launch.py", "config/saliency.yaml", "config/fastdds_shm.xml"):
        assert (prefix / "share/sal360_ros" / shared).is_file(), shared
    for wrapper in (repository / "scripts").iterdir():
        assert os.access(prefix / "lib/sal360_ros" / wrapper.name, os.X_OK), wrapper.name
    site_packages = next(prefix.glob("lib/python3*/site-packages"))
    for name in ("sal360", "sal360_ros", "training"):
        assert (site_packages / name / "py.typed").is_file(), name
    assert os.access(prefix / "bin" / "sal360", os.X_OK)
    package = site_packages / "sal360"
    assert {path.name for path in package.glob("weights/*.onnx")} == {
        bundled_model(form, weights).name for form in ("fp32", "int8") for weights in WEIGHTS
    }
    assert list(package.glob("samples/*.jpg"))
    assert (package / "include" / "sal360.h").is_file()
    assert (package / "replay" / "report.html.jinja").is_file()
    assert (package / "viewer" / "page.html").is_file()


def _copy_of_tracked_files(repository: Path, target: Path) -> Path:
    """pip builds inside the folder that it installs from: a copy keeps the checkout clean."""
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, files):
        if (repository / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((repository / name).read_bytes())
            (target / name).chmod((repository / name).stat().st_mode)
    return target

"""Docker and systemd files: the files they name exist, and their entry points also run outside containers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

UNIT = "config/saliency.service"


@pytest.fixture
def services(repository: Path) -> dict[str, dict[str, Any]]:
    parsed: dict[str, dict[str, Any]] = yaml.safe_load((repository / "docker" / "compose.yaml").read_text())["services"]
    return parsed


def _started_by(commands: list[str], repository: Path) -> list[Path]:
    """The files of this package that `ros2 launch` and `python3 -m` start in these commands."""
    found = []
    for command in commands:
        found += [repository / "launch" / name for name in re.findall(r"ros2 launch sal360_ros ([\w.]+)", command)]
        found += [repository / "sal360_ros" / f"{name}.py" for name in re.findall(r"-m sal360_ros\.(\w+)", command)]
    return found


def test_services_start_what_the_package_has(services: dict[str, dict[str, Any]], repository: Path) -> None:
    started = _started_by([" ".join(service["command"]) for service in services.values()], repository)
    names = {path.name for path in started}
    assert names == {"panorama_camera.py", "saliency.launch.py"}
    assert all(path.is_file() for path in started), started
    assert services["evaluate"]["command"][:2] == ["sal360", "evaluate"]
    assert '"sal360 = sal360.cli:main"' in (repository / "setup.py").read_text()


def test_no_service_is_started_by_a_command_that_keeps_signals_from_it(services: dict[str, dict[str, Any]]) -> None:
    """`ros2 run` waits for its child on SIGINT, and passes on none: `docker stop` would kill it."""
    assert not [name for name, service in services.items() if service["command"][:2] == ["ros2", "run"]]


def test_a_node_that_fails_ends_its_launch_and_is_started_again(
    services: dict[str, dict[str, Any]], repository: Path
) -> None:
    unit = (repository / UNIT).read_text()
    dockerfile = (repository / "docker" / "Dockerfile").read_text()
    ends = "saliency.launch.py exit_on_failure:=true"
    (command,) = re.findall(r"^CMD (\[.*\])", dockerfile, re.MULTILINE)
    assert " ".join(services["node"]["command"]).endswith(ends)
    assert " ".join(yaml.safe_load(command)).endswith(ends)
    assert ends in unit
    assert services["node"]["restart"] == "unless-stopped"
    assert re.search("^Restart=on-failure$", unit, re.MULTILINE)
    assert '"exit_on_failure": (' in (repository / "launch" / "saliency.launch.py").read_text()


def test_options_of_the_evaluation_exist(services: dict[str, dict[str, Any]]) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "sal360", "evaluate", "--help"], capture_output=True, text=True, check=True
    ).stdout
    options = [word for word in services["evaluate"]["command"] if word.startswith("--")]
    assert options
    assert all(option in told for option in options)


def test_services_share_memory_and_addresses_and_may_write_to_their_home_alone(
    services: dict[str, dict[str, Any]],
) -> None:
    owner = services.pop("shared")
    assert owner["ipc"] == "shareable"
    assert int(owner["shm_size"].removesuffix("m")) > 64
    for name, service in services.items():
        assert (service["network_mode"], service["ipc"]) == ("service:shared", "service:shared"), name
        assert service["read_only"], name
        assert any(volume.endswith(":/home/sal360") for volume in service["volumes"]), name


def test_the_image_is_built_from_what_exists(services: dict[str, dict[str, Any]], repository: Path) -> None:
    build = services["node"]["build"]
    assert (repository / "docker" / build["context"]).resolve() == repository
    dockerfile = (repository / build["dockerfile"]).read_text()
    for source in re.findall(r"^COPY (\S+) ", dockerfile, re.MULTILINE):
        assert (repository / source).exists(), source
    extras = set(re.findall(r'^        "([\w-]+)": ', (repository / "setup.py").read_text(), re.MULTILINE))
    named = {extra for extras in re.findall(r"EXTRAS=([\w,-]+)", dockerfile) for extra in extras.split(",")}
    assert {"cpu", "replay"} < named <= extras
    (command,) = re.findall(r"^CMD (\[.*\])", dockerfile, re.MULTILINE)
    (started,) = _started_by([" ".join(yaml.safe_load(command))], repository)
    assert started.is_file()
    assert "STOPSIGNAL SIGINT" in dockerfile


@pytest.mark.slow
def test_the_entry_point_runs_commands_with_the_package_that_the_image_is_built_from(
    repository: Path, tmp_path: Path
) -> None:
    included = re.findall(r"^!(\S+)", (repository / "docker" / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    for name in included:
        source, target = repository / name, tmp_path / "src" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", "--no-build-isolation"]
    prefix = tmp_path / "prefix"
    subprocess.run([*pip, "--no-compile", "--prefix", str(prefix), str(tmp_path / "src")], check=True)
    (tmp_path / "setup.bash").write_text("export AMENT_PREFIX_PATH=/opt/ros/of_the_image\n")
    for wrapper in ("saliency_node", "panorama_camera", "evaluate_bag"):
        assert os.access(prefix / "lib" / "sal360_ros" / wrapper, os.X_OK), wrapper
    told = subprocess.run(
        [repository / "docker" / "entrypoint.sh", "bash", "-c", "echo $AMENT_PREFIX_PATH"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ROS_SETUP": str(tmp_path / "setup.bash"), "SAL360_PREFIX": str(prefix)},
    )
    assert told.stdout == f"{prefix}:/opt/ros/of_the_image\n"


def test_the_unit_starts_what_the_package_has(repository: Path) -> None:
    unit = (repository / UNIT).read_text()
    (started,) = _started_by([unit], repository)
    assert started.is_file()
    assert "KillSignal=SIGINT" in unit
    folders = dict(re.findall(r"^(\w+Directory)=(\w+)$", unit, re.MULTILINE))
    assert folders == {"StateDirectory": "saliency", "CacheDirectory": "saliency", "LogsDirectory": "saliency"}
    assert "HOME=/var/lib/saliency XDG_CACHE_HOME=/var/cache/saliency ROS_LOG_DIR=/var/log/saliency" in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_accepts_the_unit(repository: Path) -> None:
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(repository / UNIT)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")

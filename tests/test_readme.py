"""The README matches the code: its names exist, its defaults are the node's, its links are valid."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from sal360_ros.environment import PROFILE_VARIABLES
from sal360_ros.topics import OUTPUTS


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


@pytest.fixture(scope="module")
def defaults(repository: Path) -> dict[str, object]:
    shipped = yaml.safe_load((repository / "config" / "saliency.yaml").read_text())["/**"]["ros__parameters"]
    nested = {
        f"{group}.{name}": value
        for group, values in shipped.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }
    return {**{name: value for name, value in shipped.items() if not isinstance(value, dict)}, **nested}


def _table(readme: str, heading: str) -> list[list[str]]:
    """Cells of the table under the line that starts with `heading`."""
    lines = readme[readme.index(heading) :].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.fixture(scope="module")
def running(repository: Path) -> str:
    """The page about running the node."""
    return (repository / "docs" / "ros.md").read_text()


def test_parameters_and_their_defaults(running: str, defaults: dict[str, object]) -> None:
    rows = _table(running, "| parameter | default")
    assert rows
    for name, default, *_ in rows:
        assert str(defaults[name.strip("`")]) == default.strip("`"), name


def test_launch_arguments(running: str, repository: Path) -> None:
    launch = (repository / "launch" / "saliency.launch.py").read_text()
    declared = set(re.findall(r'^    "(\w+)": \(', launch, re.MULTILINE))
    named = {name for row in _table(running, "| launch argument") for name in re.findall(r"`(\w+)`", row[0])}
    assert named == declared


def test_topics(readme: str, repository: Path) -> None:
    published = {output.name for output in OUTPUTS} | {"/diagnostics"}
    index = (repository / "docs" / "topics.md").read_text()
    for page in (readme, index):
        named = {name for row in _table(page, "| topic | type") for name in re.findall(r"`([\w/]+)`", row[0])}
        assert named == published


def test_the_variables_of_the_transport_profile_are_those_that_fast_dds_reads(running: str) -> None:
    assert set(re.findall(r"`(\w+_PROFILES_FILE)`", running)) == set(PROFILE_VARIABLES)


def test_links(readme: str, repository: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (repository / target).exists(), target


def test_modules_and_files_that_commands_name(readme: str, repository: Path) -> None:
    for module in re.findall(r"python -m ([\w.]+)", readme):
        assert importlib.util.find_spec(module) is not None, module
    for shipped in re.findall(r"config/[\w.]+\.\w+", readme):
        assert (repository / shipped).is_file(), shipped

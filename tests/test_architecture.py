"""Imports run one way: from a floor to the same or a lower one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FLOORS = (
    {"", "errors", "files", "sphere", "projection", "spec"},
    {
        "ranks",
        "resize",
        "weighting",
        "ground_truth",
        "fixation_density",
        "metrics",
        "encodings",
        "compressed",
        "weights",
        "samples",
    },
    {"backends", "outputs", "sources"},
    {"predictor", "predict", "build_engine"},
    {"ros"},
    {"replay", "demo"},
)
OPEN_FROM_TRAINING = {floor for names in FLOORS[:4] for floor in names}
ROS_PACKAGES = {"rclpy", "cv_bridge", "launch", "launch_ros"}


def _modules(repository: Path, package: str) -> list[Path]:
    return sorted((repository / package).rglob("*.py"))


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Names of imported modules, and whether the import runs when the module is imported."""
    tree = ast.parse(path.read_text())
    top_level = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in top_level) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node in top_level


def _part(module: str) -> str:
    return (module.split(".") + [""])[1]


def _floor(part: str) -> int:
    for height, parts in enumerate(FLOORS):
        if part in parts:
            return height
    raise AssertionError(f"sal360_ros.{part} stands on no floor: add it to FLOORS")


def test_no_import_runs_up(repository: Path) -> None:
    for path in _modules(repository, "sal360_ros"):
        part = _part(".".join(path.relative_to(repository).with_suffix("").parts)).removesuffix("__init__")
        for module, _ in _imports(path):
            assert not module.startswith("training"), f"{path} imports {module}"
            if module.startswith("sal360_ros"):
                assert _floor(_part(module)) <= _floor(part), f"{path} imports {module}"


def test_training_uses_only_what_needs_no_ros(repository: Path) -> None:
    for path in _modules(repository, "training"):
        for module, _ in _imports(path):
            assert module.split(".")[0] not in ROS_PACKAGES, f"{path} imports {module}"
            if module.startswith("sal360_ros"):
                assert _part(module) in OPEN_FROM_TRAINING, f"{path} imports {module}"


def test_only_the_upper_floors_import_ros(repository: Path) -> None:
    for path in _modules(repository, "sal360_ros"):
        part = path.relative_to(repository / "sal360_ros").parts[0].removesuffix(".py")
        if part in {"ros", "replay", "demo"}:
            continue
        for module, _ in _imports(path):
            assert module.split(".")[0] not in ROS_PACKAGES, f"{path} imports {module}"


@pytest.mark.parametrize("heavy", ["torch", "lightning", "matplotlib", "onnx", "openvino", "tensorrt", "tensorrt_rtx"])
def test_heavy_packages_are_imported_only_where_they_are_used(repository: Path, heavy: str) -> None:
    for path in _modules(repository, "sal360_ros"):
        for module, at_import in _imports(path):
            assert not (at_import and module.split(".")[0] == heavy), f"{path} imports {heavy} at its top"


def test_a_module_has_one_concern(repository: Path) -> None:
    long = {
        str(path.relative_to(repository)): lines
        for package in ("sal360_ros", "training")
        for path in _modules(repository, package)
        if (lines := len(path.read_text().splitlines())) > 250
    }
    assert not long, "these are asking to be split"

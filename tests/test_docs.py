"""The pages match the code: links are valid, Python compiles, options exist, defaults and formulas agree."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from docs import tables
from sal360 import sphere
from sal360.cameras.settings import check_camera, parse_camera
from sal360.errors import ParameterError
from sal360.outputs.qp_offset import QpOffsetSettings
from sal360.outputs.shading_rate import ShadingRateSettings
from sal360.outputs.smoothing import SmoothingSettings
from sal360.outputs.targets import PeakSettings, SelectionSettings
from sal360.settings import Settings, flatten, setting
from sal360_ros.parameters import CameraParameters, SaliencyParameters

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    """Each page in turn."""
    found: Path = request.param
    return found


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def test_links_and_pictures_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_every_page_is_reached_from_the_readme() -> None:
    root = DOCS.parent
    reached, ahead = set(), [root / "README.md"]
    while ahead:
        document = ahead.pop()
        reached.add(document)
        links = re.findall(r"\]\(([^)#:]+\.md)", document.read_text())
        ahead += {(document.parent / link).resolve() for link in links} - reached
    assert set(PAGES) <= reached


def test_python_compiles_and_imports_what_exists(page: Path) -> None:
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
                "sal360",
                "sal360_ros",
                "training",
            ):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


def test_commands_on_the_pages_exist(page: Path) -> None:
    for script in re.findall(r"(?:benchmarks|docs)/\w+\.py", page.read_text()):
        assert (DOCS.parent / script).is_file(), script


def commands(text: str) -> Iterator[tuple[str, set[str]]]:
    """Each command in the code of a page, such as "sal360 predict" or "training.export", and its options."""
    for code in re.findall(r"```bash\n(.*?)```|`([^`\n]+)`|((?:^    .+\n)+)", text, re.DOTALL | re.MULTILINE):
        for line in re.sub(r"\\\n|\n\s+(?=\[)", " ", "".join(code)).splitlines():
            command = re.search(
                r"(?:python -m |python )?(sal360 [\w-]+|training\.[\w.]+(?: \w+\b)?|benchmarks/\w+\.py)", line
            )
            if command:
                yield command[1], set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", line[command.end() :].partition(" #")[0]))


def help_of(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The text that names every option of a command."""
    if command.startswith("benchmarks/"):
        return (DOCS.parent / command).read_text()
    if command.startswith("sal360 "):
        module, arguments = "sal360.cli", [*command.split()[1:], "--help"]
    else:
        module, *arguments = [*command.split(), "--help"]
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit):
        sys.exit(importlib.import_module(module).main())
    return capsys.readouterr().out


@pytest.mark.parametrize("page", [*PAGES, DOCS.parent / "README.md"], ids=lambda page: page.name)
def test_options_on_the_pages_exist(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, options in commands(page.read_text()):
        if options:
            known = set(re.findall(r"--[a-z][\w.-]*", help_of(command, monkeypatch, capsys)))
            assert options <= known, (command, options - known)


def test_cameras_on_the_pages_can_be_opened() -> None:
    text = (DOCS / "cameras.md").read_text()
    table = text.partition("| camera | driver |")[2].partition("\n\n")[0].splitlines()[2:]
    in_table = [re.match("`([^`]+)`", row.split(" | ")[3]) for row in table]
    named = [match[1] for match in in_table if match]
    assert len(named) > 8
    named += re.findall(r"--camera ([\w:=,.-]+)", text + (DOCS.parent / "README.md").read_text())
    for each in named:
        if not each.endswith(".yaml"):
            check_camera(parse_camera(each))


def test_parameters_in_commands_on_the_pages_are_declared(page: Path) -> None:
    parameters = {"saliency_node": SaliencyParameters(), "panorama_camera": CameraParameters()}
    for node, line in re.findall(r"ros2 run sal360_ros (saliency_node|panorama_camera) (.*)", page.read_text()):
        known = {name: default for name, default, _ in flatten(parameters[node])}
        for name, quoted, value in re.findall(r'-p ([\w.]+):=(?:"([^"]*)"|(\S+))', line):
            assert name in known, line
            assert isinstance(yaml.safe_load(quoted or value), type(known[name])), line


@pytest.mark.parametrize(
    ("name", "group", "settings"),
    [
        ("smoothing.md", "smoothing", SmoothingSettings()),
        ("targets.md", "targets", PeakSettings()),
        ("targets.md", "target", SelectionSettings()),
        ("shading_rate.md", "shading_rate", ShadingRateSettings()),
        ("qp_offset.md", "qp_offset", QpOffsetSettings()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Settings) else value,
)
def test_every_setting_is_listed_with_its_default(name: str, group: str, settings: Settings) -> None:
    rows = dict(re.findall(rf"^\| `{group}\.(\w+)` \| `([\w.]+)", (DOCS / name).read_text(), re.MULTILINE))
    for each, default, _ in flatten(settings):
        said = rows[each]
        assert said == str(default).lower() or (not isinstance(default, str) and float(said) == default), each


def test_generated_files_and_tables_are_those_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check"]) == 0, capsys.readouterr().err


def test_a_table_that_differs_is_named_and_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "FILES", {})
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- table: target -->\n\nold\n\n<!-- end -->\nafter\n")
    assert tables.main(["--check"]) == 1
    assert "README.md differs from the code" in capsys.readouterr().err
    assert "old" in page.read_text()
    assert tables.main([]) == 0
    assert tables.main(["--check"]) == 0
    assert re.fullmatch(
        r"before\n<!-- table: target -->\n\n\| parameter .*\n\n<!-- end -->\nafter\n", page.read_text(), re.DOTALL
    )
    page.write_text("<!-- table: nothing -->\n<!-- end -->\n")
    with pytest.raises(ParameterError, match=r"README\.md has a table 'nothing'"):
        tables.main(["--check"])


@dataclasses.dataclass(frozen=True)
class _Inner(Settings):
    middle: float = setting(2.0, "middle", minimum=0, maximum=9)


@dataclasses.dataclass(frozen=True)
class _Group(Settings):
    first: int = setting(1, "first of the group", minimum=0, maximum=9)
    inner: _Inner = dataclasses.field(default_factory=_Inner)
    last: int = setting(3, "last of the group", minimum=0, maximum=9)


@dataclasses.dataclass(frozen=True)
class _Mixed(Settings):
    before: bool = setting(True, "before the group")
    group: _Group = dataclasses.field(default_factory=_Group)
    after: str = setting("", "after the group")


def test_parameters_may_stand_before_and_after_groups() -> None:
    written = yaml.safe_load(tables.parameters_yaml(_Mixed()))["/**"]["ros__parameters"]
    assert written == {"before": True, "after": "", "group": {"first": 1, "last": 3}, "group.inner": {"middle": 2.0}}


def test_a_backend_without_a_pip_package_is_listed_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(tables.BACKENDS[0], install={"cpu": "", "cuda": "package"})
    monkeypatch.setattr(tables, "BACKENDS", (row,))
    assert "| cpu: no pip package<br>cuda: `pip install package` |" in tables.backends()


def test_the_shaders_lookup_is_the_spheres() -> None:
    directions = sphere.erp_directions(9, 18)
    u = 0.5 - np.arctan2(directions[..., 1], directions[..., 0]) / (2 * math.pi)
    v = 0.5 - np.arcsin(directions[..., 2]) / math.pi
    # texture coordinates count from the edge of the first pixel, in image sizes
    assert np.allclose(u * 18 - 0.5, np.arange(18)[None, :])
    assert np.allclose(v * 9 - 0.5, np.arange(9)[:, None])


@pytest.mark.parametrize(
    ("convention", "to_body"),
    [("openxr", lambda r: (-r[2], -r[0], r[1])), ("optical", lambda r: (r[2], -r[0], -r[1]))],
)
def test_the_shaders_axes_are_the_spheres(convention: str, to_body: object) -> None:
    assert callable(to_body)
    for body in np.eye(3):
        assert np.allclose(to_body(sphere.body_to_frame(body, convention)), body)


def test_a_map_is_read_from_its_message_as_the_index_says() -> None:
    (source,) = [block for block in python_blocks(DOCS / "topics.md") if "def density_of" in block]
    names: dict[str, object] = {"np": np, "Image": object}
    exec(source, names)
    density = np.random.default_rng(0).gamma(1, 1, (4, 6)).astype(np.float32)

    class Message:
        """An Image with padded rows."""

        height, width = density.shape

        def __init__(self, encoding: str, pixels: np.ndarray) -> None:
            padded = np.pad(pixels.view(np.uint8), ((0, 0), (0, 8)))
            self.encoding, self.step, self.data = encoding, padded.shape[1], padded.tobytes()

    read = names["density_of"]
    assert callable(read)
    assert np.array_equal(read(Message("32FC1", density)), density)
    quantised = np.clip(np.rint(density * 255 / 8), 0, 255).astype(np.uint8)
    assert np.abs(read(Message("mono8", quantised)) - np.minimum(density, 8)).max() <= 4 / 255 + 1e-6

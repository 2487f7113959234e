"""The page as a file: what it holds, what it weighs, and what it says about a wrong view."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest

from sal360.cli import main
from sal360.cli.view import _in_time
from sal360.errors import ParameterError
from sal360.outputs.overlay import saliency_to_mono8
from sal360.outputs.qp_offset import QpOffset, QpOffsetSettings
from sal360.outputs.shading_rate import ShadingRateSettings
from sal360.samples import bundled_panoramas
from sal360.sources import Frame
from sal360.viewer.page import live_page, read_view, static_page
from sal360.viewer.scene import MAX_WIDTH, GridSettings, Scene

from .conftest import make_scene

PAGE = files("sal360.viewer").joinpath("page.html").read_text(encoding="utf-8")


def content_of(page: str) -> dict:
    return json.loads(re.search(r'id="content">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_weighs_less_than_100_kilobytes_and_loads_nothing_from_elsewhere() -> None:
    page = live_page()
    assert len(page.encode()) < 100_000
    assert not re.findall(r"(?:src|href)=|https?://|@import|import\s*\(|url\(", page)


def test_a_static_page_holds_picture_map_targets_and_grids(scene: Scene) -> None:
    content = content_of(static_page([scene], "one", {"azimuth": "30"}))
    (frame,) = content["frames"]
    assert (content["title"], content["view"], frame["name"]) == ("one", "azimuth=30", "scene_1")
    jpeg = np.frombuffer(base64.b64decode(frame["picture"]), np.uint8)
    assert np.abs(cv2.imdecode(jpeg, cv2.IMREAD_COLOR).astype(int) - scene.picture).mean() < 2
    values = np.frombuffer(base64.b64decode(frame["map"]["data"]), np.uint8).reshape(48, 96)
    assert np.allclose(values * frame["map"]["scale"] / 255, scene.density, atol=frame["map"]["scale"] / 509)
    assert np.allclose(frame["targets"][0][:3], scene.target.direction, atol=0.05)
    assert frame["target"]["dwell_s"] == 0.5
    grid = frame["qp_offset"]
    offsets = np.frombuffer(base64.b64decode(grid["data"]), np.uint8).reshape(grid["rows"], grid["columns"])
    assert np.array_equal(offsets.astype(int) - 128, QpOffset(256, 512).update(scene.density))


def test_grids_follow_their_settings() -> None:
    grids = GridSettings(
        ShadingRateSettings(tile_px=32, projection="cubemap"), QpOffsetSettings(max_offset=2), qp_offset_rows=64
    )
    scene = make_scene(grids=grids)
    rates, _ = scene.grid_bytes("shading_rate")
    assert (rates["tile_px"], rates["rows"], rates["columns"]) == (32, 8, 16)  # on the sphere: equirectangular
    offsets, data = scene.grid_bytes("qp_offset")
    assert (offsets["height"], offsets["width"], offsets["rows"]) == (64, 128, 4)
    values = np.frombuffer(data, np.uint8).astype(int) - 128
    assert (values.min(), values.max()) == (-2, 2)


def test_the_scale_of_the_map_keeps_peaks_above_the_usual_full_scale() -> None:
    density = make_scene().density * 0 + 0.5
    density[10, 20] = 90.0
    size, values = make_scene(density=density).map_bytes()
    assert size["scale"] == 90.0
    assert values == saliency_to_mono8(density, 90.0).tobytes()


def test_a_name_cannot_end_the_script_that_holds_it() -> None:
    hostile = "</script><script>alert(1)</script>"
    page = static_page([make_scene(name=hostile)], hostile)
    assert page.count("<script") == PAGE.count("<script")
    assert content_of(page)["title"] == hostile


def test_large_pictures_are_reduced() -> None:
    picture = make_scene(picture=np.zeros((MAX_WIDTH // 2 + 100, MAX_WIDTH + 200, 3), np.uint8))
    assert picture.shown().shape[1] == MAX_WIDTH


class _Labels(HTMLParser):
    """Collects the controls that have no name for a screen reader, and ids that appear twice."""

    def __init__(self) -> None:
        super().__init__()
        self.depth_of_label = 0
        self.unnamed: list[str] = []
        self.ids: list[str] = []
        self.open_button: str | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.depth_of_label += tag == "label"
        if tag in ("input", "select") and not self.depth_of_label and "aria-label" not in given:
            self.unnamed.append(given.get("id", tag))
        if tag == "canvas" and not given.get("aria-label"):
            self.unnamed.append("canvas")
        if tag == "button":
            self.open_button = given.get("id", tag)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.open_button = None

    def handle_endtag(self, tag: str) -> None:
        self.depth_of_label -= tag == "label"
        if tag == "button" and self.open_button:
            self.unnamed.append(self.open_button)


def test_every_control_has_a_name_for_screen_readers() -> None:
    parser = _Labels()
    parser.feed(PAGE)
    assert parser.unnamed == []
    assert len(set(parser.ids)) == len(parser.ids)
    assert 'lang="en"' in PAGE
    described = re.findall(r'aria-(?:describedby|controls)="(\w+)"', PAGE)
    assert set(described) <= set(parser.ids)


def test_a_view_is_read_from_options_and_from_links() -> None:
    assert read_view("azimuth=90,fov=75") == {"azimuth": "90", "fov": "75"}
    assert read_view("http://127.0.0.1:8360/#azimuth=-10.5&elevation=4&grid=qp_offset") == {
        "azimuth": "-10.5",
        "elevation": "4",
        "grid": "qp_offset",
    }


@pytest.mark.parametrize("text", ["zoom=3", "fov=0", "fov=nan", "azimuth=", "azimuth", "grid=tiles", "elevation=91"])
def test_a_wrong_view_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ParameterError, match="the view has"):
        read_view(text)


def test_view_writes_one_file_for_a_folder(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "spheres.html"
    command = ["view", str(bundled_panoramas()), "--static", str(output), "--model", str(tiny_model), "--view=fov=60"]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(f"4 pictures in {output} (")
    content = content_of(output.read_text())
    assert [each["name"] for each in content["frames"]] == ["city", "courtyard", "interior", "sunset"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jpg", "--static", "x.html"], "error: nowhere.jpg does not exist; check the path\n"),
        (["notes.txt"], "error: notes.txt is not recognised as a picture"),
        (["one.png", "--static", "x.html", "--map", "none.npy"], "error: none.npy cannot be read"),
        (["one.png", "--map", "zero.npy"], "error: the map zero.npy is zero everywhere"),
        (["rtsp://127.0.0.1/x", "--static", "x.html"], "error: --static was given for a live stream; name a picture"),
        *(
            ([source, "--map", "zero.npy"], "error: --map was given, and SOURCE is not one picture; ")
            for source in (".", "ride.mp4", "run.mcap")
        ),
        (["one.png", "--view", "fov=500"], "error: argument --view: the view has fov = '500'; set it to a number"),
        (["one.png", "--port", "70000"], "error: argument --port: 70000 is not a value from 0 to 65535"),
        (["one.png", "--tls-key", "k.pem"], "error: only one of the TLS certificate and its key is given; give both"),
        (["one.png", "--host", "a..b"], "error: the host 'a..b' is unknown; choose an address"),
        (["one.png", "--host", "192.0.2.1"], "error: 192.0.2.1 is not an address of this machine; choose an address"),
    ],
)
def test_bad_input_gives_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("one.png", make_scene().picture)
    Path("notes.txt").touch()
    np.save("zero.npy", np.zeros((8, 16), np.float32))
    model = [] if "--map" in arguments else ["--model", str(tiny_model)]
    assert main(["view", *arguments, *model]) == 2
    error = capsys.readouterr().err
    assert error.startswith(said), error
    assert error.count("\n") == 1
    assert not Path("x.html").exists()


class _Clock:
    """Time that passes only while somebody sleeps or works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr("sal360.cli.view.time.monotonic", lambda: self.now_s)
        monkeypatch.setattr("sal360.cli.view.time.sleep", self.pass_by)

    def pass_by(self, seconds: float) -> None:
        self.now_s += seconds


def _shown(clock: _Clock, stamps_s: list[float], work_s: float, *, can_skip: bool) -> list[tuple[float, float]]:
    """Stamp of each frame that is shown, and when; each costs `work_s`."""
    image = np.zeros((2, 4, 3), np.uint8)
    shown = []
    for frame in _in_time((Frame(image, "bgr", stamp_s, "") for stamp_s in stamps_s), can_skip=can_skip):
        shown.append((frame.stamp_s, round(clock.now_s - 1000.0, 6)))
        clock.pass_by(work_s)
    return shown


def test_pictures_are_held_for_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _shown(_Clock(monkeypatch), [0.0, 100.0, 200.0], 0.5, can_skip=False)
    assert shown == [(0.0, 0.0), (100.0, 100.0), (200.0, 200.0)]


def test_a_recording_keeps_its_speed_when_prediction_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps_s = [number / 10 for number in range(40)]
    shown = _shown(_Clock(monkeypatch), stamps_s, 0.25, can_skip=True)
    assert 12 <= len(shown) <= 18
    assert max(at_s - stamp_s for stamp_s, at_s in shown) < 0.4

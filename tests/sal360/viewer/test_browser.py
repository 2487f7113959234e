"""The page in a real browser: what it draws, what mouse, fingers, keys and headsets do, and what it says in trouble."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from sal360.outputs.targets import Target
from sal360.outputs.viewport import ViewportMap
from sal360.projection import Viewport, sample_erp
from sal360.sphere import angles_to_vector, angular_distance, rotation_yaw_pitch_roll
from sal360.viewer.page import write_static_page
from sal360.viewer.scene import Scene
from tests.browser import Browser, Tab, running_browser

from .conftest import make_scene

WIDTH, HEIGHT = 640, 480


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests of this file."""
    with running_browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


def window(azimuth_deg: float, elevation_deg: float, fov_deg: float) -> Viewport:
    """What the page shows: `fov` along the longer side, which is the width."""
    turn = rotation_yaw_pitch_roll(math.radians(azimuth_deg), -math.radians(elevation_deg))
    return Viewport(turn, math.radians(fov_deg), HEIGHT, WIDTH)


def now(tab: Tab) -> Viewport:
    view = tab.run("sal360.view")
    return window(view["azimuth"], view["elevation"], view["fov"])


def decoded(scene: Scene) -> np.ndarray:
    """The picture as the page gets it."""
    return cv2.imdecode(np.frombuffer(scene.jpeg(), np.uint8), cv2.IMREAD_COLOR)


def blended(picture: np.ndarray, density: np.ndarray, opacity: float, full: float = 8.0) -> np.ndarray:
    """The heat map over a picture, as documented for overlays."""
    heat = cv2.applyColorMap(np.rint(np.clip(density / full, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return (1 - opacity) * picture + opacity * heat


def opened(browser: Browser, path: Path, link: str, before: str = "") -> Tab:
    tab = browser.tab(before)
    tab.open(f"{path.as_uri()}#{link}&panel=0")
    tab.until("sal360.rendered()")
    hide_button(tab)
    return tab


def hide_button(tab: Tab) -> None:
    tab.run("document.getElementById('open').style.visibility = 'hidden'")


@pytest.fixture
def still(tmp_path: Path, scene: Scene) -> Path:
    """A page with one scene."""
    path = tmp_path / "still.html"
    write_static_page(path, [scene], "still")
    return path


def test_the_page_draws_what_python_draws(browser: Browser, still: Path, scene: Scene) -> None:
    tab = opened(browser, still, "azimuth=0")
    picture = decoded(scene)
    folder = os.environ.get("SAL360_SCREENSHOTS")
    for azimuth, elevation, fov, opacity in (
        (0, 0, 90, 0.5),
        (175, 5, 100, 0.0),
        (40, -60, 75, 0.3),
        (10, 88, 110, 0.5),
    ):
        tab.run(f"location.hash = 'azimuth={azimuth}&elevation={elevation}&fov={fov}&opacity={opacity}&targets=0'")
        tab.until(f"sal360.view.azimuth === {azimuth} && sal360.view.fov === {fov} && sal360.rendered()")
        view = window(azimuth, elevation, fov)
        wanted = blended(view.cut_from(picture), ViewportMap(view).sample(scene.density), opacity)
        shot = tab.screenshot()
        if folder:
            cv2.imwrite(f"{folder}/page_{azimuth}_{elevation}.png", np.hstack([shot, np.uint8(wanted)]))
        assert np.abs(shot - wanted).mean() < 2, (azimuth, elevation)
        share = ViewportMap(view).gaze_share(scene.density)
        assert abs(tab.run("sal360.gazeShare()") - share) < 0.015
    tab.run("location.hash = 'azimuth=0&elevation=0&opacity=1&threshold=1.5&targets=0'")
    tab.until("sal360.rendered() && sal360.view.azimuth === 0")
    view = window(0, 0, 110)
    is_shown = ViewportMap(view).sample(scene.density) >= 1.5
    heat = blended(view.cut_from(picture), ViewportMap(view).sample(scene.density), 1.0)
    wanted = np.where(is_shown[..., None], heat, view.cut_from(picture))
    shot = tab.screenshot()
    if folder:
        cv2.imwrite(f"{folder}/threshold.png", np.hstack([shot, np.uint8(wanted)]))
    assert np.abs(shot - wanted).mean() < 2


def test_a_marker_appears_at_the_pixel_of_its_direction(browser: Browser, tmp_path: Path) -> None:
    direction = angles_to_vector(math.radians(-150), math.radians(20))
    black = np.zeros((64, 128, 3), np.uint8)
    scene = make_scene(picture=black, density=np.ones((48, 96), np.float32), target=Target(direction, 1.0, 0.0))
    write_static_page(tmp_path / "marker.html", [scene], "marker")
    tab = opened(browser, tmp_path / "marker.html", "azimuth=-135&elevation=12&opacity=0")
    x, y, _ = window(-135, 12, 90).project(direction)
    rows, columns = np.nonzero(tab.screenshot().min(axis=-1) > 128)
    assert len(rows) > 30
    assert abs(columns.mean() - x) < 1
    assert abs(rows.mean() - y) < 1


def test_grids_are_drawn_where_their_tiles_are(browser: Browser, tmp_path: Path) -> None:
    scene = make_scene(picture=np.full((256, 512, 3), 128, np.uint8))
    write_static_page(tmp_path / "grids.html", [scene], "grids")
    tab = opened(browser, tmp_path / "grids.html", "azimuth=40&elevation=10&opacity=0&targets=0&grid=qp_offset")
    shot = tab.screenshot().astype(int)
    middle = shot[HEIGHT // 2 - 3 : HEIGHT // 2 + 3, WIDTH // 2 - 3 : WIDTH // 2 + 3].mean(axis=(0, 1))
    plain = window(40, 10, 90).cut_from(decoded(scene))[HEIGHT // 2, WIDTH // 2]
    assert middle[0] > plain[0] + 30  # blue: better quality where people look
    tab.run("location.hash = 'azimuth=-90&elevation=0&opacity=0&targets=0&grid=shading_rate'")
    tab.until("sal360.view.azimuth === -90 && sal360.rendered()")
    shot, plain = tab.screenshot().astype(int), window(-90, 0, 90).cut_from(decoded(scene))
    assert (shot[..., 2] - plain[..., 2]).mean() > 10  # red: coarse where nobody looks


def test_what_was_grabbed_stays_under_the_pointer(browser: Browser, still: Path) -> None:
    tab = opened(browser, still, "azimuth=20&elevation=10")
    grabbed = now(tab).unproject(319.5, 239.5)
    tab.mouse("pressed", 320, 240)
    tab.mouse("moved", 390, 270, buttons=1)
    tab.mouse("moved", 440, 300, buttons=1)
    tab.mouse("released", 440, 300)
    view = now(tab)
    assert math.degrees(angular_distance(view.unproject(439.5, 299.5), grabbed)) < 0.05
    turned = tab.run("sal360.view.azimuth")
    assert turned > 30  # the scene was pulled to the right
    tab.mouse("moved", 100, 100)
    assert tab.run("sal360.view.azimuth") == turned  # released
    tab.mouse("wheel", 320, 240, deltaX=0, deltaY=-200)
    assert tab.until("sal360.view.fov < 90 && sal360.view.fov") == pytest.approx(
        math.degrees(2 * math.atan(math.exp(-0.4))), abs=0.1
    )


def test_two_fingers_zoom_and_one_turns(browser: Browser, still: Path) -> None:
    tab = opened(browser, still, "azimuth=0&elevation=0")
    tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
    tab.touch("touchStart", (300, 240), (340, 240))
    tab.touch("touchMove", (280, 240), (360, 240))
    tab.touch("touchEnd")
    assert tab.until("sal360.view.fov < 89 && sal360.view.fov") == pytest.approx(
        math.degrees(2 * math.atan(0.5)), abs=0.1
    )
    tab.touch("touchStart", (320, 240))
    tab.touch("touchMove", (220, 240))
    tab.touch("touchEnd")
    assert tab.until("sal360.view.azimuth < -1 && sal360.view.azimuth") < -5


def test_keys_turn_zoom_and_are_told_to_screen_readers(browser: Browser, still: Path) -> None:
    tab = opened(browser, still, "azimuth=0&elevation=0&fov=90")
    tab.run("document.getElementById('sphere').focus()")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp"):
        tab.key(key)
    view = tab.run("sal360.view")
    assert (view["azimuth"], view["elevation"]) == (10, 5)
    assert tab.run("document.getElementById('said').textContent") == "10° left, 5° up, field of view 90°"
    tab.key("+", "+")
    assert tab.run("sal360.view.fov") < 80
    tab.key("t", "t")
    assert tab.run("document.getElementById('said').textContent").startswith("Target 1: 40° left, 10° up")
    tab.key("p", "p")
    assert tab.run("!document.getElementById('panel').hidden")
    tab.until("/azimuth=(39|40)/.test(location.hash) && location.hash.includes('panel=1')")
    tab.key("Home")
    assert tab.run("sal360.view.azimuth") == 0


def test_a_browser_without_webgl_2_is_told_so_in_one_line(browser: Browser, still: Path) -> None:
    tab = browser.tab("HTMLCanvasElement.prototype.getContext = () => null")
    tab.open(still.as_uri())
    said = tab.until("document.getElementById('trouble').textContent")
    assert said.startswith("This browser has no WebGL 2")
    assert tab.run("!document.getElementById('trouble').hidden")


# --- with a server ---


def opposed(sequence: int) -> Scene:
    """A picture that is as bright as its map is dark: their mean is the same grey in every frame, if they match."""
    level = 40 if sequence % 2 else 215
    density = np.full((16, 32), 8 * (255 - level) / 255, np.float32)
    return make_scene(
        float(sequence), sequence, picture=np.full((64, 128, 3), level, np.uint8), density=density, target=None
    )


LIVE = "panel=0&targets=0&colour=grey&opacity=0.5"


def live(browser: Browser, url: str, before: str = "") -> Tab:
    tab = browser.tab(before)
    tab.open(f"{url}#{LIVE}")
    hide_button(tab)
    return tab


@pytest.mark.parametrize(("pictures", "codec"), [("jpeg", "JPEG"), ("video", "avc1.42E033")])
def test_picture_and_map_of_one_frame_are_shown_together_in_two_pages(
    browser: Browser, pictures: str, codec: str
) -> None:
    pytest.importorskip("av")
    from sal360.viewer.server import Address, ViewerServer

    with ViewerServer("two pages", Address(port=0), pictures=pictures) as server:
        tabs = [live(browser, server.url) for _ in range(2)]
        for sequence in range(1, 25):
            server.publish(opposed(sequence))
            time.sleep(0.01)
            if sequence % 6 == 0:
                tab = tabs[sequence // 6 % 2]
                tab.call("Page.bringToFront")  # browsers draw only pages that are seen
                tab.until(f"sal360.latest && sal360.latest.sequence >= {sequence}")
                assert np.abs(tab.screenshot().astype(int) - 127).max() <= 4, sequence
        shown = tabs[0].run("document.getElementById('codec').textContent")
        if pictures == "video" and shown == "JPEG":
            pytest.skip("this browser decodes neither H.264 nor VP9")
        assert shown == codec
        assert tabs[0].run("document.title") == "two pages · sal360 viewer"


def test_a_page_without_webcodecs_gets_jpeg_and_outlives_its_server(browser: Browser) -> None:
    pytest.importorskip("aiohttp")
    from sal360.viewer.server import Address, ViewerServer

    with ViewerServer("first", Address(port=0), pictures="video") as server:
        server.publish(opposed(1))
        tab = live(browser, server.url, "delete window.VideoDecoder")
        tab.call("Page.bringToFront")
        tab.until("sal360.latest && sal360.latest.sequence === 1")
        assert tab.run("document.getElementById('codec').textContent") == "JPEG"
        port = int(server.url.split(":")[2].strip("/"))
    tab.until("document.getElementById('trouble').textContent.startsWith('The server does not answer')")
    with ViewerServer("second", Address(port=port)) as server:
        server.publish(opposed(4))
        tab.until("sal360.latest.sequence === 4 && document.getElementById('trouble').hidden")
        tab.run("document.getElementById('pause').click()")
        server.publish(opposed(5))
        server.publish(opposed(6))
        tab.run("document.getElementById('step').click()")
        tab.until("sal360.latest.sequence >= 5")


HEADSET = """
(() => {
  const projection = (left, right) => { // asymmetric, as a headset's: tangents of the angles to the left and right
    const m = new Float32Array(16), up = 1;
    m[0] = 2 / (right + left); m[8] = (right - left) / (right + left); m[5] = 1 / up; m[10] = m[11] = -1;
    return m;
  };
  const orientation = { x: 0.1, y: 0.3, z: -0.05, w: Math.sqrt(1 - 0.01 - 0.09 - 0.0025) };
  const eyes = [["left", 1.1, 0.8], ["right", 0.8, 1.1]].map(([eye, left, right]) => (
    { eye, projectionMatrix: projection(left, right), transform: { orientation } }));
  const pose = { views: eyes, transform: { orientation } };
  window.XRWebGLLayer = function (session, gl) {
    this.framebuffer = null;
    this.getViewport = (view) => ({ x: view.eye === "left" ? 0 : 320, y: 0, width: 320, height: 480 });
  };
  WebGL2RenderingContext.prototype.makeXRCompatible = async () => {};
  class Session extends EventTarget {
    updateRenderState(state) { this.renderState = state; }
    async requestReferenceSpace() { return {}; }
    requestAnimationFrame(call) { requestAnimationFrame((time) => call(time, { getViewerPose: () => pose })); }
    end() { this.dispatchEvent(new Event("end")); }
  }
  const xr = { isSessionSupported: async () => true, requestSession: async () => new Session() };
  Object.defineProperty(navigator, "xr", { value: xr });
})();
"""


def test_both_eyes_of_a_headset_see_the_sphere_and_its_direction_reaches_the_server(
    browser: Browser, scene: Scene
) -> None:
    pytest.importorskip("aiohttp")
    from sal360.viewer.server import Address, SeenView, ViewerServer

    seen: list[SeenView] = []
    with ViewerServer("headset", Address(port=0), on_view=seen.append) as server:
        server.publish(scene)
        tab = live(browser, server.url, HEADSET)
        tab.call("Page.bringToFront")
        tab.run("location.hash = 'azimuth=30&targets=0&opacity=0&panel=0'")
        tab.until("sal360.latest && !document.getElementById('vr').hidden")
        tab.run("document.getElementById('vr').click()")
        tab.until("document.getElementById('vr').textContent === 'Leave VR'")
        shot = tab.screenshot()
        end_s = time.monotonic() + 20
        while not any(view.is_head for view in seen):
            assert time.monotonic() < end_s
            time.sleep(0.02)
        tab.run("document.getElementById('vr').click()")
    # the head's axes, in Python: OpenXR (x right, y up, z back) to body axes, and the page's front
    x, y, z = 0.05, -0.1, 0.3
    w = math.sqrt(1 - x * x - y * y - z * z)
    head = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    turn = rotation_yaw_pitch_roll(math.radians(30)) @ head
    up = 1 - 2 * (np.arange(480) + 0.5) / 480
    for eye, (left, right) in enumerate(((1.1, 0.8), (0.8, 1.1))):
        across = -left + (left + right) * (np.arange(320) + 0.5) / 320
        rays = np.stack(np.broadcast_arrays(1.0, -across[None, :], up[:, None]), axis=-1)
        rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True) @ turn.T
        wanted = sample_erp(decoded(scene), rays)
        assert np.abs(shot[:, 320 * eye : 320 * eye + 320].astype(int) - wanted).mean() < 2, eye
    qx, qy, qz, qw = next(view.quaternion for view in seen if view.is_head)
    forward = [1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy + qz * qw), 2 * (qx * qz - qy * qw)]
    assert math.degrees(angular_distance(forward, turn[:, 0])) < 0.1

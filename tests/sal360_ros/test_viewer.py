"""The viewer's node: frames and maps of one stamp for pages, and the pages' views as a topic."""

from __future__ import annotations

import asyncio
import json
import math
import struct
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import QuaternionStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image

from sal360.cameras import CameraSettings, open_camera
from sal360.density import normalised
from sal360.errors import DataError, FrameError, ParameterError
from sal360.outputs.layout import SourceLayout
from sal360.settings import flatten
from sal360_ros.grid_settings import GridParameters
from sal360_ros.messages import image_message, stamp_nanoseconds
from sal360_ros.parameters import SaliencyParameters

aiohttp = pytest.importorskip("aiohttp")

from sal360_ros.viewer import SaliencyViewer  # noqa: E402 (needs aiohttp)

pytestmark = pytest.mark.ros


@pytest.fixture
def viewer(graph):
    """A viewer on a free port."""
    return graph.add(SaliencyViewer(context=graph.context, parameter_overrides=[Parameter("port", value=0)]))


class Page:
    """A page in a thread: says what it is told, and keeps the frames that it gets."""

    def __init__(self, url):
        self.frames, self.said = [], []
        self._loop = asyncio.new_event_loop()
        self._url = url
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()), daemon=True)
        self._connected = threading.Event()
        self._thread.start()
        assert self._connected.wait(30)

    async def _run(self):
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self._url}socket") as connection:
            self._connection = connection
            self._connected.set()
            async for message in connection:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self.said.append(message.data)
                else:
                    (length,) = struct.unpack_from("<I", message.data)
                    self.frames.append((json.loads(message.data[4 : 4 + length]), message.data[4 + length :]))

    def say(self, **message):
        asyncio.run_coroutine_threadsafe(self._connection.send_json(message), self._loop).result(30)

    def close(self):
        asyncio.run_coroutine_threadsafe(self._connection.close(), self._loop).result(30)
        self._thread.join(30)
        self._loop.close()


def test_frames_and_maps_of_one_stamp_are_shown_and_views_are_published(graph, viewer, camera, make_camera):
    maps = make_camera("saliency")
    assert not viewer.get_subscriptions_info_by_topic("/image"), "it subscribes although nobody looks"
    views = graph.received(QuaternionStamped, "viewer/view")
    page = Page(viewer._server.url)
    try:
        page.say(want=4)
        density = np.linspace(0.5, 1.5, 32 * 16, dtype=np.float32).reshape(16, 32)
        frames = [camera.frame() for _ in range(3)]
        graph.wait_for(camera._publisher.get_subscription_count, "the viewer's subscription")
        for frame in frames[:2]:
            camera.publish(frame)
        # best effort: a lost message is sent again

        def shown():
            camera.publish(frames[1])
            maps.publish(image_message(density, "32FC1", frames[1].header))
            return page.frames

        graph.wait_for(shown, "a frame on the page")
        header, data = page.frames[0]
        assert header["stamp_s"] == stamp_nanoseconds(frames[1].header) / 1e9
        parts = {part["name"]: part for part in header["parts"]}
        assert (parts["map"]["height"], parts["map"]["width"]) == (16, 32)
        jpeg = np.frombuffer(data[parts["map"]["bytes"] :], np.uint8)
        picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        sent = np.frombuffer(frames[1].data, np.uint8).reshape(32, 64, 3)[..., ::-1]
        assert abs(picture.mean(axis=(0, 1)) - sent.mean(axis=(0, 1))).max() < 6
        page.say(view={"quaternion": [0, 0, 0.6, 0.8], "fov_deg": 90, "is_head": True, "stamp_s": header["stamp_s"]})
        graph.wait_for(lambda: views, "a view")
        turn = views[0].quaternion
        assert (turn.x, turn.y, turn.z, turn.w) == (0, 0, 0.6, 0.8)
        assert views[0].header.frame_id == "camera"
    finally:
        page.close()
    graph.wait_for(lambda: not viewer.get_subscriptions_info_by_topic("/image"), "the end of the subscription")


def test_a_map_that_cannot_be_shown_is_named_on_the_page_and_in_the_log(graph, viewer, camera, make_camera):
    maps = make_camera("saliency")
    page = Page(viewer._server.url)
    try:
        frame = camera.frame()

        def warned():
            camera.publish(frame)
            maps.publish(image_message(np.zeros((16, 32), np.float32), "32FC1", frame.header))
            return any("a frame cannot be shown: the map /saliency is zero everywhere" in line for line in graph.log)

        graph.wait_for(warned, "the warning")
    finally:
        page.close()


def test_grids_have_the_parameters_of_the_node_that_publishes_the_maps(graph, viewer, make_node, activate, camera):
    node = activate(make_node(shading_rate__tile_px=32, qp_offset__height_px=512, qp_offset__max_offset=3))
    page = Page(viewer._server.url)

    def grid(name):
        page.say(grid=name, want=1)
        camera.publish(camera.frame())
        parts = [part for header, _ in page.frames[-1:] for part in header["parts"] if part["name"] == name]
        return parts[0] if parts else {"tile_px": 0, "height": 0}

    try:
        graph.wait_for(lambda: grid("shading_rate")["tile_px"] == 32, "the node's tiles")
        graph.wait_for(lambda: grid("qp_offset")["height"] == 512, "the node's rows")
        header, data = page.frames[-1]
        parts = {part["name"]: part for part in header["parts"]}
        offsets = np.frombuffer(data, np.uint8)[parts["map"]["bytes"] :][: parts["qp_offset"]["bytes"]]
        assert offsets.size == parts["qp_offset"]["rows"] * parts["qp_offset"]["columns"]
        assert abs(offsets.astype(int) - 128).max() <= 3
        graph.call(node.set_parameters, [Parameter("shading_rate.tile_px", value=8)])
        graph.wait_for(lambda: grid("shading_rate")["tile_px"] == 8, "the new tiles")
    finally:
        page.close()


@pytest.mark.parametrize(("topic", "tile_px"), [("/front/saliency", 8), ("/robot/saliency", 32)])
def test_grids_of_one_of_several_cameras_have_its_own_parameters(graph, topic, tile_px):
    publisher = Node("saliency_node", context=graph.context, allow_undeclared_parameters=False)
    for name, value, _ in flatten(SaliencyParameters()):
        if name == "fuse":
            publisher.declare_parameter(name, value)
        elif name.startswith(("shading_rate.", "qp_offset.", "camera.", "saliency.")):
            publisher.declare_parameter(name, 32 if name == "shading_rate.tile_px" else value)
            publisher.declare_parameter(f"front.{name}", 8 if name == "shading_rate.tile_px" else value)
    publisher.create_publisher(Image, topic, 1)
    graph.add(publisher)
    asked = GridParameters(graph.node, topic)

    def tile():
        graph.call(asked.ask)
        return asked.settings(480).shading_rate.tile_px == tile_px

    graph.wait_for(tile, "the parameters")
    assert asked.settings(480).qp_offset_rows == 480


def test_a_publisher_without_such_parameters_is_not_asked_again_at_once():
    asked, answer = GridParameters(None, "/front/saliency"), Future()
    answer.set_result(SimpleNamespace(values=[]))
    asked._asked_s = 5.0
    asked._take(answer)  # there is no front.shading_rate.…
    assert asked._asked_s == -math.inf
    asked._asked_s = 5.0
    asked._take(answer)
    assert asked._asked_s == 5.0


def test_pages_say_what_does_not_arrive(graph, viewer, camera, monkeypatch):
    monkeypatch.setattr("sal360_ros.viewer._SILENCE_S", 0.0)
    page = Page(viewer._server.url)
    try:
        graph.wait_for(lambda: any("No raw frames arrive on /image" in text for text in page.said), "the line")

        def said():
            camera.publish(camera.frame())
            return any("No maps arrive on /saliency: start and activate" in text for text in page.said)

        graph.wait_for(said, "the other line")
    finally:
        page.close()


@pytest.fixture
def make_viewer(graph):
    """Makes a viewer with these parameters; dots in names as double underscores."""

    def make(*remappings, **parameters):
        values = {"port": 0, **{name.replace("__", "."): value for name, value in parameters.items()}}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        arguments = ["--ros-args", *(part for each in remappings for part in ("-r", each))]
        return graph.add(SaliencyViewer(context=graph.context, parameter_overrides=overrides, cli_args=arguments))

    return make


def left_side():
    """A density (24, 48) with its peak at azimuth 90°."""
    azimuth, elevation = np.meshgrid(np.linspace(np.pi, -np.pi, 49)[:-1], np.linspace(np.pi / 2, -np.pi / 2, 24))
    return normalised(np.exp(4 * np.cos(elevation) * np.cos(azimuth - np.pi / 2)).astype(np.float32))


def test_a_map_in_the_layout_of_the_frames_is_shown_where_it_belongs(graph, make_viewer, camera):
    viewer = make_viewer(camera__model="cubemap", saliency__layout="source")
    frame, density = camera.frame(64, 96), left_side()
    source = SourceLayout(open_camera(CameraSettings(model="cubemap"), 64, 96)).map(density)
    scene = graph.call(viewer._scene, image_message(source, "32FC1", frame.header), frame, 1.0, 0)
    assert np.corrcoef(cv2.resize(scene.density, (48, 24)).ravel(), density.ravel())[0, 1] > 0.99
    assert scene.target.direction[1] > 0.9


def test_a_map_whose_layout_nobody_names_is_refused_in_one_line(make_viewer, camera):
    viewer, frame = make_viewer(camera__model="cubemap"), camera.frame(64, 96)
    message = image_message(np.ones((16, 24), np.float32), "32FC1", frame.header)
    with pytest.raises(DataError, match=r"the map /saliency is 24 x 16; .* give the viewer the node's saliency.layout"):
        viewer._scene(message, frame, 1.0, 0)


def test_the_node_that_publishes_the_maps_says_what_its_camera_and_its_layout_are(
    graph, viewer, make_node, activate, make_viewer
):
    activate(make_node(camera__model="cubemap", saliency__layout="source"))
    described = make_viewer(camera__model="eac")
    for each in (viewer, described):
        assert each._grids.layout == ""
        graph.wait_for(lambda each=each: graph.call(each._grids.ask) or each._grids.layout == "source", "the answer")
    graph.wait_for(lambda: viewer._model().model == "cubemap", "the node's subscription to be known")
    assert viewer._grids.camera("/stitched") is None  # the node does not see these frames
    assert described._model().model == "eac"


def test_a_fused_map_is_equirectangular_and_of_no_camera():
    asked, answer = GridParameters(None, "/saliency"), Future()
    given = {name: value for name, value, _ in flatten(SaliencyParameters()) if name in {*asked._names, "fuse"}}
    given |= {"fuse": True, "saliency.layout": "source", "camera.model": "cubemap"}
    names = [*asked._names, "fuse"]
    answer.set_result(
        SimpleNamespace(values=[Parameter(each, value=given[each]).get_parameter_value() for each in names])
    )
    asked._take(answer)
    assert asked.layout == "equirectangular"
    assert asked.camera("/image") is None


def test_parameters_under_the_name_of_a_camera_hold_for_its_viewer(make_viewer):
    front = {"front__camera__model": "cubemap", "front__image_transport": "compressed", "camera__model": "eac"}
    viewer = make_viewer("saliency:=front/saliency", "image:=front/image", **front)
    assert (viewer._model().model, viewer._values.image_transport) == ("cubemap", "compressed")
    assert make_viewer("saliency:=rear/saliency", **front)._model().model == "eac"


def test_a_camera_info_describes_the_lens_for_the_viewer_too(graph, make_viewer, camera):
    viewer, frame = make_viewer(camera__info="camera_info"), camera.frame(64, 64)
    message = image_message(left_side(), "32FC1", frame.header)
    with pytest.raises(FrameError, match="no CameraInfo has arrived on camera_info yet; start its publisher"):
        viewer._scene(message, frame, 1.0, 0)
    graph.call(viewer._follow_info, viewer._model().info)
    publisher = graph.call(graph.node.create_publisher, CameraInfo, "camera_info", 10)
    graph.wait_for(publisher.get_subscription_count, "the viewer to subscribe")
    k = [20.0, 0.0, 31.5, 0.0, 20.0, 31.5, 0.0, 0.0, 1.0]
    publisher.publish(CameraInfo(height=64, width=64, distortion_model="equidistant", k=k, d=[0.0] * 4))
    graph.wait_for(lambda: viewer._info, "the CameraInfo")
    picture = viewer._scene(message, frame, 1.0, 0).picture
    row = picture[picture.shape[0] // 2]
    assert row[0].max() == 0  # behind the camera
    assert row[len(row) // 2].max() > 0
    graph.call(viewer._follow_info, "")
    assert viewer._info is None


def test_contradictory_parameters_of_the_camera_end_the_start_in_one_line(make_viewer):
    with pytest.raises(ParameterError, match=r"camera.info is 'camera_info', and camera.model is 'fisheye'; set one"):
        make_viewer(camera__info="camera_info", camera__model="fisheye")


def test_a_port_in_use_ends_the_start_in_one_line(graph, viewer):
    port = int(viewer._server.url.split(":")[2].strip("/"))
    with pytest.raises(ParameterError, match=f"port {port} of 127.0.0.1 is in use"):
        SaliencyViewer(context=graph.context, parameter_overrides=[Parameter("port", value=port)])


def test_the_parameters_of_the_saliency_node_are_no_mistakes_here(graph):
    overrides = [Parameter("port", value=0), Parameter("full_scale", value=8.0), Parameter("camera.info", value="")]
    graph.add(SaliencyViewer(context=graph.context, parameter_overrides=overrides))
    graph.wait_for_line("open http://127.0.0.1:")
    assert not [line for line in graph.log if "unknown" in line]

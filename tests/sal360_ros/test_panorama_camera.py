from __future__ import annotations

import signal
import socket
import subprocess
import sys

import cv2
import numpy as np
import pytest
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from sal360.errors import DataError, ParameterError
from sal360_ros.camera import PanoramaCamera, max_message_bytes
from sal360_ros.messages import decode_frame, stamp_nanoseconds

pytestmark = pytest.mark.ros


@pytest.fixture
def make_camera(graph):
    def make(**parameters):
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        return graph.add(PanoramaCamera(context=graph.context, parameter_overrides=overrides))

    return make


@pytest.fixture
def picture(tmp_path):
    """A file with a panorama (32, 64) whose columns can be distinguished; no compression changes it."""
    columns = np.broadcast_to(4 * np.arange(64, dtype=np.uint8)[None, :, None], (32, 64, 3)).copy()
    cv2.imwrite(str(tmp_path / "columns.png"), columns)
    return tmp_path / "columns.png"


def test_shows_the_bundled_panoramas_when_nothing_is_named(graph, make_camera):
    frames = graph.received(Image, "image")
    make_camera(height_px=64, frame_id="theta")
    graph.wait_for(lambda: len(frames) >= 3, "frames")
    assert {(frame.height, frame.width, frame.encoding, frame.header.frame_id) for frame in frames} == {
        (64, 128, "bgr8", "theta")
    }
    stamps = [stamp_nanoseconds(frame.header) for frame in frames]
    assert stamps == sorted(stamps)
    age_s = (graph.node.get_clock().now().nanoseconds - stamps[-1]) * 1e-9
    assert 0 <= age_s < 30


def test_pans_a_picture_as_a_camera_that_turns_to_the_left(graph, make_camera, picture):
    frames = graph.received(Image, "image")
    make_camera(source=str(picture), rate_hz=50.0, yaw_rate_deg_s=50 * 360 / 64)  # one column a frame
    graph.wait_for(lambda: len(frames) >= 5, "frames")
    first, second = (decode_frame(frame)[0][0, :, 0].astype(int) for frame in frames[:2])
    # the content of column u moves to the right by one column per frame
    steps = [shift for shift in range(64) if np.abs(np.roll(first, shift) - second).max() <= 1]
    assert steps in ([1], [2])


def test_sends_jpeg_where_image_transport_has_it(graph, make_camera, picture):
    frames = graph.received(CompressedImage, "image/compressed")
    make_camera(source=str(picture), image_transport="compressed", yaw_rate_deg_s=0.0, jpeg_quality=100)
    graph.wait_for(lambda: frames, "frames")
    assert frames[0].format == "jpeg"
    shown = decode_frame(frames[0])[0]
    assert np.abs(shown.astype(int) - cv2.imread(str(picture))).max() <= 3


def test_ends_with_its_source_when_it_shall_not_loop(graph, make_camera, picture):
    make_camera(source=str(picture), loop=False, hold_s=0.0, rate_hz=100.0)
    graph.wait_for_line("the source has ended")


def test_leaves_out_pictures_that_cannot_be_read_and_names_them(graph, make_camera, picture):
    (picture.parent / "broken.png").write_bytes(b"no picture")
    frames = graph.received(Image, "image")
    make_camera(source=str(picture.parent), hold_s=0.0)
    graph.wait_for_line("broken.png skipped")
    graph.wait_for(lambda: len(frames) >= 2, "the other picture")


def test_a_name_that_no_parameter_has_is_said(graph, make_camera, picture):
    make_camera(source=str(picture), rate_hx=5.0)
    graph.wait_for_line("there is no parameter rate_hx")


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"source": "/no/such"}, DataError, "/no/such does not exist"),
        ({"rate_hz": 0.0}, ParameterError, "rate_hz"),
        ({"image_transport": "theora"}, ParameterError, "set it to raw or compressed"),
    ],
)
def test_refuses_to_start_with_a_source_that_it_cannot_show(graph, parameters, error, message):
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    with pytest.raises(error, match=message):
        PanoramaCamera(context=graph.context, parameter_overrides=overrides)


@pytest.mark.parametrize("clock", ["missing", "silent"])
def test_without_a_clock_in_simulation_the_camera_says_why_it_publishes_nothing(
    graph, make_camera, picture, clock, monkeypatch
):
    monkeypatch.setattr("sal360_ros.camera.CLOCK_WAIT_S", 0.1)
    if clock == "silent":
        graph.call(graph.node.create_publisher, Clock, "/clock", 10)
    make_camera(source=str(picture), use_sim_time=True)
    found = "/clock has no publisher" if clock == "missing" else "nothing arrives on /clock"
    graph.wait_for_line(f"no frames are published: use_sim_time is true and {found}; start the simulation")


def test_names_that_are_not_utf_8_do_not_end_the_camera(graph, make_camera, picture):
    (picture.parent / "whole_\udce9.png").write_bytes(picture.read_bytes())
    (picture.parent / "broken_\udce9.png").write_bytes(b"no picture")
    frames = graph.received(Image, "image")
    make_camera(source=str(picture.parent), hold_s=0.0)
    graph.wait_for_line(r"broken_\udce9.png skipped")
    graph.wait_for(lambda: len(frames) >= 3, "the other pictures, again and again")


def test_room_is_made_for_the_frames_that_are_sent_beside_those_that_are_skipped(picture):
    """Otherwise the segment would be too small for the good frames, and they would be lost."""
    (picture.parent / "gone.jpg").symlink_to("/no/such.jpg")
    cv2.imwrite(str(picture.parent / "large.png"), np.zeros((128, 256, 3), np.uint8))
    folder = {"source": str(picture.parent)}
    assert max_message_bytes(folder) == 3 * 128 * 256
    assert max_message_bytes({**folder, "max_pixels": 128 * 256 - 1}) == 3 * 32 * 64


def test_room_is_made_for_a_bag_whose_first_frame_is_damaged(mcap_bag, tmp_path):
    black = np.zeros((32, 64, 3), np.uint8)
    frames = [(1, mcap_bag.image(1, black, "rgb8", step=3)), (2, mcap_bag.image(2, black, "rgb8"))]
    bag = mcap_bag.write(tmp_path / "run", {"/camera": frames})
    assert max_message_bytes({"source": str(bag)}) == 3 * 32 * 64


# --- live streams ---


@pytest.fixture
def live():
    """What makes live streams for tests; it needs PyAV."""
    pytest.importorskip("av")
    from tests import live_streams

    return live_streams


def test_a_live_stream_is_published_as_it_arrives_and_again_after_a_cut_in_another_size(graph, make_camera, live):
    url = f"udp://127.0.0.1:{live.free_port(socket.SOCK_DGRAM)}"
    frames = graph.received(Image, "image")
    make_camera(source=url, frame_id="theta")
    with live.Sender(f"{url}?pkt_size=1316", "mpegts", size=(128, 64)):
        graph.wait_for(lambda: len(frames) >= 5, "frames")
        graph.wait_for_line(f"{url} sends 128 x 64")
    graph.wait_for_line("waiting until it is back")
    with live.Sender(f"{url}?pkt_size=1316", "mpegts", size=(256, 128)):
        graph.wait_for(lambda: frames[-1].width == 256, "frames of the other size")
        graph.wait_for_line("is back after")
    assert {(frame.encoding, frame.header.frame_id) for frame in frames} == {("bgr8", "theta")}
    stamps = [stamp_nanoseconds(frame.header) for frame in frames]
    assert stamps == sorted(set(stamps))
    assert stamps[-1] <= graph.node.get_clock().now().nanoseconds
    assert sum("waiting until it is back" in line for line in graph.log) == 1


def test_frames_of_a_stream_are_resized_and_compressed_as_others(graph, make_camera, live):
    url = f"udp://127.0.0.1:{live.free_port(socket.SOCK_DGRAM)}"
    frames = graph.received(CompressedImage, "image/compressed")
    make_camera(source=url, height_px=32, image_transport="compressed")
    with live.Sender(f"{url}?pkt_size=1316", "mpegts", size=(128, 64), grey=200):
        graph.wait_for(lambda: frames, "frames")
    shown = decode_frame(frames[0])[0]
    assert shown.shape == (32, 64, 3)
    assert abs(shown.mean() - 200) < 5


def test_a_stream_that_refuses_the_password_ends_the_camera_with_one_line_without_it(graph, make_camera, live):
    answer = b'RTSP/1.0 401 Unauthorized\r\nCSeq: @\r\nWWW-Authenticate: Basic realm="cam"\r\n\r\n'
    with live.Answers(answer) as server:
        make_camera(source=f"rtsp://admin:geheim@127.0.0.1:{server.port}/live")
        with pytest.raises(DataError, match="refuses the user name and password") as caught:
            graph.wait_for(lambda: False)
    assert "geheim" not in str(caught.value) + " ".join(graph.log)


def test_a_camera_that_waits_for_its_stream_ends_with_ctrl_c_at_once(live):
    url = f"rtsp://admin:geheim@127.0.0.1:{live.free_port()}/live"
    command = [sys.executable, "-m", "sal360_ros.panorama_camera", "--ros-args", "-p", f"source:={url}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as camera:
        said = ""
        while "refuses connections" not in said:
            line = camera.stderr.readline()
            assert line, said
            said += line
        camera.send_signal(signal.SIGINT)
        _, rest = camera.communicate(timeout=60)
    assert camera.returncode == 0
    assert "Traceback" not in rest
    assert "geheim" not in said + rest


def test_the_parameters_file_of_the_saliency_node_can_have_a_section_for_the_camera(
    graph, repository, tmp_path, picture
):
    """As the launch file gives it to both; the node's own parameters in it are no mistakes."""
    shipped = (repository / "config" / "saliency.yaml").read_text()
    section = f"source: '{picture}'\n    rate_hz: 7.0\n    stream.options: a=b\n    strem.timeout_s: 9.0\n"
    path = tmp_path / "mine.yaml"
    path.write_text(
        shipped
        + "    front: {image_transport: raw, camera.model: fisheye}\n    port: 80\n"
        + f"/**/panorama_camera:\n  ros__parameters:\n    {section}"
    )
    arguments = ["--ros-args", "--params-file", str(path)]
    camera = graph.add(PanoramaCamera(context=graph.context, cli_args=arguments, namespace="/robot"))
    assert (camera._values.rate_hz, camera._values.stream.options) == (7.0, "a=b")
    graph.wait_for_line("there is no parameter strem.timeout_s;")
    assert [line for line in graph.log if "there is no parameter" in line and "strem" not in line] == []


def test_room_is_made_for_streams_without_opening_them(live):
    url = f"rtsp://127.0.0.1:{live.free_port()}/live"
    assert max_message_bytes({"source": url}) == 3 * 1920 * 3840
    assert max_message_bytes({"source": url, "height_px": 100}) == 3 * 100 * 200

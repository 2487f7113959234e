"""The node's parameter `shm`: the published map is also in shared memory, where a program in C sees it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from sal360.outputs.shared_memory import SharedMap, SharedMapError, SharedMapWriter, include_path, shared_path
from sal360.sphere import rotation_yaw_pitch_roll

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no /dev/shm"),
]


@pytest.fixture(autouse=True)
def nothing_left():
    """The domain is the run's own, and so are the files."""
    domain = os.environ["ROS_DOMAIN_ID"]
    yield
    left = list(Path("/dev/shm").glob(f"*sal360.{domain}.*"))
    for each in left:
        each.unlink()
    assert left == []


@pytest.fixture
def closed(graph):
    """Frees a node's topics and memory."""

    def close(node):
        assert graph.call(node.trigger_deactivate).name == "SUCCESS"
        assert graph.call(node.trigger_cleanup).name == "SUCCESS"

    return close


@pytest.fixture
def program(repository, tmp_path):
    """The example of the page, compiled."""
    if shutil.which("cc") is None:
        pytest.skip("there is no cc")
    page = (repository / "docs" / "shared_memory.md").read_text()
    (example,) = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    (tmp_path / "program.c").write_text(example)
    command = ["cc", f"-I{include_path()}", "program.c", "-o", "program", "-lm"]
    subprocess.run(command, check=True, cwd=tmp_path)
    return tmp_path / "program"


def test_a_program_in_c_sees_the_published_map_with_its_stamp(
    graph, camera, make_node, activate, density_of, program, closed
):
    node = activate(make_node(shm=True, encoding="32FC1"))
    maps = graph.received(Image, "saliency")
    waiting = subprocess.Popen([program, "/saliency"], stdout=subprocess.PIPE, text=True)
    frame = camera.frame(96, 192)
    frame.header.frame_id = "theta"
    camera.publish(frame)
    graph.wait_for(lambda: waiting.poll() is not None, "the program in C to see a map")
    lines = waiting.communicate()[0].splitlines()
    stamp = frame.header.stamp
    assert lines[0] == f"theta {stamp.sec}.{stamp.nanosec:09d} 32x16"
    density = density_of(frame)
    assert float(lines[1].split()[1]) == pytest.approx(density[7:9, 15:17].mean(), abs=1e-4)
    graph.wait_for(lambda: maps, "the message")
    found = SharedMap.open("/saliency").read()
    np.testing.assert_array_equal(found.density, density)
    assert found.up is None
    graph.wait_for(lambda: graph.values().get("shm.published") == "1", "the count in /diagnostics")
    closed(node)


def test_each_camera_has_its_memory_if_it_wants_one(graph, make_camera, make_node, activate, closed):
    front, rear = make_camera("front/image"), make_camera("rear/image")
    node = activate(make_node(cameras=["front", "rear"], front__shm=True))
    maps = [graph.received(Image, f"{name}/saliency") for name in ("front", "rear")]
    front.publish(front.frame())
    rear.publish(rear.frame())
    graph.wait_for(lambda: all(maps), "a map of each camera")
    assert SharedMap.open("/front/saliency").read() is not None
    with pytest.raises(SharedMapError, match="there is no "):
        SharedMap.open("/rear/saliency")
    closed(node)


def test_axes_offset_and_up_are_those_of_frame_id(graph, camera, make_node, activate, closed):
    tilt = rotation_yaw_pitch_roll(pitch_rad=0.5)
    mount = "0 0.247404 0 0.968912"  # a pitch of 0.5
    offset = {"yaw_offset_rad": 1.0, "frame_convention": "optical", "full_scale": 4.0}
    node = activate(make_node(shm=True, shm_readers="all", mount=mount, **offset))
    maps = graph.received(Image, "saliency")
    camera.publish(camera.frame())
    graph.wait_for(lambda: maps, "a map")
    found = SharedMap.open("/saliency").read()
    assert (found.yaw_offset_rad, found.frame_axes, found.full_scale) == (1.0, "optical", 4.0)
    np.testing.assert_allclose(found.up, tilt[2], atol=1e-5)  # the mount holds for the axes of frame_id
    assert shared_path("/saliency").stat().st_mode & 0o777 == 0o644
    closed(node)


def test_the_memory_lives_from_configure_to_cleanup_and_a_restart_is_followed(
    graph, camera, make_node, activate, closed
):
    node = activate(make_node(shm=True))
    maps = graph.received(Image, "saliency")
    camera.publish(camera.frame())
    graph.wait_for(lambda: len(maps) == 1, "a map")
    reader = SharedMap.open("/saliency")
    assert reader.read() is not None
    closed(node)
    assert not shared_path("/saliency").exists()
    assert reader.read() is None
    activate(node)
    camera.publish(camera.frame())
    graph.wait_for(lambda: len(maps) == 2, "a map after the restart")
    assert reader.read() is not None
    closed(node)
    assert graph.call(node.set_parameters, [Parameter("shm", value=False)])[0].successful
    activate(node)
    assert not shared_path("/saliency").exists()


def test_a_name_in_use_and_a_full_shm_are_one_line_and_the_node_can_be_configured_later(graph, make_node, monkeypatch):
    node = make_node(shm=True)
    with SharedMapWriter("/saliency", 2, 4) as other:
        assert graph.call(node.trigger_configure).name == "FAILURE"
        graph.wait_for_line(
            f"cannot configure: {other.path} is in use by a living process ({os.getpid()}); stop that node"
        )
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", _full)
        assert graph.call(node.trigger_configure).name == "FAILURE"
        graph.wait_for_line("cannot configure: /dev/shm has ")
    assert graph.call(node.trigger_configure).name == "SUCCESS"
    assert graph.call(node.trigger_cleanup).name == "SUCCESS"


def _full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_maps_are_published_all_the_same_if_they_cannot_be_written(
    graph, camera, make_node, activate, monkeypatch, closed
):
    node = activate(make_node(shm=True))
    maps = graph.received(Image, "saliency")
    with monkeypatch.context() as patch:
        patch.setattr(SharedMapWriter, "write", lambda *_: 1 / 0)
        camera.publish(camera.frame())
        graph.wait_for(lambda: maps, "a map")
        graph.wait_for_line("a map could not be written to shared memory: ZeroDivisionError: division by zero")
        graph.wait_for(lambda: graph.values().get("shm.failed") == "1", "the count in /diagnostics")
    camera.publish(camera.frame())
    graph.wait_for(lambda: len(maps) == 2, "the next map")
    assert SharedMap.open("/saliency").read() is not None
    closed(node)


def test_a_reader_that_dies_changes_nothing(graph, camera, make_node, activate, program, closed):
    node = activate(make_node(shm=True))
    maps = graph.received(Image, "saliency")
    reader = subprocess.Popen([program, "/saliency"])
    time.sleep(0.05)
    reader.kill()
    reader.wait()
    camera.publish(camera.frame())
    graph.wait_for(lambda: maps, "a map")
    assert SharedMap.open("/saliency").read() is not None
    closed(node)

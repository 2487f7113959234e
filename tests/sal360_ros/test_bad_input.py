from __future__ import annotations

import array
import gc
import random
import re

import cv2
import numpy as np
import psutil
import pytest
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

pytestmark = pytest.mark.ros


def jpeg(height: int = 64, width: int = 128) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def changed(**fields):
    def change(message):
        for name, value in fields.items():
            setattr(message, name, value)

    return change


BAD_IMAGES = {
    "empty data": (changed(data=array.array("B")), "empty_data"),
    "data shorter than step x height": (changed(data=array.array("B", bytes(100))), "short_data"),
    "a step shorter than a row": (changed(step=191), "bad_step"),
    "no step": (changed(step=0), "bad_step"),
    "no rows": (changed(height=0), "zero_size"),
    "no columns": (changed(width=0), "zero_size"),
    "an unknown encoding": (changed(encoding="dual_fisheye"), "unknown_encoding"),
    "floating point": (changed(encoding="32FC1"), "unknown_encoding"),
    "a picture that is not 2:1": (changed(width=48), "not_2_to_1"),
    "sizes that overflow": (changed(height=2**32 - 1, width=2**31, step=2**32 - 1), "bad_step"),
    "odd columns of shared chroma": (changed(encoding="yuyv", width=63, step=126), "bad_size"),
}

BAD_COMPRESSED = {
    "no data": (b"", "empty_data"),
    "no picture": (b"this is text", "unknown_compression"),
    "a JPEG that was cut": (jpeg()[:-200], "corrupt_jpeg"),
    "a JPEG without its middle": (jpeg()[:30] + jpeg()[-400:], "corrupt_jpeg"),
    "a picture that is not 2:1": (jpeg(64, 64), "not_2_to_1"),
}


def rejections(node):
    """Numbers of rejected frames by reason."""
    return node._channels[0].statistics.snapshot().rejected


@pytest.fixture
def rejected(graph):
    """The count of one reason in the newest diagnostics."""
    return lambda reason: int(graph.values().get(f"rejected.{reason}", 0))


def test_each_malformed_image_is_named_in_one_line_and_counted_and_the_next_frame_is_answered(
    graph, camera, active_node, rejected
):
    maps = graph.received(Image, "saliency")
    expected: dict[str, int] = {}
    for count, (change, reason) in enumerate(BAD_IMAGES.values(), start=1):
        message = camera.frame()
        change(message)
        camera.publish(message)
        expected[reason] = expected.get(reason, 0) + 1
        graph.wait_for_line(f"frame rejected ({reason})")
        graph.wait_for(lambda: rejections(active_node) == expected, f"{expected} to be counted")
        camera.publish(camera.frame())
        graph.wait_for(lambda count=count: len(maps) == count, f"a map after {reason}")
    for reason, count in expected.items():
        graph.wait_for(lambda reason=reason, count=count: rejected(reason) == count, f"{count} x {reason}")
    lines = [line for line in graph.log if "frame rejected" in line]
    assert len(lines) == len(expected)  # repetitions within the period were suppressed
    assert all(re.search(r": .+; .+", line) and "\n" not in line for line in lines)  # the finding; the remedy


def test_each_malformed_compressed_image_is_named_and_counted(graph, compressed_camera, make_node, activate):
    node = activate(make_node(image_transport="compressed"))
    maps = graph.received(Image, "saliency")
    for count, (data, reason) in enumerate([*BAD_COMPRESSED.values()], start=1):
        message = CompressedImage(header=compressed_camera.header(), format="jpeg")
        message.data.frombytes(data)
        compressed_camera.publish(message)
        graph.wait_for(lambda count=count: sum(rejections(node).values()) == count, f"{reason} to be counted")
        graph.wait_for_line(f"frame rejected ({reason})")
        good = CompressedImage(header=compressed_camera.header(), format="jpeg")
        good.data.frombytes(jpeg())
        compressed_camera.publish(good)
        graph.wait_for(lambda count=count: len(maps) == count, f"a map after {reason}")
    graph.wait_for_line("the frame is 64 x 64;")  # its own size, not that of the reduced picture


def test_a_frame_above_max_pixels_is_rejected_until_max_pixels_is_raised(graph, camera, make_node, activate, rejected):
    node = activate(make_node(max_pixels=32 * 64 - 1))
    maps = graph.received(Image, "saliency")
    camera.stream_until(lambda: rejected("too_large"), "the rejection")
    assert not maps
    line = graph.wait_for_line("frame rejected (too_large): the image is 64 x 32 pixels")
    assert "raise max_pixels" in line
    assert graph.call(node.set_parameters, [Parameter("max_pixels", value=32 * 64)])[0].successful
    camera.stream_until(lambda: maps, "a map")


@pytest.mark.usefixtures("active_node")
def test_a_frame_a_few_per_cent_off_2_to_1_is_answered(graph, camera):
    maps = graph.received(Image, "saliency")
    camera.publish(camera.frame(322, 640))
    graph.wait_for(lambda: maps, "a map of 640 x 322")


def test_a_failing_model_costs_its_frame_only(graph, camera, active_node, monkeypatch):
    predict = active_node._model.predictor.predict
    failures = iter([MemoryError("no room"), None])

    def sometimes(*arguments):
        failure = next(failures, None)
        if failure is not None:
            raise failure
        return predict(*arguments)

    monkeypatch.setattr(active_node._model.predictor, "predict", sometimes)
    maps = graph.received(Image, "saliency")
    camera.publish(camera.frame())
    graph.wait_for_line("frame rejected (internal_error): MemoryError: no room")
    camera.publish(camera.frame())
    graph.wait_for(lambda: maps, "a map of the next frame")


def fuzzed(message, generator: random.Random):
    """A message with some of its fields made up."""
    sizes = [0, 1, 2, 31, 32, 64, 65, 640, 2**16, 2**31, 2**32 - 1]
    choices = {
        "height": sizes,
        "width": sizes,
        "step": [*sizes, 192, 193],
        "encoding": ["", "rgb8", "mono8", "bgra8", "yuyv", "nv12", "bayer_grbg8", "rgb16", "32FC1", "\x00", "ä" * 50],
        "is_bigendian": [0, 1, 255],
        "data": [array.array("B", generator.randbytes(generator.choice([0, 1, 100, 6144, 20000])))],
    }
    for name in generator.sample(sorted(choices), generator.randrange(1, 5)):
        setattr(message, name, generator.choice(choices[name]))
    message.header.stamp.sec = generator.randrange(-(2**31), 2**31)
    message.header.stamp.nanosec = generator.randrange(2**32)
    message.header.frame_id = generator.choice(["", "a", "☃" * 20, "x" * 1000])
    return message


@pytest.mark.parametrize("count", [400])
def test_random_malformed_messages_neither_stop_nor_grow_the_node(graph, camera, active_node, count):
    generator = random.Random(360)
    good = serialize_message(camera.frame())
    maps = graph.received(Image, "saliency")
    process = psutil.Process()
    baseline_mb = 0.0
    for index in range(count):
        received = active_node._channels[0].statistics.snapshot().received
        if index % 4 == 3:  # the bytes on the wire themselves
            raw = bytearray(good)
            for _ in range(generator.randrange(1, 8)):
                raw[generator.randrange(4, 80)] = generator.randrange(256)
            camera.publish(bytes(raw))
        else:
            camera.publish(fuzzed(camera.frame(), generator))
            graph.wait_for(
                lambda received=received: active_node._channels[0].statistics.snapshot().received > received,
                "the message to come",
            )
        if index == count // 2:
            gc.collect()
            baseline_mb = process.memory_info().rss / 2**20
    gc.collect()
    assert process.memory_info().rss / 2**20 < baseline_mb + 20
    before = len(maps)
    camera.stream_until(lambda: len(maps) > before + 3, "maps after the storm")
    snapshot = active_node._channels[0].statistics.snapshot()
    assert "internal_error" not in snapshot.rejected, graph.log
    assert len(snapshot.rejected) >= 6

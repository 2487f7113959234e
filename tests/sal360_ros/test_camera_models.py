"""Camera models, levelling and fused maps in the node: what the network sees, and the axes of what is published."""

from __future__ import annotations

import importlib.util
import math
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image, Imu, PointCloud2, RegionOfInterest
from std_msgs.msg import Header

from sal360.cameras import CameraSettings, EquirectangularCamera, open_camera
from sal360.cameras.levelling import UP, RunningLevel, UpEstimate
from sal360.cameras.lookup import Lookup
from sal360.density import normalised
from sal360.errors import ParameterError
from sal360.images import read_picture
from sal360.outputs.layout import SourceLayout
from sal360.outputs.shading_rate import ShadingRate
from sal360.outputs.targets import PeakSettings, find_peaks
from sal360.predictor import Predictor
from sal360.projection import rotate_erp
from sal360.samples import bundled_panoramas
from sal360.sphere import rotation_from_quaternion, solid_angles
from sal360_ros import level as level_module
from sal360_ros.channel import FusedOutputs
from sal360_ros.fusion import fused
from sal360_ros.level import LevelInput, TiltEstimator, rotation_to_upright
from sal360_ros.mount import parse_mount
from sal360_ros.parameters import CameraModel, SaliencyParameters
from sal360_ros.shared_maps import map_info
from sal360_ros.topics import Prediction, in_frame
from sal360_ros.view import CameraView, check_model

pytestmark = pytest.mark.ros

TILT = 0.24, 0.18, 0.0, 0.95  # quaternion x y z w about a level axis, 35°
QUATERNION = " ".join(map(str, TILT))
TO_UPRIGHT = rotation_from_quaternion(TILT[3], *TILT[:3])


@pytest.fixture
def through(tiny_model, array_of):
    """The map of a frame that is looked up for the network and whose map is turned back."""

    def density(message, camera, rotation=None):
        with Predictor(tiny_model, backend="onnxruntime", device="cpu", threads=1) as predictor:
            lookup = Lookup(camera, predictor.spec.input_height, predictor.spec.input_width, rotation)
            return lookup.to_camera(predictor.predict(lookup(array_of(message))))

    return density


def answer(graph, camera, message, topic="saliency"):
    maps = graph.received(Image, topic)
    camera.publish(message)
    graph.wait_for(lambda: maps, "a map")
    return maps[0]


def test_a_tilted_camera_is_levelled_by_its_mount(graph, camera, make_node, activate, through, density_of, array_of):
    activate(make_node(encoding="32FC1", mount=QUATERNION))
    frame = camera.frame(64, 128)
    found = array_of(answer(graph, camera, frame), np.float32)
    expected = through(frame, EquirectangularCamera(64, 128), TO_UPRIGHT)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(found - density_of(frame)).max() > 0.01  # the map of the frame as it is


@pytest.mark.parametrize("level", [True, False])
def test_a_tilted_camera_is_levelled_by_an_imu(
    graph, camera, make_node, activate, through, density_of, array_of, level
):
    node = activate(make_node(encoding="32FC1", orientation="imu", level=level))
    imu = graph.call(graph.node.create_publisher, Imu, "imu", 10)
    graph.wait_for(imu.get_subscription_count, "the node to subscribe")
    frame = camera.frame(64, 128)
    x, y, z, w = TILT
    imu.publish(Imu(header=frame.header, orientation=Quaternion(x=x, y=y, z=z, w=w)))
    stamp_ns = frame.header.stamp.sec * 1_000_000_000 + frame.header.stamp.nanosec
    graph.wait_for(lambda: node._channels[0]._inputs.orientation.rotation_at(stamp_ns) is not None, "the sample")
    found = array_of(answer(graph, camera, frame), np.float32)
    levelled = through(frame, EquirectangularCamera(64, 128), TO_UPRIGHT)
    np.testing.assert_allclose(found, levelled if level else density_of(frame), rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*tostring.*:DeprecationWarning")  # of cv_bridge
def test_frames_of_a_dual_fisheye_are_looked_up(graph, camera, make_node, activate, through, array_of):
    activate(make_node(encoding="32FC1", camera__model="dual_fisheye", camera__fov_deg=200.0))
    overlays = graph.received(Image, "saliency/overlay")
    frame = camera.frame(64, 128)
    found = array_of(answer(graph, camera, frame), np.float32)
    model = open_camera(CameraSettings(model="dual_fisheye", fov_deg=200.0), 64, 128)
    np.testing.assert_allclose(found, through(frame, model), rtol=1e-3, atol=1e-3)
    camera.stream_until(lambda: overlays, "an overlay on the equirectangular view", height=64, width=128)
    assert (overlays[0].height, overlays[0].width) == (64, 128)
    camera.publish(camera.frame(64, 65))
    graph.wait_for_line("frame rejected (camera_mismatch): the frame is 65 x 64")


@pytest.mark.filterwarnings("ignore:.*tostring.*:DeprecationWarning")  # of cv_bridge
def test_outputs_have_the_layout_of_the_camera_s_frames_if_asked_for(
    graph, camera, make_node, activate, through, array_of
):
    node = activate(
        make_node(
            encoding="32FC1", camera__model="dual_fisheye", saliency__layout="source", smoothing__time_constant_s=0.0,
            qp_offset__height_px=32, targets__min_score=1.0,
        )
    )  # fmt: skip
    frame = camera.frame(64, 128)
    model = open_camera(CameraSettings(model="dual_fisheye"), 64, 128)
    layout, density = SourceLayout(model), through(frame, model)
    found = array_of(answer(graph, camera, frame), np.float32)
    np.testing.assert_allclose(found, layout.map(density), rtol=1e-3, atol=1e-3)
    assert found[0, 0] == 0  # beside the circle
    rates, offsets = graph.received(Image, "saliency/shading_rate"), graph.received(Image, "saliency/qp_offset")
    overlays, targets = graph.received(Image, "saliency/overlay"), graph.received(PointCloud2, "saliency/targets")
    camera.stream_until(lambda: rates and offsets and overlays and targets, "all outputs", height=64, width=128)
    expected = ShadingRate(64, 128, layout=layout).update(density)
    np.testing.assert_array_equal(array_of(rates[0]), expected)
    assert (offsets[0].height, offsets[0].width) == (2, 4)
    assert (overlays[0].height, overlays[0].width) == (64, 128)
    best = find_peaks(density, PeakSettings(min_score=1.0)).directions[0]
    np.testing.assert_allclose(np.frombuffer(targets[0].data, np.float32)[:3], best, atol=1e-3)
    refused = graph.call(node.set_parameters, [Parameter("shading_rate.projection", value="cubemap")])[0]
    assert refused.reason.startswith("saliency.layout is 'source', and shading_rate.projection is 'cubemap'; ")
    assert graph.call(node.set_parameters, [Parameter("saliency.layout", value="equirectangular")])[0].successful
    maps = graph.received(Image, "saliency")

    def is_equirectangular():
        return maps and np.allclose(array_of(maps[-1], np.float32), density, rtol=1e-3, atol=1e-3)

    camera.stream_until(is_equirectangular, "the equirectangular map", height=64, width=128)


def test_the_layout_of_whole_equirectangular_frames_is_their_own(
    graph, camera, make_node, activate, array_of, density_of
):
    activate(make_node(encoding="32FC1", saliency__layout="source"))
    frame = camera.frame(64, 128)
    found = array_of(answer(graph, camera, frame), np.float32)
    np.testing.assert_allclose(found, density_of(frame), rtol=1e-3, atol=1e-3)


def test_the_tables_of_a_layout_are_kept_as_long_as_the_camera_is_the_same():
    view = CameraView(32, 64, lambda: None)
    model = CameraModel(model="cubemap")

    def layout_of(height, width):
        return view.see(np.zeros((height, width, 3), np.uint8), height, width, model, None).layout

    first = layout_of(64, 96)
    assert layout_of(64, 96) is first
    assert layout_of(32, 48).width_of(32) == 48


def test_the_tables_of_a_camera_outlive_an_activation(graph, camera, make_node, activate, monkeypatch):
    made = []

    def counted(*arguments):
        made.append(arguments)
        return Lookup(*arguments)

    monkeypatch.setattr("sal360_ros.view.Lookup", counted)
    node = activate(make_node(camera__model="cubemap"))
    maps = graph.received(Image, "saliency")

    def stream():
        count = len(maps)
        camera.stream_until(lambda: len(maps) > count, "a map", height=64, width=96)

    stream()
    for transition in (node.trigger_deactivate, node.trigger_activate):
        assert graph.call(transition).name == "SUCCESS"
    stream()
    assert len(made) == 1
    for transition in (node.trigger_deactivate, node.trigger_cleanup, node.trigger_configure, node.trigger_activate):
        assert graph.call(transition).name == "SUCCESS"
    stream()
    assert len(made) == 2  # its calibration file may have changed


def test_a_camera_info_describes_the_lens_of_its_frames(graph, camera, make_node, activate, array_of):
    activate(make_node(encoding="32FC1", camera__info="camera_info"))
    camera.publish(camera.frame(64, 64))
    graph.wait_for_line("frame rejected (camera_mismatch): no CameraInfo has arrived on camera_info yet")
    publisher = graph.call(graph.node.create_publisher, CameraInfo, "camera_info", 10)
    graph.wait_for(publisher.get_subscription_count, "the node to subscribe")
    k = [20.0, 0.0, 31.5, 0.0, 20.0, 31.5, 0.0, 0.0, 1.0]
    for refused, line in (
        (CameraInfo(height=64, width=64, distortion_model="plumb_bob", k=k, d=[0.0] * 5), "model 'plumb_bob'"),
        (CameraInfo(height=32, width=64, distortion_model="equidistant", k=k, d=[0.0] * 4), "outside the frame"),
        (CameraInfo(height=128, width=64, distortion_model="equidistant", k=k, d=[0.0] * 4), "is for 64 x 128"),
    ):
        publisher.publish(refused)
        camera.stream_until(lambda line=line: any(line in each for each in graph.log), line, height=64, width=64)
    maps = graph.received(Image, "saliency")
    fine = [40.0, 0.0, 73.5, 0.0, 40.0, 83.5, 0.0, 0.0, 1.0]  # the same lens, before a cut and binning
    roi = RegionOfInterest(x_offset=10, y_offset=20, height=128, width=128)
    info = CameraInfo(height=180, width=200, distortion_model="equidistant", k=fine, d=[0.0] * 4, roi=roi)
    info.binning_x = info.binning_y = 2
    publisher.publish(info)
    camera.stream_until(lambda: maps, "a map of a binned region", height=64, width=64)
    binned = array_of(maps[-1], np.float32)
    publisher.publish(CameraInfo(height=64, width=64, distortion_model="equidistant", k=k, d=[0.0] * 4))
    count = len(maps)
    camera.stream_until(lambda: len(maps) > count + 3, "maps of the same lens", height=64, width=64)
    density = array_of(maps[-1], np.float32)
    assert np.array_equal(density == 0, binned == 0)
    assert density[:, 0].max() == 0  # behind the camera
    assert density[:, density.shape[1] // 2].max() > 0


def test_two_cameras_of_a_rig_become_one_map(graph, make_camera, make_node, activate, density_of, array_of):
    """Both show the same scene, the second one from a camera that looks back; their frames' centres are to the left."""
    activate(
        make_node(
            cameras=["front", "rear"], batch_wait_s=1.0, encoding="32FC1", fuse=True,
            front__mount="0 0 0 1", rear__mount="0 0 1 0", fuse_frame_id="rig",
            yaw_offset_rad=math.pi / 2, frame_convention="optical", targets__min_score=1.0,
        )
    )  # fmt: skip
    front, rear = make_camera("front/image"), make_camera("rear/image")
    maps, targets = graph.received(Image, "saliency"), graph.received(PointCloud2, "saliency/targets")
    offsets = graph.received(Image, "saliency/qp_offset")
    frame = front.frame(64, 128)

    def moved(columns):
        """The same frame, whose columns are moved to the right."""
        other = front.frame(64, 128)
        other.data.frombytes(np.roll(array_of(frame), columns, axis=1).tobytes())
        del other.data[: 64 * 128 * 3]
        return other

    turned = moved(64)

    def both():
        front.publish(frame)
        rear.publish(turned)
        return len(maps) > 4 and len(targets) > 4 and offsets

    graph.wait_for(both, "fused maps")
    assert maps[-1].header.frame_id == "rig"
    expected = density_of(moved(-32))  # in the axes of the rig
    found = array_of(maps[-1], np.float32)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98
    peak = find_peaks(found, PeakSettings(min_score=1.0)).directions[0]
    np.testing.assert_allclose(np.frombuffer(targets[-1].data, np.float32)[:3], peak, atol=0.05)
    assert (offsets[-1].height, offsets[-1].width) == (4, 8)  # blocks of 16 for the frames' 64 rows
    graph.wait_for(lambda: "saliency.published" in graph.values(), "the counts of the fused map")


def test_no_cameras_offset_or_axes_turn_what_is_derived_from_a_fused_map():
    common = SaliencyParameters(yaw_offset_rad=1.0, frame_convention="optical", full_scale=4.0)
    parameters = FusedOutputs(None, lambda: common)._parameters()
    forward = np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(in_frame(forward, parameters), forward, atol=1e-12)
    info = map_info(Prediction(Header(), None, "bgr", 0, 0, None, np.eye(3), 0.0), parameters)
    assert (info.yaw_offset_rad, info.frame_axes, info.full_scale) == (0.0, "body", 4.0)
    np.testing.assert_array_equal(info.orientation, np.eye(3))


def test_a_fused_map_is_weighted_by_who_sees_a_direction():
    height, width = 16, 32
    front = np.zeros((height, width), np.float32)
    front[:, 8:24] = 1
    rear = np.zeros_like(front)
    rear[:, :10] = rear[:, 22:] = 1  # they overlap in four columns
    generator = np.random.default_rng(5)
    truth = normalised(generator.random((height, width), np.float32) + 0.1)
    np.testing.assert_allclose(fused([truth, truth], [front, rear]), truth, rtol=1e-5)
    other = fused([truth, 3 * truth], [front, 0.5 * rear])
    ratio = other / truth  # 1 in front, 3 behind, and in between the weighted mean
    np.testing.assert_allclose(ratio / ratio[0, 15], np.where(front > 0, np.where(rear > 0, 5 / 3, 1), 3), rtol=1e-4)
    blind = fused([truth], [front])
    assert blind[:, 0].max() == 0
    assert float(blind.sum(axis=1) @ solid_angles(height, width)[:, 0]) == pytest.approx(4 * math.pi, rel=1e-5)


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"camera__layout": "stacked"}, "layout is 'stacked'"),
        ({"camera__file": "/nowhere.yaml"}, "/nowhere.yaml"),
        ({"camera__info": "camera_info", "camera__model": "fisheye"}, "camera.info is 'camera_info', and camera.model"),
        ({"camera__info": "camera.info"}, "camera.info is 'camera.info', which is not the name of a topic"),
        (
            {"cameras": ["front", "rear"], "saliency__layout": "source", "rear__shading_rate__projection": "cubemap"},
            "rear: saliency.layout is 'source', and shading_rate.projection is 'cubemap'",
        ),
        ({"fuse": True}, "fuse is true"),
        ({"fuse": True, "cameras": ["front"], "mount": "0 0 0 1"}, "there are not several cameras"),
        (
            {"fuse": True, "cameras": ["front", "rear"], "front__mount": "0 0 0 1"},
            "rear: fuse is true, and mount is ''",
        ),
        (
            {"fuse": True, "cameras": ["front", "rear"], "front__mount": "0 0 0 1", "rear__mount": "estimate"},
            "rear: fuse is true, and mount is 'estimate'",
        ),
        ({"mount": "base_link"}, "mount is the tf2 frame 'base_link', and tf2_ros is not installed"),
    ],
)
def test_contradictory_parameters_refuse_the_transition_in_one_line(graph, make_node, monkeypatch, parameters, line):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2_ros" else find(name))
    node = make_node(**parameters)
    assert graph.call(node.trigger_configure).name == "FAILURE"
    assert graph.wait_for_line("cannot configure: ").count("\n") == 0
    assert any(line in each for each in graph.log), graph.log


def test_a_calibration_with_a_lens_outside_its_frame_is_refused_before_a_frame_comes(tmp_path):
    path = tmp_path / "lenses.yaml"
    path.write_text("width: 640\nheight: 320\nlenses: [{x: 700, y: 159, radius: 150, fov_deg: 190}]\n")
    with pytest.raises(ParameterError, match=r"lens 1 has its centre at \(700, 159\), outside the frame of 640 x 320"):
        check_model(CameraModel(file=str(path)))


@pytest.mark.parametrize("text", ["0 0 0", "0 0 0 0", "0 0 nan 1", "1 2 3 4 5", "the base", "base link 1", "2nd"])
def test_a_mount_that_is_none_of_its_forms_is_refused(text):
    with pytest.raises(ParameterError, match="mount is"):
        parse_mount(text)


def test_a_mount_is_nothing_a_frame_or_a_quaternion():
    assert parse_mount(" ").is_none
    assert parse_mount("estimate").is_estimated
    assert parse_mount("/arm/tool0").frame == "/arm/tool0"
    np.testing.assert_allclose(parse_mount("0, 0, 2, 0").rotation, np.diag([-1, -1, 1]), atol=1e-12)


def test_a_mount_can_be_a_frame_of_tf2(monkeypatch):
    """An optical frame that looks ahead, on a robot that is level: the image's body axes are those of the robot."""
    found, lines = {}, []

    class Buffer:
        def lookup_transform(self, target, source, _):
            return SimpleNamespace(transform=SimpleNamespace(rotation=found[target, source]))

    module = ModuleType("tf2_ros")
    module.__spec__ = ModuleSpec("tf2_ros", None)
    module.Buffer = Buffer
    module.TransformListener = lambda *_, **__: SimpleNamespace(unregister=lambda: found.clear())
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    node = SimpleNamespace(get_logger=lambda: SimpleNamespace(warning=lines.append))
    level = LevelInput(node, "front: ", parse_mount("base_link"), None)
    parameters = SaliencyParameters(frame_convention="optical", mount="base_link")
    assert level.at(0, "lens", parameters) is None
    assert "front: not levelled, because tf2 has no rotation yet" in lines[0]
    found["base_link", "lens"] = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
    known = level.at(0, "lens", parameters)
    np.testing.assert_allclose(known.mounted, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(known.up, (0, 0, 1), atol=1e-12)
    assert rotation_to_upright(known.up) is None
    level.destroy()
    assert not found


@pytest.mark.parametrize("up", [(0.3, -0.4, 0.8), (0, 0, -1), (1, 0, 0)])
def test_levelling_turns_up_to_the_top_by_the_shortest_way(up):
    up = np.array(up) / np.linalg.norm(up)
    rotation = rotation_to_upright(up)
    np.testing.assert_allclose(rotation @ up, (0, 0, 1), atol=1e-12)
    angle_rad = math.acos((np.trace(rotation) - 1) / 2)
    assert angle_rad == pytest.approx(math.acos(up[2]), abs=1e-6)


def test_small_changes_of_tilt_keep_the_lookup_tables():
    level = LevelInput(SimpleNamespace(get_logger=lambda: SimpleNamespace(warning=print)), "", parse_mount(""), None)

    def tilted(degrees):
        return np.array([math.sin(math.radians(degrees)), 0.0, math.cos(math.radians(degrees))])

    first = level.settled(tilted(10))
    assert level.settled(tilted(10.9)) is first
    np.testing.assert_array_equal(level.settled(tilted(11.2)), tilted(11.2))


class Clock:
    """A clock that a test moves on."""

    now_s = 0.0

    def __call__(self):
        return self.now_s


def test_an_estimated_tilt_is_used_once_enough_pictures_agree():
    picture = read_picture(bundled_panoramas() / "interior.jpg")
    tilted = rotate_erp(picture, TO_UPRIGHT.T)
    clock, lines, warnings = Clock(), [], []
    estimator = TiltEstimator(lines.append, warnings.append, clock)
    for count in range(RunningLevel.LEAST):
        assert estimator.up is None
        # a levelled picture says the same about the camera's axes
        seen, rotation = (tilted, None) if count % 2 else (picture, TO_UPRIGHT)
        estimator.offer(seen if count % 3 else seen[..., ::-1], "bgr" if count % 3 else "rgb", rotation)
        estimator.wait()
        clock.now_s += TiltEstimator.PERIOD_S
    assert warnings == []
    assert estimator.up @ TO_UPRIGHT.T @ (0, 0, 1) > math.cos(math.radians(3))
    assert len(lines) == 1
    assert lines[0].startswith("tilt estimated: roll ")
    estimator.close()


def test_pictures_for_the_estimate_are_taken_only_now_and_then(monkeypatch):
    seen = []
    monkeypatch.setattr(level_module, "estimate_up", lambda picture: seen.append(picture) or UpEstimate(UP, 0.9))
    clock = Clock()
    estimator = TiltEstimator(print, print, clock)
    frame = np.zeros((64, 128, 3), np.uint8)
    for now_s in (0.0, 0.1, TiltEstimator.PERIOD_S - 0.1, TiltEstimator.PERIOD_S):
        clock.now_s = now_s
        estimator.offer(frame, "bgr", None)
        estimator.wait()
    assert len(seen) == 2
    estimator.close()


def test_a_picture_without_an_estimate_is_warned_of_and_the_next_counts(monkeypatch):
    def fail(_):
        raise MemoryError

    warnings = []
    monkeypatch.setattr(level_module, "estimate_up", fail)
    estimator = TiltEstimator(print, warnings.append, Clock())
    estimator.offer(np.zeros((64, 128, 3), np.uint8), "bgr", None)
    estimator.wait()
    assert "the camera's tilt could not be estimated from a picture" in warnings[0]
    estimator.close()


def test_a_camera_is_levelled_by_its_estimated_mount(monkeypatch):
    monkeypatch.setattr(level_module, "estimate_up", lambda _: UpEstimate(TO_UPRIGHT[2], 0.9))
    monkeypatch.setattr(TiltEstimator, "PERIOD_S", 0.0)
    logger = SimpleNamespace(warning=print, info=print)
    level = LevelInput(SimpleNamespace(get_logger=lambda: logger), "", parse_mount("estimate"), None)
    parameters = SaliencyParameters(mount="estimate")
    assert level.is_used
    for _ in range(RunningLevel.LEAST):
        assert level.at(0, "camera", parameters) is None
        level.offer(np.zeros((64, 128, 3), np.uint8), "bgr", None)
        level._estimator.wait()
    np.testing.assert_allclose(level.at(0, "camera", parameters).up, TO_UPRIGHT[2], atol=1e-12)
    level.destroy()


def test_a_node_that_estimates_its_mount_answers_and_shuts_down(
    graph, camera, make_node, activate, density_of, array_of
):
    activate(make_node(encoding="32FC1", mount="estimate"))
    frame = camera.frame(64, 128)
    np.testing.assert_allclose(
        array_of(answer(graph, camera, frame), np.float32), density_of(frame), rtol=1e-3, atol=1e-3
    )

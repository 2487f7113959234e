from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sal360.density import as_density
from sal360.errors import DataError
from sal360.replay import recorded_gaze
from sal360.replay.recorded_gaze import RecordedGaze, read_entries
from sal360.replay.recording import BagRecording
from sal360.sources.bag import Bag, BagMessage
from sal360.sphere import body_to_frame, erp_directions, solid_angles


@pytest.fixture
def recording(mcap_bag: Any, turning_scene: Any, tmp_path: Path) -> Any:
    """The turning scene in a bag with every kind of ground-truth topic."""
    points, vectors, views = [], [], []
    for stamp, fixations in zip(turning_scene.stamps_ns, turning_scene.fixations, strict=True):
        # gaze at 60 Hz: three samples around each frame, in metres and not of length 1
        for offset_ns, (x, y, z) in zip((-16_000_000, 0, 16_000_000), 3 * fixations.astype(float), strict=False):
            header = mcap_bag.header(stamp + offset_ns)
            point = mcap_bag.new("geometry_msgs/msg/Point", x=x, y=y, z=z)
            vector = mcap_bag.new("geometry_msgs/msg/Vector3", x=x, y=y, z=z)
            # the shortest turn of the x axis to the direction, not of length 1
            turn = mcap_bag.new("geometry_msgs/msg/Quaternion", x=0.0, y=-z, z=y, w=x + math.hypot(x, y, z))
            points.append((stamp, mcap_bag.new("geometry_msgs/msg/PointStamped", header=header, point=point)))
            views.append((stamp, mcap_bag.new("geometry_msgs/msg/QuaternionStamped", header=header, quaternion=turn)))
            vectors.append((stamp, mcap_bag.new("geometry_msgs/msg/Vector3Stamped", header=header, vector=vector)))
    topics = {
        "/camera": turning_scene.image_messages(mcap_bag),
        "/map": turning_scene.map_messages(mcap_bag),
        "/map8": turning_scene.map_messages(mcap_bag, "mono8"),
        "/cloud": turning_scene.cloud_messages(mcap_bag),
        "/point": points,
        "/vector": vectors,
        "/viewer/view": views,
    }
    with Bag(mcap_bag.write(tmp_path / "run", topics)) as bag:
        yield BagRecording(bag, "/camera")


def test_maps_become_densities(recording: Any, turning_scene: Any) -> None:
    exact, coarse = RecordedGaze(recording, ["/map"]), RecordedGaze(recording, ["/map8"])
    for index, values in enumerate(turning_scene.maps):
        density = exact.at(index).density
        assert (density * solid_angles(20, 40)).sum() == pytest.approx(4 * np.pi, rel=1e-5)
        np.testing.assert_allclose(density / density.max(), values / values.max(), rtol=1e-5)
        np.testing.assert_allclose(coarse.at(index).density, density, atol=density.max() / 200)


def test_clouds_become_fixations_with_their_observers_and_density(recording: Any, turning_scene: Any) -> None:
    gaze = RecordedGaze(recording, ["/cloud"])
    for index, expected in enumerate(turning_scene.fixations):
        record = gaze.at(index)
        np.testing.assert_allclose(record.fixations, expected, atol=1e-6)
        np.testing.assert_array_equal(record.observer, turning_scene.OBSERVERS)
        # the density is that of von Mises-Fisher kernels, by definition
        cosine = erp_directions(256, 512) @ expected.T.astype(float)
        mass = np.exp((cosine - 1) / np.deg2rad(3.34) ** 2).sum(axis=-1)
        mean = (mass * solid_angles(256, 512)).sum() / (4 * np.pi)
        np.testing.assert_allclose(record.density, mass / mean, rtol=1e-4, atol=1e-4)


def test_a_map_is_not_replaced_by_the_density_of_fixations(recording: Any, turning_scene: Any) -> None:
    record = RecordedGaze(recording, ["/map", "/cloud"]).at(1)
    np.testing.assert_allclose(record.density, as_density(turning_scene.maps[1], "expected"), rtol=1e-6)
    assert len(record.fixations) == 5


def test_a_frame_without_fixations_or_map_has_no_density(recording: Any, turning_scene: Any, tmp_path: Path) -> None:
    (tmp_path / f"{turning_scene.stamps_ns[0]}.csv").write_text("x,y,z\n")
    record = RecordedGaze(recording, [str(tmp_path)]).at(0)
    assert len(record.fixations) == 0
    assert record.density is None


@pytest.mark.parametrize("topic", ["/point", "/vector", "/viewer/view"])
def test_gaze_samples_belong_to_the_nearest_frame_and_are_directions(
    recording: Any, turning_scene: Any, topic: str
) -> None:
    gaze = RecordedGaze(recording, [topic])
    for index, expected in enumerate(turning_scene.fixations):
        np.testing.assert_allclose(gaze.at(index).fixations, expected[:3], atol=1e-6)


def test_the_views_of_a_frame_have_a_mean_direction_in_body_axes(recording: Any, turning_scene: Any) -> None:
    gaze = RecordedGaze(recording, ["/viewer/view", "/map"], convention="openxr")
    for index, fixations in enumerate(turning_scene.fixations):
        mean = fixations[:3].astype(float).mean(axis=0)
        np.testing.assert_allclose(gaze.view_at(index), mean / np.linalg.norm(mean), atol=1e-6)
        np.testing.assert_allclose(gaze.at(index).fixations, fixations[:3], atol=1e-6)
    assert RecordedGaze(recording, ["/point"]).view_at(0) is None


def test_a_view_without_an_orientation_is_lost(mcap_bag: Any, turning_scene: Any, tmp_path: Path) -> None:
    views = []
    for stamp, w in zip(turning_scene.stamps_ns, (0.0, 1.0), strict=False):
        quaternion = mcap_bag.new("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=w)
        header = mcap_bag.header(stamp)
        views.append((stamp, mcap_bag.new("geometry_msgs/msg/QuaternionStamped", header=header, quaternion=quaternion)))
    topics = {"/camera": turning_scene.image_messages(mcap_bag), "/viewer/view": views}
    with Bag(mcap_bag.write(tmp_path / "run", topics)) as bag:
        gaze = RecordedGaze(BagRecording(bag, "/camera"), ["/viewer/view"])
    assert gaze.lost == 1
    assert gaze.frames == [1]
    np.testing.assert_allclose(gaze.view_at(1), (1, 0, 0))


def test_entries_far_from_every_frame_belong_to_none(recording: Any) -> None:
    gaze = RecordedGaze(recording, ["/point"], tolerance_s=0.01)
    assert gaze.unmatched == 12
    assert all(len(gaze.at(index).fixations) == 1 for index in range(6))
    assert RecordedGaze(recording, ["/point"]).unmatched == 0


@pytest.mark.parametrize("convention", ["body", "optical", "openxr"])
def test_fixations_in_other_axes_are_turned(
    recording: Any, turning_scene: Any, convention: str, tmp_path: Path
) -> None:
    folder = tmp_path / "gaze"
    folder.mkdir()
    vectors = body_to_frame(turning_scene.fixations[2].astype(float), convention)
    lines = [f"{x},{y},{z},{observer}" for (x, y, z), observer in zip(vectors, (7, 8, 9, 7, 8), strict=True)]
    (folder / f"{turning_scene.stamps_ns[2]}.csv").write_text("\n".join(["x,y,z,observer", *lines]))
    record = RecordedGaze(recording, [str(folder)], convention=convention).at(2)
    np.testing.assert_allclose(record.fixations, turning_scene.fixations[2], atol=1e-6)
    assert record.observer.tolist() == [7, 8, 9, 7, 8]


def test_a_folder_of_maps_is_matched_by_the_stamps_in_its_names(
    recording: Any, turning_scene: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "gaze"
    folder.mkdir()
    first, second, third = turning_scene.stamps_ns[:3]
    np.save(folder / f"{first}.npy", turning_scene.maps[0])
    np.save(folder / f"{second / 1e9:.3f}.npy", turning_scene.maps[1])
    scaled = turning_scene.maps[2] / turning_scene.maps[2].max()
    cv2.imwrite(str(folder / f"{third}.png"), np.round(65535 * scaled).astype(np.uint16))
    gaze = RecordedGaze(recording, [str(folder)])
    for index in range(3):
        expected = as_density(turning_scene.maps[index], "expected")
        np.testing.assert_allclose(gaze.at(index).density, expected, atol=1e-3)
    assert gaze.at(3) is None


def test_of_several_maps_the_nearest_in_time_is_taken(recording: Any, turning_scene: Any, tmp_path: Path) -> None:
    folder = tmp_path / "gaze"
    folder.mkdir()
    stamp = turning_scene.stamps_ns[0]
    np.save(folder / f"{stamp - 20_000_000}.npy", turning_scene.maps[3])
    np.save(folder / f"{stamp + 1_000_000}.npy", turning_scene.maps[0])
    np.save(folder / f"{stamp + 30_000_000}.npy", turning_scene.maps[4])
    density = RecordedGaze(recording, [str(folder)]).at(0).density
    np.testing.assert_allclose(density, as_density(turning_scene.maps[0], "expected"), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("notes.txt", b"", "has no ground truth"),
        ("first.csv", b"x,y,z\n1,0,0", r"the name of .*first\.csv is not a stamp"),
        ("nan.csv", b"x,y,z\n1,0,0", r"the name of .*nan\.csv is not a stamp"),
        ("1e999999.csv", b"x,y,z\n1,0,0", r"the name of .*1e999999\.csv is not a stamp"),
        ("1700000000.csv", b"", r"line 1 of .*1700000000\.csv is not a row .*the file is empty"),
        ("1700000000.csv", b"# of the first run\n\n", r"line 1 of .*1700000000\.csv is not a row .*the file is empty"),
        ("1700000000.csv", b"x,y,z,x\n1,0,0,-1", r"line 1 of .*the column x occurs twice"),
        ("1700000000.csv", b"x,y,z,observer\n1,0,0,1e300", r"line 2 of .*the observer is 1e300"),
        ("1700000000.csv", b"x,y,z,observer\n1,0,0,9007199254740993", r"line 2 of .*the observer is 9007199254740993"),
        ("1700000000.csv", b"x,y\n1,0", r"line 1 of .*1700000000\.csv is not a row .*its columns are x, y"),
        ("1700000000.csv", b"x,y,z\n1,0,0\n1,0,up", r"line 3 of .*1700000000\.csv is not a row .*'up' is not a number"),
        ("1700000000.csv", b"x,y,z\n1,0", r"line 2 of .* has 2 cells, and the first line 3"),
        ("1700000000.csv", b"x,y,z\n0,5,0,1,0,0", r"line 2 of .* has 6 cells"),
        ("1700000000.csv", b"x,y,z,observer\n1,0,0,anna", r"line 2 of .*'anna' is not a number"),
        ("1700000000.csv", b"x,y,z\n1,0,\xff", r"line 2 of .* is not UTF-8"),
        ("1700000000.csv", b"x,y,z\n0,0,0\n1,nan,0\n,,", r"has no gaze \(3 samples are lost\)"),
        ("1700000000.npy", b"no array", r"cannot be read"),
        ("1700000000.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4' \n\n", r"1700000000\.npy cannot be read"),
        ("1700000000.png", b"no picture", r"1700000000\.png"),
        ("12.5.csv", b"x,y,z\n1,0,0", r"none of the 1 entries of .* is within 0.05 s of a frame"),
    ],
)
def test_a_malformed_folder_gives_one_clear_error(
    recording: Any, tmp_path: Path, name: str, content: bytes, line: str
) -> None:
    folder = tmp_path / "gaze"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=line) as caught:
        RecordedGaze(recording, [str(folder)]).at(0)
    assert "\n" not in str(caught.value)


SIGNALLING_NAN = np.full((4, 8), 0x7F800001, np.uint32).view(np.float32)


@pytest.mark.parametrize(
    "values",
    [
        -np.ones((4, 8)),
        np.full((4, 8), np.nan),
        np.full((4, 8), 1e300),
        np.full((4, 8), [np.inf, -np.inf] * 4),
        SIGNALLING_NAN,
    ],
    ids=["negative", "NaN", "too large", "infinite", "signalling NaN"],
)
def test_a_map_that_is_not_a_density_is_refused(
    recording: Any, turning_scene: Any, tmp_path: Path, values: Any
) -> None:
    folder = tmp_path / "gaze"
    folder.mkdir()
    np.save(folder / f"{turning_scene.stamps_ns[0]}.npy", values)
    with pytest.raises(DataError, match=r"the map .*\.npy has values that are negative or not finite"):
        RecordedGaze(recording, [str(folder)]).at(0)


def test_a_map_of_zeros_is_lost_and_the_next_one_is_taken(recording: Any, turning_scene: Any, tmp_path: Path) -> None:
    folder = tmp_path / "gaze"
    folder.mkdir()
    stamp = turning_scene.stamps_ns[0]
    np.save(folder / f"{stamp}.npy", np.zeros((4, 8)))
    gaze = RecordedGaze(recording, [str(folder)])
    assert gaze.at(0) is None
    assert gaze.lost == 1
    np.save(folder / f"{stamp + 1000}.npy", turning_scene.maps[0])
    density = RecordedGaze(recording, [str(folder)]).at(0).density
    np.testing.assert_allclose(density, as_density(turning_scene.maps[0], "expected"), rtol=1e-6)


def test_samples_that_a_tracker_lost_are_left_out_and_counted(
    mcap_bag: Any, turning_scene: Any, tmp_path: Path
) -> None:
    points = []
    for index, (x, y, z) in enumerate([(1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (np.nan, 0.0, 0.0), (0.0, 1.0, 0.0)]):
        stamp = turning_scene.stamps_ns[0] + index
        point = mcap_bag.new("geometry_msgs/msg/Point", x=x, y=y, z=z)
        points.append(
            (stamp, mcap_bag.new("geometry_msgs/msg/PointStamped", header=mcap_bag.header(stamp), point=point))
        )
    (when, cloud) = turning_scene.cloud_messages(mcap_bag)[1]
    cloud.data[4:8] = cloud.data[:4] = np.full(1, np.nan, np.float32).view(np.uint8)
    topics = {
        "/camera": ("sensor_msgs/msg/Image", turning_scene.image_messages(mcap_bag)),
        "/point": ("geometry_msgs/msg/PointStamped", [*points, (points[-1][0] + 1, b"\0\1\0\0no")]),
        "/cloud": ("sensor_msgs/msg/PointCloud2", [(when, cloud)]),
    }
    with Bag(mcap_bag.write_typed(tmp_path / "run", topics)) as bag:
        gaze = RecordedGaze(BagRecording(bag, "/camera"), ["/point", "/cloud"])
        np.testing.assert_array_equal(gaze.at(0).fixations, [(1, 0, 0), (0, 1, 0)])
        np.testing.assert_allclose(gaze.at(1).fixations, turning_scene.fixations[1][1:], atol=1e-6)
        assert gaze.at(1).observer.tolist() == turning_scene.OBSERVERS[1:].tolist()
    assert gaze.lost == 4


@pytest.mark.parametrize(
    "content",
    [
        "x,y,z,observer\n1,0,0.5,7\n0,1,0,8\n",
        "\ufeffX,Y,Z,Observer\r\n1,0,0.5,7\r\n0,1,0,8\r\n",
        "x;y;z;observer\n1;0;0,5;7\n0;1;0;8\n",
        "x\ty\tz\tobserver\n1\t0\t0,5\t7\n0\t1\t0\t8",
        "1,0,0.5,7\n0,1,0,8\n",
        "1,0;0,0;0,5;7\n0,0;1,0;0,0;8\n",
        "# of the first run\n\n1 0 0.5 7\n0 1 0 8\n",
        "# of the first run\n# observer z y x\n7 0.5 0 1\n8 0 1 0\n",
        "sep=;\nx;y;z;observer\n1;0;0,5;7\n0;1;0;8\n",
        '"observer","z","y","x","time"\n"7","0.5","0","1","3"\n8,0,1,0,4\n',
        "x,y,z,observer,\n1,0,0.5,7,\n0,1,0,8,\n",
    ],
    ids=[
        "plain",
        "bom and capitals",
        "semicolons",
        "tabs",
        "no header",
        "decimal commas",
        "spaces",
        "savetxt",
        "Excel",
        "quotes",
        "ends",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_are_read_as_spreadsheets_of_all_countries_write_them(
    recording: Any, turning_scene: Any, tmp_path: Path, content: str, encoding: str
) -> None:
    folder = tmp_path / "gaze"
    folder.mkdir()
    (folder / f"{turning_scene.stamps_ns[2]}.CSV").write_bytes(content.encode(encoding))
    (folder / f"._{turning_scene.stamps_ns[2]}.CSV").write_bytes(b"twin")
    record = RecordedGaze(recording, [str(folder)]).at(2)
    np.testing.assert_allclose(record.fixations, [(0.8944272, 0, 0.4472136), (0, 1, 0)], atol=1e-6)
    assert record.observer.tolist() == [7, 8]


@pytest.mark.parametrize("suffix", [".tsv", ".txt", ".TXT"])
def test_tables_of_other_names_are_read_and_notes_are_not(
    recording: Any, turning_scene: Any, tmp_path: Path, suffix: str
) -> None:
    (tmp_path / f"{turning_scene.stamps_ns[2]}{suffix}").write_text("x\ty\tz\n0\t1\t0\n")
    (tmp_path / "notes.txt").write_text("of the first run")
    np.testing.assert_array_equal(RecordedGaze(recording, [str(tmp_path)]).at(2).fixations, [(0, 1, 0)])


def test_stamps_in_names_are_exact(recording: Any, tmp_path: Path) -> None:
    folder = tmp_path / "gaze"
    folder.mkdir()
    for name in ("1700000000.000000123", "1700000000000000321"):
        (folder / f"{name}.csv").write_text("x,y,z\n1,0,0\n")
    entries = list(read_entries(str(folder), recording))
    assert sorted(entry.stamp_ns for entry in entries) == [1_700_000_000_000_000_123, 1_700_000_000_000_000_321]


def test_maps_are_read_when_they_are_needed_and_not_kept(
    any_bag: Any, turning_scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = {"/camera": turning_scene.image_messages(any_bag), "/map": turning_scene.map_messages(any_bag)}
    decoded: list[str] = []
    original = recorded_gaze.read_map
    monkeypatch.setattr(recorded_gaze, "read_map", lambda message: decoded.append("map") or original(message))
    with Bag(any_bag.write(tmp_path / "run.bag", topics)) as bag:
        gaze = RecordedGaze(BagRecording(bag, "/camera"), ["/map"])
        assert not decoded
        kept = [each for each in gc.get_objects() if type(each) is BagMessage and each.topic == "/map"]
        assert len(kept) <= 1
        for index in (0, 1, 5, 2, 2):
            expected = as_density(turning_scene.maps[index], "expected")
            np.testing.assert_allclose(gaze.at(index).density, expected, rtol=1e-6)
    assert len(decoded) == 5


def test_a_malformed_map_is_named_with_its_topic(mcap_bag: Any, turning_scene: Any, tmp_path: Path) -> None:
    stamp = turning_scene.stamps_ns[0]
    colour = mcap_bag.image(stamp, turning_scene.frames[0], "bgr8")
    topics = {"/camera": turning_scene.image_messages(mcap_bag), "/map": [(stamp, colour)]}
    with Bag(mcap_bag.write(tmp_path / "run", topics)) as bag:
        gaze = RecordedGaze(BagRecording(bag, "/camera"), ["/map"])
        with pytest.raises(DataError, match=f"bgr8.*at {stamp} ns on /map"):
            gaze.at(0)


def test_a_topic_of_another_type_is_refused(mcap_bag: Any, turning_scene: Any, tmp_path: Path) -> None:
    topics = {
        "/camera": ("sensor_msgs/msg/Image", turning_scene.image_messages(mcap_bag)),
        "/imu": ("sensor_msgs/msg/Imu", [(1, b"\0\1\0\0")]),
    }
    with Bag(mcap_bag.write_typed(tmp_path / "run", topics)) as bag, pytest.raises(DataError, match="carries sensor_m"):
        RecordedGaze(BagRecording(bag, "/camera"), ["/imu"])


@pytest.mark.parametrize(
    "changes",
    [{"point_step": 4}, {"width": 1000}, {"fields": []}, {"row_step": 7}, {"datatype": 99}],
    ids=lambda change: next(iter(change)),
)
def test_a_malformed_cloud_gives_one_clear_error(
    mcap_bag: Any, turning_scene: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    (when, cloud), *_ = turning_scene.cloud_messages(mcap_bag)
    for name, value in changes.items():
        object.__setattr__(cloud.fields[0] if name == "datatype" else cloud, name, value)
    topics = {"/camera": turning_scene.image_messages(mcap_bag), "/cloud": [(when, cloud)]}
    with (
        Bag(mcap_bag.write(tmp_path / "run", topics)) as bag,
        pytest.raises(DataError, match="a point cloud at 1700000000000000000 ns on /cloud"),
    ):
        RecordedGaze(BagRecording(bag, "/camera"), ["/cloud"])

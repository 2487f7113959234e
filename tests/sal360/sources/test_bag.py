from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sal360.errors import DataError, FrameError
from sal360.sources import Frame, open_source
from sal360.sources.bag import Bag, BagMessage

SECOND = 10**9
START = 1_700_000_000 * SECOND


def picture(index: int) -> np.ndarray:
    """A flat colour that says which frame it is, (32, 64, 3)."""
    return np.full((32, 64, 3), (10 * index, 100, 200 - 10 * index), np.uint8)


def collect(path: Path, **options: Any) -> tuple[list[Frame], str]:
    """All frames of a source, and the error that ended it."""
    frames: list[Frame] = []
    try:
        frames.extend(open_source(path, **options))
    except DataError as error:
        return frames, str(error)
    return frames, ""


def test_raw_and_compressed_images_of_every_kind_of_bag_come_in_order_with_their_stamps(
    any_bag: Any, tmp_path: Path
) -> None:
    # recorded later than stamped, as it always is
    entries = [(START + i * SECOND + 7, START + i * SECOND) for i in range(5)]
    path = any_bag.write(
        tmp_path / "run.bag",
        {
            "/camera/raw": [
                (when, any_bag.image(stamp, picture(i), "rgb8")) for i, (when, stamp) in enumerate(entries)
            ],
            "/camera/jpeg": [(when, any_bag.compressed(stamp, picture(i))) for i, (when, stamp) in enumerate(entries)],
        },
    )
    for topic, channels in (("/camera/raw", "rgb"), ("/camera/jpeg", "bgr")):
        frames = list(open_source(path, topic=topic))
        assert [frame.stamp_s for frame in frames] == [1_700_000_000 + i for i in range(5)]
        assert {frame.channels for frame in frames} == {channels}
        assert len({frame.name for frame in frames}) == 5
        for index, frame in enumerate(frames):
            assert np.abs(frame.image.astype(int) - picture(index)).max() <= 6


def test_a_message_without_a_stamp_is_stamped_when_it_was_recorded(mcap_bag: Any, tmp_path: Path) -> None:
    path = mcap_bag.write(tmp_path / "run", {"/c": [(START + 5 * SECOND, mcap_bag.image(0, picture(1), "rgb8"))]})
    assert [frame.stamp_s for frame in open_source(path)] == [1_700_000_005]


def test_the_only_image_topic_is_taken_and_unknown_messages_beside_it_do_not_matter(
    sqlite_bag: Any, tmp_path: Path
) -> None:
    from rosbags.rosbag2 import Writer

    path = tmp_path / "run"
    with Writer(path, version=9) as bag:
        images = bag.add_connection("/c", "sensor_msgs/msg/Image", typestore=sqlite_bag.store)
        arms = bag.add_connection("/arm", "acme_msgs/msg/Arm", msgdef="uint8[<=x] broken", rihs01="RIHS01_0")
        bag.write(arms, START, b"\0\1\0\0anything")
        message = sqlite_bag.image(START, picture(3), "bgr8")
        bag.write(images, START, bytes(sqlite_bag.store.serialize_cdr(message, message.__msgtype__)))
    assert len(list(open_source(path))) == 1
    with pytest.raises(DataError, match=r"/arm carries acme_msgs/msg/Arm; expected sensor_msgs"):
        open_source(path, topic="/arm")


@pytest.mark.parametrize(
    ("topic", "line"),
    [
        ("", r"2 image topics; choose the topic /a or /b"),
        ("/nothing", r"no topic /nothing; expected one of its topics: /a .*, /b .*, /imu .*, /quiet"),
        ("/imu", r"/imu carries sensor_msgs/msg/Imu; expected sensor_msgs/msg/Image"),
        ("/quiet", r"has no messages on /quiet"),
    ],
)
def test_a_topic_that_cannot_be_taken_is_one_clear_line(any_bag: Any, tmp_path: Path, topic: str, line: str) -> None:
    message = any_bag.image(START, picture(0), "rgb8")
    path = any_bag.write_typed(
        tmp_path / "run.bag",
        {
            "/a": ("sensor_msgs/msg/Image", [(START, message)]),
            "/b": ("sensor_msgs/msg/Image", [(START, message)]),
            "/imu": ("sensor_msgs/msg/Imu", [(START, b"\0\1\0\0")]),
            "/quiet": ("sensor_msgs/msg/Image", []),
        },
    )
    with pytest.raises(DataError, match=line) as caught:
        open_source(path, topic=topic)
    assert "\n" not in str(caught.value)


def test_an_empty_bag_is_named_as_such(any_bag: Any, tmp_path: Path) -> None:
    path = any_bag.write_typed(tmp_path / "run.bag", {"/a": ("sensor_msgs/msg/Image", [])})
    with pytest.raises(DataError, match="has no messages"):
        open_source(path)


@pytest.mark.parametrize("suffix", [".bag", ".mcap", ".db3"])
@pytest.mark.parametrize("content", [b"", b"neither this nor that" * 100])
def test_a_file_that_is_no_bag_is_one_clear_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"run{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read .*\); .*copy the recording again") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("any_bag", ["sqlite3", "mcap"], indirect=True)
def test_a_bag_without_metadata_is_read_from_its_storage_files(any_bag: Any, tmp_path: Path) -> None:
    message = any_bag.image(START, picture(2), "rgb8")
    path = any_bag.write(tmp_path / "run", {"/a": [(START + i, message) for i in range(4)]})
    (path / "metadata.yaml").unlink()
    (storage,) = path.iterdir()
    assert len(list(open_source(path))) == 4
    assert len(list(open_source(storage))) == 4


def test_a_folder_with_nothing_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures"):
        open_source(tmp_path)
    (tmp_path / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: 9}")
    with pytest.raises(DataError, match="cannot be read"):
        open_source(tmp_path)


def written_in_chunks(writer: Any, folder: Path) -> Path:
    """A bag of 40 frames, large enough for several MCAP chunks."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 256, 3), np.uint8)
    message = writer.image(START, noise, "rgb8")
    return writer.write(folder, {"/a": [(START + i * SECOND, message) for i in range(40)]})


@pytest.mark.parametrize("metadata", [True, False])
def test_a_truncated_mcap_is_read_up_to_the_cut_and_then_said_to_be_cut(
    mcap_bag: Any, tmp_path: Path, metadata: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = written_in_chunks(mcap_bag, tmp_path / "run")
    (storage,) = path.glob("*.mcap")
    storage.write_bytes(storage.read_bytes()[: storage.stat().st_size // 2])
    if not metadata:
        (path / "metadata.yaml").unlink()
    frames, line = collect(path)
    assert 10 <= len(frames) <= 20
    assert f"it was not copied completely), after {len(frames)} messages; try `mcap recover`" in line
    assert [each.name for each in tmp_path.iterdir()] == ["run"], "the salvaged copy is left behind"


def test_an_mcap_cut_in_its_index_loses_no_message(mcap_bag: Any, tmp_path: Path) -> None:
    (storage,) = written_in_chunks(mcap_bag, tmp_path / "run").glob("*.mcap")
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(storage.read_bytes()[:-30])
    frames, line = collect(cut)
    assert len(frames) == 40
    assert "is cut off" in line


def test_a_truncated_sqlite3_or_ros1_bag_is_one_clear_line(sqlite_bag: Any, ros1_bag: Any, tmp_path: Path) -> None:
    (database,) = written_in_chunks(sqlite_bag, tmp_path / "run").glob("*.db3")
    old = written_in_chunks(ros1_bag, tmp_path / "run.bag")
    for path in (database, old):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        frames, line = collect(path)
        assert len(frames) < 40
        assert f"{path} cannot be read" in line
        assert line.count("; ") == 1


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.999])
def test_damaged_bytes_anywhere_never_raise_anything_but_our_errors(any_bag: Any, tmp_path: Path, keep: float) -> None:
    path = written_in_chunks(any_bag, tmp_path / "run.bag")
    storage = path if path.is_file() else next(each for each in path.iterdir() if each.suffix != ".yaml")
    content = bytearray(storage.read_bytes())
    position = int(keep * len(content))
    content[position : position + 40] = np.random.default_rng(1).bytes(40)
    storage.write_bytes(content)
    bad: list[str] = []
    frames, line = collect(storage, on_bad_frame=lambda error, name: bad.append(f"{name}: {error}"))
    assert len(frames) + len(bad) == 40 or line


def test_a_bad_message_is_raised_or_told_and_left_out(mcap_bag: Any, tmp_path: Path) -> None:
    good, broken = (mcap_bag.image(START, picture(1), name) for name in ("rgb8", "novel"))
    entries = [(START, good), (START + 1, broken), (START + 2, b"\0\1\0\0xx"), (START + 3, good)]
    path = mcap_bag.write_typed(tmp_path / "run", {"/a": ("sensor_msgs/msg/Image", entries)})
    told: list[tuple[str, str]] = []
    frames = list(open_source(path, on_bad_frame=lambda error, name: told.append((error.reason, name))))
    assert [frame.name for frame in frames] == ["run_000000", "run_000003"]
    assert told == [("unknown_encoding", "run_000001"), ("bad_message", "run_000002")]
    with pytest.raises(FrameError, match="novel"):
        list(open_source(path))


def test_a_looped_bag_repeats_with_rising_stamps(mcap_bag: Any, tmp_path: Path) -> None:
    entries = [
        (START + i * SECOND // 10, mcap_bag.image(START + i * SECOND // 10, picture(i), "rgb8")) for i in range(3)
    ]
    path = mcap_bag.write(tmp_path / "run", {"/a": entries})
    frames = [frame for frame, _ in zip(open_source(path, loop=True), range(8), strict=False)]
    np.testing.assert_allclose(np.diff([frame.stamp_s for frame in frames]), 0.1, atol=1e-5)
    np.testing.assert_array_equal(frames[7].image, frames[1].image)


def test_a_large_jpeg_is_read_at_the_height_that_is_needed(mcap_bag: Any, tmp_path: Path) -> None:
    path = mcap_bag.write(tmp_path / "run", {"/a": [(START, mcap_bag.compressed(START, picture(1)))]})
    (frame,) = open_source(path, height_px=10)
    assert frame.image.shape == (10, 20, 3)


def test_messages_of_ros1_are_serialised_as_ros2_sends_them(ros1_bag: Any, mcap_bag: Any, tmp_path: Path) -> None:
    stamp = START + 123
    for topic, old, new in (
        ("/a", ros1_bag.image(stamp, picture(4), "bgr8"), mcap_bag.image(stamp, picture(4), "bgr8")),
        ("/b", ros1_bag.compressed(stamp, picture(4)), mcap_bag.compressed(stamp, picture(4))),
    ):
        with Bag(ros1_bag.write(tmp_path / f"{topic[1]}.bag", {topic: [(START, old)]})) as bag:
            (message,) = bag.messages([topic])
            sent = message.ros2_bytes()
        again = BagMessage(topic, message.type, 0, sent, ros1=False).decode()
        assert (again.header.stamp.sec, again.header.stamp.nanosec) == divmod(stamp, SECOND)
        np.testing.assert_array_equal(again.data, new.data)


def test_split_bags_are_read_in_the_order_of_their_files(mcap_bag: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for part in (0, 2, 10):  # ten and more parts, whose names do not sort as texts
        message = mcap_bag.image(START + part, picture(part), "rgb8")
        whole = mcap_bag.write(tmp_path / f"part{part}", {"/a": [(START + part, message)]})
        (storage,) = whole.glob("*.mcap")
        shutil.move(storage, folder / f"run_{part}.mcap")
    assert [frame.image[0, 0, 0] for frame in open_source(folder)] == [0, 20, 100]


def test_the_real_stream_is_read_whole(shared_data: Path) -> None:
    path = shared_data / "streams" / "ricoh_erp_10hz_12s.mcap"
    frames = list(open_source(path))
    assert len(frames) == 120
    assert frames[0].image.shape == (320, 640, 3)
    np.testing.assert_allclose(np.diff([frame.stamp_s for frame in frames]), 0.1, atol=1e-5)


def test_without_the_bag_library_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.mcap").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "rosbags.rosbag2", None)
    with pytest.raises(DataError, match=r"rosbags\.rosbag2, which reads bags, is missing; pip install rosbags"):
        open_source(tmp_path / "run.mcap")

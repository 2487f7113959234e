from __future__ import annotations

import contextlib
import errno
import importlib
import shutil
import sqlite3
import struct
import sys
import tempfile
import tracemalloc
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sal360.errors import DataError, FrameError
from sal360.sources import Frame, open_source
from sal360.sources.bag import Bag, BagMessage
from sal360.sources.bag_files import bag_name

zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

SECOND = 10**9
START = 1_700_000_000 * SECOND


def picture(index: int) -> np.ndarray:
    """A flat colour that identifies the frame, (32, 64, 3)."""
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
def test_a_topic_that_cannot_be_taken_gives_one_clear_error(
    any_bag: Any, tmp_path: Path, topic: str, line: str
) -> None:
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
def test_a_file_that_is_not_a_bag_gives_one_clear_error(tmp_path: Path, suffix: str, content: bytes) -> None:
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


def test_an_empty_folder_gives_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no pictures"):
        open_source(tmp_path)
    (tmp_path / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: 9}")
    with pytest.raises(DataError, match="does not describe a recording"):
        open_source(tmp_path)


def written_in_chunks(writer: Any, folder: Path) -> Path:
    """A bag of 40 frames, large enough for several MCAP chunks."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 256, 3), np.uint8)
    message = writer.image(START, noise, "rgb8")
    return writer.write(folder, {"/a": [(START + i * SECOND, message) for i in range(40)]})


@pytest.mark.parametrize("metadata", [True, False])
def test_a_truncated_mcap_is_read_up_to_the_cut_and_then_reported_as_cut(
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
    assert f"it was not copied completely); {len(frames)} " in line
    assert [each.name for each in tmp_path.iterdir()] == ["run"], "the salvaged copy is left behind"


def test_a_bag_cut_before_its_first_message_is_called_cut_and_not_empty(mcap_bag: Any, tmp_path: Path) -> None:
    (storage,) = written_in_chunks(mcap_bag, tmp_path / "run").glob("*.mcap")
    storage.write_bytes(storage.read_bytes()[:200])
    for topic in ("", "/camera"):
        with pytest.raises(DataError, match=r"is cut off \(.*; in what can be read, .*; try `mcap recover`") as caught:
            open_source(storage, topic=topic)
        assert str(caught.value).startswith(str(storage))


def test_an_mcap_cut_in_its_index_loses_no_message(mcap_bag: Any, tmp_path: Path) -> None:
    (storage,) = written_in_chunks(mcap_bag, tmp_path / "run").glob("*.mcap")
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(storage.read_bytes()[:-30])
    frames, line = collect(cut)
    assert len(frames) == 40
    assert "is cut off" in line


def test_a_truncated_sqlite3_or_ros1_bag_gives_one_clear_error(sqlite_bag: Any, ros1_bag: Any, tmp_path: Path) -> None:
    (database,) = written_in_chunks(sqlite_bag, tmp_path / "run").glob("*.db3")
    old = written_in_chunks(ros1_bag, tmp_path / "run.bag")
    for path in (database, old):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        frames, line = collect(path)
        assert len(frames) < 40
        assert f"{path} cannot be read" in line
        assert line.count("; ") == 1
        if path == database:  # .recover alone prints SQL
            assert f"`sqlite3 {path.name} .recover | sqlite3 recovered.db3`" in line


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


def test_a_bad_message_is_raised_or_reported_and_skipped(mcap_bag: Any, tmp_path: Path) -> None:
    good, broken = (mcap_bag.image(START, picture(1), name) for name in ("rgb8", "novel"))
    entries = [(START, good), (START + 1, broken), (START + 2, b"\0\1\0\0xx"), (START + 3, good)]
    path = mcap_bag.write_typed(tmp_path / "run", {"/a": ("sensor_msgs/msg/Image", entries)})
    told: list[tuple[str, str]] = []
    frames = list(open_source(path, on_bad_frame=lambda error, name: told.append((error.reason, name))))
    assert [frame.name for frame in frames] == ["run_000000", "run_000003"]
    assert told == [("unknown_encoding", "run_000001"), ("bad_message", "run_000002")]
    with pytest.raises(FrameError, match="novel"):
        list(open_source(path))


def test_a_looped_bag_repeats_with_increasing_stamps(mcap_bag: Any, tmp_path: Path) -> None:
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


def test_without_the_bag_library_the_remedy_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.mcap").write_bytes(b"\x89MCAP0\r\n")
    monkeypatch.setitem(sys.modules, "rosbags.rosbag2", None)
    with pytest.raises(DataError, match=r"rosbags\.rosbag2, which reads bags, is missing; pip install rosbags"):
        open_source(tmp_path / "run.mcap")


def camera_bag(writer: Any, path: Path, count: int = 6, first: int = 0) -> Path:
    """A bag of `count` frames, each identified by its blue or red."""
    indices = range(first, first + count)
    return writer.write(
        path, {"/a": [(START + i * SECOND, writer.image(START + i * SECOND, picture(i), "rgb8")) for i in indices]}
    )


def shown(frames: list[Frame]) -> list[int]:
    """Which frames they are."""
    return [int(frame.image[0, 0, 0]) // 10 for frame in frames]


def edit_metadata(folder: Path, old: str, new: str) -> None:
    text = (folder / "metadata.yaml").read_text()
    assert old in text
    (folder / "metadata.yaml").write_text(text.replace(old, new))


@pytest.mark.parametrize("any_bag", ["sqlite3", "mcap"], indirect=True)
def test_frames_are_found_regardless_of_the_qos_in_the_metadata(any_bag: Any, tmp_path: Path) -> None:
    path = camera_bag(any_bag, tmp_path / "run")
    edit_metadata(
        path,
        "offered_qos_profiles: []",
        "offered_qos_profiles:\n      - {history: keep_last, depth: 10, reliability: reliable}",
    )
    assert shown(list(open_source(path))) == list(range(6))


def split_bag(writer: Any, folder: Path) -> Path:
    """A bag of two parts of three frames each."""
    camera_bag(writer, folder, 3)
    second = camera_bag(writer, folder.with_name("second"), 3, first=3)
    (part,) = (each for each in second.iterdir() if each.suffix != ".yaml")
    shutil.move(part, folder / f"run_1{part.suffix}")
    edit_metadata(folder, f"- run{part.suffix}", f"- run{part.suffix}\n  - run_1{part.suffix}")
    edit_metadata(folder, "message_count: 3", "message_count: 6")
    return folder


@pytest.mark.parametrize("any_bag", ["sqlite3", "mcap"], indirect=True)
@pytest.mark.parametrize(("lost", "kept"), [("run", [3, 4, 5]), ("run_1", [0, 1, 2])])
def test_a_missing_part_is_named_and_the_others_are_read(
    any_bag: Any, tmp_path: Path, lost: str, kept: list[int]
) -> None:
    path = split_bag(any_bag, tmp_path / "run")
    assert collect(path)[1] == ""
    (part,) = path.glob(f"{lost}.[md]*3" if any_bag.kind == "sqlite3" else f"{lost}.mcap")
    part.unlink()
    frames, line = collect(path)
    assert shown(frames) == kept
    assert line == f"{part}, which metadata.yaml lists, is missing; 3 of 6 messages were read; copy it into the folder"


def test_a_part_that_cannot_be_read_is_named_and_the_others_are_read(mcap_bag: Any, tmp_path: Path) -> None:
    path = split_bag(mcap_bag, tmp_path / "run")
    (path / "run.mcap").write_bytes(b"")
    frames, line = collect(path)
    assert shown(frames) == [3, 4, 5]
    assert f"{path / 'run.mcap'} cannot be read (it is empty); 3 of 6 messages were read" in line


def test_messages_that_the_metadata_count_but_the_bag_lacks_are_reported(mcap_bag: Any, tmp_path: Path) -> None:
    path = camera_bag(mcap_bag, tmp_path / "run")
    edit_metadata(path, "message_count: 6", "message_count: 9")
    frames, line = collect(path)
    assert len(frames) == 6
    assert f"{path} holds fewer messages than its index counts; 6 of 9 messages were read" in line


def test_files_converted_beside_their_old_metadata_are_read(mcap_bag: Any, tmp_path: Path) -> None:
    path = camera_bag(mcap_bag, tmp_path / "run")
    edit_metadata(path, "- run.mcap", "- run.db3")
    frames, line = collect(path)
    assert (len(frames), line) == (6, "")


def test_a_file_that_the_metadata_do_not_list_is_reported_and_not_read(mcap_bag: Any, tmp_path: Path) -> None:
    path = camera_bag(mcap_bag, tmp_path / "run", 3)
    other = camera_bag(mcap_bag, tmp_path / "other", 2)
    shutil.copy(other / "other.mcap", path / "other.mcap")
    shutil.copy(other / "other.mcap", path / "._run.mcap")
    with Bag(path) as bag:
        assert bag.notes == [f"{path / 'other.mcap'} is not listed in metadata.yaml, and was not read"]
    assert collect(path)[1] == ""


def with_open_log(path: Path, pending: int) -> Path:
    """Turn a bag into one of a killed recorder: its last rows are only in the write-ahead log."""
    (database,) = path.glob("*.db3")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY timestamp DESC").fetchall()
        connection.execute("DELETE FROM messages WHERE id > (SELECT count(*) FROM messages) - ?", [pending])
        connection.commit()
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    for row in reversed(rows[:pending]):
        connection.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    connection.commit()
    killed = path.with_name("killed")
    killed.mkdir()
    for each in path.iterdir():
        if not each.name.endswith("-shm"):
            shutil.copy(each, killed)
    connection.close()
    return killed


@pytest.mark.parametrize("metadata", [True, False])
def test_rows_that_are_still_in_the_log_of_a_database_are_read_and_reported(
    sqlite_bag: Any, tmp_path: Path, metadata: bool
) -> None:
    path = with_open_log(camera_bag(sqlite_bag, tmp_path / "run"), 2)
    before = {each.name: each.read_bytes() for each in path.iterdir()}
    if not metadata:
        (path / "metadata.yaml").unlink()
    frames, line = collect(path)
    assert shown(frames) == list(range(6))
    assert f"{path / 'run.db3'} was not closed: 2 of its messages are only in its log run.db3-wal" in line
    assert {each.name: each.read_bytes() for each in path.iterdir()}.items() <= before.items(), "the bag was changed"


def test_a_log_without_further_rows_is_not_damage(sqlite_bag: Any, tmp_path: Path) -> None:
    path = camera_bag(sqlite_bag, tmp_path / "run")
    (path / "run.db3-wal").touch()
    assert collect(path)[1] == ""
    killed = with_open_log(path, 0)
    (killed / "run.db3-wal").write_bytes(b"not a log")
    assert collect(killed)[1] == ""


def test_files_are_recognised_by_content_and_not_by_name(any_bag: Any, tmp_path: Path) -> None:
    path = camera_bag(any_bag, tmp_path / "run.bag")
    storage = path if path.is_file() else next(each for each in path.iterdir() if each.suffix != ".yaml")
    names = {"ros1": "RUN.BAG", "mcap": "RUN 1#2%20?.MCAP", "sqlite3": "RUN 1#2%20?.DB3"}
    renamed = shutil.copy(storage, tmp_path / names[any_bag.kind])
    compressed = tmp_path / f"packed{storage.suffix}.zstd"
    compressed.write_bytes(zstd.compress(storage.read_bytes()))
    for each in (renamed, compressed):
        frames, line = collect(each)
        assert (shown(frames), line) == (list(range(6)), "")
    if path.is_dir():
        assert shown(list(open_source(path / "metadata.yaml"))) == list(range(6))


@pytest.mark.parametrize(
    ("any_bag", "mode"),
    [("sqlite3", "FILE"), ("sqlite3", "MESSAGE"), ("mcap", "FILE"), ("mcap", "MESSAGE"), ("mcap", "STORAGE")],
    indirect=["any_bag"],
)
@pytest.mark.parametrize("metadata", [True, False])
def test_compressed_bags_are_read_with_and_without_metadata(
    any_bag: Any, tmp_path: Path, mode: str, metadata: bool
) -> None:
    path = camera_bag(any_bag, tmp_path / "run")
    with Bag(path) as bag:
        messages = list(bag.messages(["/a"]))
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    plugin = StoragePlugin.MCAP if any_bag.kind == "mcap" else StoragePlugin.SQLITE3
    writer = Writer(tmp_path / "packed", version=9, storage_plugin=plugin)
    writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/a", "sensor_msgs/msg/Image", typestore=any_bag.store)
        for each in messages:
            writer.write(connection, each.recorded_ns, each.data)
    if not metadata:
        (tmp_path / "packed" / "metadata.yaml").unlink()
    frames, line = collect(tmp_path / "packed")
    assert (shown(frames), line) == (list(range(6)), "")


@pytest.mark.parametrize("profile", ["", "ros1"])
def test_an_mcap_file_of_another_profile_gives_one_true_error(mcap_bag: Any, tmp_path: Path, profile: str) -> None:
    (storage,) = camera_bag(mcap_bag, tmp_path / "run").glob("*.mcap")
    content = storage.read_bytes()
    start = 8 + 1 + 8
    record = len(profile).to_bytes(4, "little") + profile.encode() + (0).to_bytes(4, "little")
    path = tmp_path / "other.mcap"
    path.write_bytes(content[:9] + len(record).to_bytes(8, "little") + record + content[start:])
    with pytest.raises(
        DataError, match=rf"other\.mcap is an MCAP file with the profile '{profile}'; expected the profile 'ros2'"
    ):
        open_source(path)


def test_errors_name_the_file_of_the_user(mcap_bag: Any, tmp_path: Path) -> None:
    (storage,) = written_in_chunks(mcap_bag, tmp_path / "run").glob("*.mcap")
    broken = tmp_path / "broken.MCAP"
    content = bytearray(storage.read_bytes()[: storage.stat().st_size // 2])
    content[60_000:60_400] = bytes(400)
    broken.write_bytes(content)
    database = tmp_path / "broken.DB3"
    database.write_bytes(b"SQLite format 3\0" + bytes(5000))
    packed = tmp_path / "broken.mcap.zstd"
    packed.write_bytes(zstd.compress(content)[:-10])
    for path in (broken, database, packed):
        _, line = collect(path)
        assert str(path) in line
        assert tempfile.gettempdir() not in line.replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("name", "called"),
    [("run.2026.11", "run.2026.11"), ("run.2026.11.mcap", "run.2026.11"), ("RUN.MCAP.ZSTD", "RUN"), ("a.bag", "a")],
)
def test_a_bag_is_called_by_its_name_without_the_suffix_of_a_bag_alone(tmp_path: Path, name: str, called: str) -> None:
    path = tmp_path / name
    path.touch() if called != name else path.mkdir()
    assert bag_name(path) == called


def test_the_working_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bag_name(Path(".")) == tmp_path.name


def test_pictures_beside_other_metadata_are_not_a_bag(tmp_path: Path) -> None:
    (tmp_path / "metadata.yaml").write_text("author: me")
    cv2.imwrite(str(tmp_path / "room.png"), picture(1))
    assert len(list(open_source(tmp_path))) == 1


@pytest.mark.parametrize("honest", [True, False])
def test_a_chunk_that_would_fill_the_memory_is_refused(
    mcap_bag: Any, tmp_path: Path, honest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stated size is beyond the limit, or its content is larger than it states."""
    monkeypatch.setattr("sal360.sources.bag_files.MAX_DECOMPRESSED_BYTES", 2**20)
    (storage,) = camera_bag(mcap_bag, tmp_path / "run", 1).glob("*.mcap")
    content = storage.read_bytes()
    start = content.index(b"\x06", 17)  # the chunk, uncompressed
    size = int.from_bytes(content[start + 25 : start + 33], "little")
    (length,) = struct.unpack_from("<I", content, start + 37)
    assert length == 0
    records = content[start + 49 : start + 49 + size]
    records += struct.pack("<BQ", 0x80, 50_000_000) + bytes(50_000_000)  # a record of an unknown kind
    packed = zstd.compress(records)
    stated = len(records) if honest else size
    chunk = (
        content[start + 9 : start + 25]
        + struct.pack("<QII", stated, 0, 4)
        + b"zstd"
        + struct.pack("<Q", len(packed))
        + packed
    )
    bomb = tmp_path / "bomb.mcap"
    end = struct.pack("<BQI", 0x0F, 4, 0) + struct.pack("<BQQQI", 0x02, 20, 0, 0, 0) + b"\x89MCAP0\r\n"
    bomb.write_bytes(content[:start] + struct.pack("<BQ", 6, len(chunk)) + chunk + end)
    tracemalloc.start()
    _, line = collect(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "bomb.mcap cannot be read" in line
    assert (f"a chunk of {stated} bytes; at most 1048576 are read" in line) == honest
    assert peak < 10_000_000


# --- checksums, order and counts ---

MESSAGE, CHUNK, DATA_END = 0x05, 0x06, 0x0F


def records_of(content: bytes) -> list[tuple[int, bytes]]:
    """Opcode and bytes of each MCAP record."""
    records, position = [], 0
    while position < len(content):
        opcode, length = struct.unpack_from("<BQ", content, position)
        records.append((opcode, content[position : position + 9 + length]))
        position += 9 + length
    return records


def without_chunks(storage: Path, path: Path, order: Sequence[int]) -> Path:
    """The messages of an MCAP file in another order, without chunks or index, below one checksum of all data."""
    head, body, messages = b"", {}, []
    for opcode, record in records_of(storage.read_bytes()[8:-8]):
        if opcode == CHUNK:  # header, times, size, checksum, compression and length
            for inner, each in records_of(record[9 + 40 :]):
                (messages if inner == MESSAGE else body.setdefault(each, [])).append(each)
        elif opcode == DATA_END:
            break
        elif opcode == 1:
            head = record
    data = storage.read_bytes()[:8] + head + b"".join(body) + b"".join(messages[index] for index in order)
    end = struct.pack("<BQI", DATA_END, 4, zlib.crc32(data)) + struct.pack("<BQQQI", 2, 20, 0, 0, 0)
    path.write_bytes(data + end + b"\x89MCAP0\r\n")
    return path


def test_an_mcap_without_index_is_read_whole_although_the_clock_was_set_back(mcap_bag: Any, tmp_path: Path) -> None:
    (storage,) = camera_bag(mcap_bag, tmp_path / "run").glob("*.mcap")
    path = without_chunks(storage, tmp_path / "fast.mcap", [0, 1, 5, 2, 3, 4])
    frames, line = collect(path)
    assert (shown(frames), line) == ([0, 1, 5, 2, 3, 4], "")


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x55
    path.write_bytes(content)


@pytest.mark.parametrize("damaged", [True, False])
def test_data_without_chunks_are_compared_with_their_checksum(mcap_bag: Any, tmp_path: Path, damaged: bool) -> None:
    (storage,) = camera_bag(mcap_bag, tmp_path / "run").glob("*.mcap")
    path = without_chunks(storage, tmp_path / "fast.mcap", range(6))
    if damaged:
        flip(path, path.read_bytes().index(b"rgb8") + 900)  # in a picture, where nothing else would notice
    frames, line = collect(path)
    assert len(frames) == 6
    found = f"{path} does not match its checksum: some of its messages are damaged; 6 messages were read"
    assert line == (f"{found}; copy the recording again" if damaged else "")


@pytest.mark.parametrize("damaged", [True, False])
def test_a_chunk_is_compared_with_its_checksum(mcap_bag: Any, tmp_path: Path, damaged: bool) -> None:
    (path,) = camera_bag(mcap_bag, tmp_path / "run").glob("*.mcap")
    content = bytearray(path.read_bytes())
    start = content.index(b"\x06", 17)
    (size,) = struct.unpack_from("<Q", content, start + 25)
    struct.pack_into("<I", content, start + 33, zlib.crc32(content[start + 49 : start + 49 + size]))
    path.write_bytes(content)
    if damaged:
        flip(path, start + 2000)
    frames, line = collect(path)
    assert len(frames) == (0 if damaged else 6)
    assert (f"{path} cannot be read after 0 messages (Chunk checksum mismatch.)" in line) == damaged


def test_an_index_that_does_not_match_its_checksum_is_not_used(mcap_bag: Any, tmp_path: Path) -> None:
    (path,) = camera_bag(mcap_bag, tmp_path / "run").glob("*.mcap")
    content = bytearray(path.read_bytes())
    (index,) = struct.unpack_from("<Q", content, len(content) - 28)
    struct.pack_into("<I", content, len(content) - 12, zlib.crc32(content[index:-12]))
    path.write_bytes(content)
    assert collect(path)[1] == ""
    flip(path, content.index(b"/a", index) + 1)  # the topic's name
    frames, line = collect(path)
    assert shown(frames) == list(range(6))
    assert f"{path} has a damaged index" in line


def test_an_mcap_without_counts_by_channel_is_not_empty(mcap_bag: Any, tmp_path: Path) -> None:
    (path,) = camera_bag(mcap_bag, tmp_path / "run").glob("*.mcap")
    content = bytearray(path.read_bytes())
    (index,) = struct.unpack_from("<Q", content, len(content) - 28)
    statistics = content.index(struct.pack("<BQ", 0x0B, 42 + 4 + 10), index)
    struct.pack_into("<Q", content, statistics + 1, 42 + 4)
    struct.pack_into("<I", content, statistics + 9 + 42, 0)
    del content[statistics + 9 + 46 : statistics + 9 + 56]
    path.write_bytes(content)
    frames, line = collect(path)
    assert (shown(frames), line) == (list(range(6)), "")


def test_messages_without_a_topic_are_reported(sqlite_bag: Any, tmp_path: Path) -> None:
    (path,) = camera_bag(sqlite_bag, tmp_path / "run").glob("*.db3")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE messages SET topic_id = 9 WHERE id > 4")
        database.commit()
    frames, line = collect(path)
    assert shown(frames) == [0, 1, 2, 3]
    assert f"{path} has 2 messages that belong to none of its topics; 4 messages were read" in line


def test_a_transaction_that_was_not_finished_is_named_as_such(sqlite_bag: Any, tmp_path: Path) -> None:
    path = camera_bag(sqlite_bag, tmp_path / "run")
    (database,) = path.glob("*.db3")
    killed = tmp_path / "killed.db3"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA cache_size = 1")  # rows reach the file before the end of the transaction
        rows = connection.execute("SELECT topic_id, timestamp, data FROM messages").fetchall()
        connection.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", rows * 20)
        shutil.copy(database, killed)
        shutil.copy(database.with_name("run.db3-journal"), tmp_path / "killed.db3-journal")
        connection.rollback()
    frames, line = collect(killed)
    assert shown(frames) == list(range(6))
    assert line.startswith(f"{killed} was not closed: what was written last is not complete, and is left out; 6 mess")


def test_a_computed_column_cannot_fill_the_memory(
    sqlite_bag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sal360.sources.bag_files.MAX_DECOMPRESSED_BYTES", 2**20)
    (path,) = camera_bag(sqlite_bag, tmp_path / "run").glob("*.db3")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE messages RENAME COLUMN data TO was")
        database.execute("ALTER TABLE messages ADD COLUMN data BLOB GENERATED ALWAYS AS (zeroblob(50000000))")
        database.commit()
    frames, line = collect(path)
    assert not frames
    assert f"{path} cannot be read after 0 messages (" in line


@pytest.mark.parametrize("compression", ["BZ2", "LZ4"])
def test_chunks_of_ros1_are_limited_too(
    ros1_bag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    from rosbags.rosbag1 import Writer

    writer = Writer(tmp_path / "run.bag")
    writer.set_compression(Writer.CompressionFormat[compression])
    message = ros1_bag.image(START, np.zeros((1024, 2048, 3), np.uint8), "rgb8")
    with writer:
        connection = writer.add_connection("/a", message.__msgtype__, typestore=ros1_bag.store)
        writer.write(connection, START, ros1_bag.store.serialize_ros1(message, message.__msgtype__))
    assert len(collect(tmp_path / "run.bag")[0]) == 1
    monkeypatch.setattr("sal360.sources.bag_files.MAX_DECOMPRESSED_BYTES", 2**20)
    frames, line = collect(tmp_path / "run.bag")
    assert not frames
    assert "a chunk is cut off, or holds more than 1048576 bytes" in line


def test_metadata_that_are_nested_too_deeply_are_damaged_metadata(mcap_bag: Any, tmp_path: Path) -> None:
    path = camera_bag(mcap_bag, tmp_path / "run")
    (path / "metadata.yaml").write_text("rosbag2_bagfile_information: " + "[" * 5000)
    frames, line = collect(path)
    assert len(frames) == 6
    assert f"{path / 'metadata.yaml'} does not describe a recording" in line


def test_a_topic_that_the_metadata_count_and_no_file_holds_is_named(mcap_bag: Any, tmp_path: Path) -> None:
    frames = [(START + index * SECOND, mcap_bag.image(START, picture(index), "rgb8")) for index in range(3)]
    path = mcap_bag.write(tmp_path / "run", {"/a": frames, "/b": frames})
    other = mcap_bag.write(tmp_path / "other", {"/a": frames})
    shutil.copy(other / "other.mcap", path / "run.mcap")
    with Bag(path) as bag:
        assert bag.notes == ["metadata.yaml counts 3 messages on /b, and no file of the bag holds that topic"]
    with pytest.raises(DataError, match=r"the 3 messages of .*run on /b are in none of its files; copy the recording"):
        open_source(path, topic="/b")


def test_counts_that_are_no_numbers_are_damaged_metadata(mcap_bag: Any, tmp_path: Path) -> None:
    path = camera_bag(mcap_bag, tmp_path / "run")
    edit_metadata(path, "message_count: 6", "message_count: .inf")
    frames, line = collect(path)
    assert len(frames) == 6
    assert f"{path / 'metadata.yaml'} does not describe a recording" in line


def test_a_folder_named_like_a_bag_is_no_part_of_one(mcap_bag: Any, tmp_path: Path) -> None:
    path = camera_bag(mcap_bag, tmp_path / "run")
    (path / "metadata.yaml").unlink()
    (path / "clips.mcap").mkdir()
    assert len(collect(path)[0]) == 6


def test_a_part_that_is_a_broken_link_is_named_and_the_others_are_read(mcap_bag: Any, tmp_path: Path) -> None:
    path = camera_bag(mcap_bag, tmp_path / "run")
    (path / "metadata.yaml").unlink()
    (path / "run_1.mcap").symlink_to(tmp_path / "gone.mcap")
    frames, line = collect(path)
    assert len(frames) == 6
    assert f"{path / 'run_1.mcap'} cannot be opened (No such file or directory)" in line


def test_a_bag_whose_name_is_not_utf8_is_read(any_bag: Any, tmp_path: Path) -> None:
    path = camera_bag(any_bag, tmp_path / "run.bag")
    renamed = path.rename(tmp_path / "caf\udce9.bag")
    if renamed.is_dir():
        (storage,) = (each for each in renamed.iterdir() if each.suffix != ".yaml")
        single = Path(shutil.copy(storage, tmp_path / f"caf\udce9{storage.suffix}"))
        assert shown(list(open_source(single))) == list(range(6))
    assert shown(list(open_source(renamed))) == list(range(6))


def test_the_log_of_a_database_whose_name_is_not_utf8_is_read(sqlite_bag: Any, tmp_path: Path) -> None:
    killed = with_open_log(camera_bag(sqlite_bag, tmp_path / "run"), 2)
    frames, line = collect(killed.rename(tmp_path / "caf\udce9"))
    assert len(frames) == 6
    assert "2 of its messages are only in its log" in line


@pytest.mark.parametrize("kind", ["compressed", "cut", "with a log"])
def test_a_full_disk_for_temporary_copies_is_named(
    mcap_bag: Any, sqlite_bag: Any, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "with a log":
        (path,) = with_open_log(camera_bag(sqlite_bag, tmp_path / "run"), 2).glob("*.db3")
    else:
        (storage,) = camera_bag(mcap_bag, tmp_path / "run").glob("*.mcap")
        content = storage.read_bytes()
        path = tmp_path / ("run.mcap.zstd" if kind == "compressed" else "run.mcap")
        path.write_bytes(zstd.compress(content) if kind == "compressed" else content[:-30])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DataError, match=r"needs a temporary copy, and the disk of .* is full; .* set TMPDIR") as caught:
        open_source(path)
    assert str(caught.value).startswith(str(path))

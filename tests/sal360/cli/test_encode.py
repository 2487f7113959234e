"""The command that encodes videos with regions of interest."""

from __future__ import annotations

import errno
import json
import re
import socket
from fractions import Fraction
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from sal360.cli import encode, main
from sal360.encoding.boxes import read_spherical
from tests.bag_writer import BagWriter

av = pytest.importorskip("av")

FRAMES, RATE = 12, 12
DASH = {"": "urn:mpeg:dash:schema:mpd:2011"}


def make_clip(path, size=(128, 256), frames=FRAMES, sound=range(8), codec="aac", rate=8000):
    """A clip of moving noise, one second long, with a tone in these eighths of it."""
    generator = np.random.default_rng(0)
    picture = cv2.resize(generator.integers(0, 256, (size[0] // 4, size[1] // 4, 3), dtype=np.uint8), size[::-1])
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "10"})
        video.width, video.height, video.pix_fmt = size[1], size[0], "yuv444p"
        audio = container.add_stream(codec, rate=rate, layout="mono") if sound else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(picture, 4 * number, 1)), format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number in sound or ():
            samples = (8000 * np.sin(np.arange(rate // 8) / 5)).astype(np.float32)[None] / 32768
            tone = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            tone.sample_rate, tone.pts, tone.time_base = rate, rate // 8 * number, Fraction(1, rate)
            container.mux(audio.encode(tone))
        if audio:
            container.mux(audio.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "ride.mp4")


@pytest.fixture
def run(capfd, tiny_model):
    """Runs the command on the tiny model; returns its status, its output and its errors."""
    pytest.importorskip("onnxruntime")

    def run_it(*arguments):
        model = ["--model", tiny_model, "--backend", "onnxruntime", "--device", "cpu"]
        status = main(["encode", *map(str, [*arguments, *model])])
        return status, *capfd.readouterr()

    return run_it


def frames_of(path):
    with av.open(str(path)) as container:
        return [each.to_ndarray(format="bgr24") for each in container.decode(video=0)]


def stamps_of(path):
    with av.open(str(path)) as container:
        return [each.time for each in container.decode(video=0)]


def packets_of(path, kind):
    with av.open(str(path)) as container:
        (stream,) = (each for each in container.streams if each.type == kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def first_s(path, kind):
    with av.open(str(path)) as container:
        (stream,) = (each for each in container.streams if each.type == kind)
        return float(min(each.pts * each.time_base for each in container.demux(stream) if each.size))


def test_a_video_is_encoded_with_its_times_its_audio_and_its_sphere(run, clip, tmp_path):
    output = tmp_path / "new" / "out.mp4"
    status, out, err = run(clip, output, "--preset", "ultrafast")
    assert (status, err) == (0, "")
    assert re.match(r"12 frames, 1.0 s, [\d.]+ Mbit/s in .*out.mp4: libx264, regions [\d.]+ dB better", out)
    assert stamps_of(output) == pytest.approx(np.arange(FRAMES) / RATE, abs=2e-5)
    before, after = frames_of(clip), frames_of(output)
    assert np.mean([abs(a.astype(int) - b).mean() for a, b in zip(before, after, strict=True)]) < 12
    assert packets_of(output, "audio") == packets_of(clip, "audio")
    assert b"equi" in read_spherical(output).in_entry[0]
    assert [each.name for each in output.parent.iterdir()] == ["out.mp4"]


def test_better_blocks_are_where_the_offsets_say(run, clip, tmp_path, monkeypatch):
    def halves(self, _):
        return (
            np.where(np.arange(self.grid.shape[1]) < self.grid.shape[1] // 2, -8, 8)[None, :]
            .repeat(self.grid.shape[0], axis=0)
            .astype(np.int8)
        )

    monkeypatch.setattr("sal360.outputs.qp_offset.QpOffset.update", halves)
    assert run(clip, tmp_path / "out.mkv", "--preset", "ultrafast", "--quality", 30, "--no-audio")[0] == 0
    pairs = zip(frames_of(clip), frames_of(tmp_path / "out.mkv"), strict=True)
    error = np.mean([(a.astype(float) - b) ** 2 for a, b in pairs], axis=(0, 3))
    assert error[:, :128].mean() < 0.7 * error[:, 128:].mean()


@pytest.mark.parametrize(("size", "shift"), [((640, 1280), 2.5), ((320, 640), 12)])
def test_colours_of_large_videos_that_do_not_name_their_matrix_stay_as_players_show_them(run, tmp_path, size, shift):
    source = tmp_path / "red.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "5"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        frame = av.VideoFrame(*size[::-1], "yuv420p")
        for plane, value in zip(frame.planes, (90, 100, 190), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts, frame.time_base = 0, Fraction(1, RATE)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert run(source, tmp_path / "out.mp4", "--preset", "ultrafast", "--quality", 5)[0] == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        planes = next(container.decode(video=0)).planes
    # small ones are BT.601, and the output is BT.709, so that the same colour has other values there
    assert abs(np.frombuffer(planes[0], np.uint8)[: size[1]].mean() - 90) == pytest.approx(shift, abs=2.5)


def test_two_passes_meet_the_rate(run, clip, tmp_path):
    output = tmp_path / "out.mp4"
    arguments = ("--preset", "ultrafast", "--bitrate", "400k", "--passes", 2, "--no-audio")
    assert run(clip, output, *arguments)[::2] == (0, "")
    rate = 8 * sum(map(len, packets_of(output, "video")))
    assert 200_000 < rate < 600_000


def test_hevc_and_vp9_with_the_frames_of_a_folder(run, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((64, 128, 3), 60 * number, np.uint8))
    assert run(folder, tmp_path / "out.mp4", "--codec", "hevc", "--preset", "ultrafast", "--rate", 10)[0] == 0
    assert stamps_of(tmp_path / "out.mp4") == pytest.approx([0, 0.1, 0.2], abs=1e-3)
    assert b"hvc1" in (tmp_path / "out.mp4").read_bytes()
    assert run(folder, tmp_path / "out.webm", "--height", 32)[0] == 0
    assert [each.shape for each in frames_of(tmp_path / "out.webm")] == 3 * [(32, 64, 3)]


def test_segments_play_in_a_row_and_are_in_both_playlists(run, clip, tmp_path):
    arguments = ("--preset", "veryfast", "--segment-s", 0.5)  # which reorders frames
    status, out, err = run(clip, tmp_path / "out", *arguments)
    assert (status, err) == (0, "")
    assert "2 segments" in out
    for track, count in (("video", FRAMES), ("audio", 8)):
        text = (tmp_path / "out" / f"{track}.m3u8").read_text()
        assert text.count("#EXTINF:0.500000,") == 2
        assert text.endswith("#EXT-X-ENDLIST\n")
        names = re.findall(r'^(?:#EXT-X-MAP:URI=")?([\w/]+\.(?:mp4|m4s))', text, re.MULTILINE)
        joined = tmp_path / f"{track}.mp4"
        joined.write_bytes(b"".join((tmp_path / "out" / name).read_bytes() for name in names))
        if track == "video":
            stamps = np.array(stamps_of(joined))
            assert stamps - stamps[0] == pytest.approx(np.arange(count) / RATE, abs=2e-5)
            assert read_spherical(joined)
    begin_s = [first_s(tmp_path / f"{kind}.mp4", kind) - first_s(clip, kind) for kind in ("video", "audio")]
    assert begin_s == pytest.approx([1, 1], abs=2e-3)  # HLS has no other word for what is simultaneous
    main_list = (tmp_path / "out" / "main.m3u8").read_text()
    assert 'CODECS="avc1.' in main_list
    assert "mp4a.40.2" in main_list
    mpd = ElementTree.parse(tmp_path / "out" / "manifest.mpd")
    assert {each.get("id") for each in mpd.iterfind(".//Representation", DASH)} == {"video", "audio"}
    for template in mpd.iterfind(".//SegmentTemplate", DASH):
        times = [(int(each.get("t")), int(each.get("d"))) for each in template.iterfind(".//S", DASH)]
        assert times[1][0] == sum(times[0])
        assert sum(each[1] for each in times) == int(template.get("timescale"))


def test_audio_that_begins_late_or_ends_early_makes_no_empty_segments(run, tmp_path):
    for name, eighths in (("early", range(3)), ("late", range(6, 8))):
        ride = make_clip(tmp_path / f"{name}.mkv", sound=eighths)
        output = tmp_path / name
        assert run(ride, output, "--preset", "ultrafast", "--segment-s", 0.5)[::2] == (0, "")
        assert all(each.stat().st_size for each in output.rglob("*.m4s"))
        assert len(list((output / "video").glob("*.m4s"))) == 2
        assert [each.name for each in (output / "audio").glob("*.m4s")] == ["00000.m4s"]
        assert (output / "audio.m3u8").read_text().count(".m4s") == 1
        joined = tmp_path / f"{name}.mp4"
        joined.write_bytes(b"".join((output / "audio" / each).read_bytes() for each in ("init.mp4", "00000.m4s")))
        assert packets_of(joined, "audio") == packets_of(ride, "audio")


@pytest.mark.parametrize(("codec", "entry"), [("ac3", "ac-3"), ("eac3", "ec-3"), ("flac", "flac")])
def test_segments_take_audio_that_mp4_describes_by_its_packets(run, tmp_path, codec, entry):
    ride = make_clip(tmp_path / "ride.mkv", codec=codec, rate=32000)
    status, _, err = run(ride, tmp_path / "out", "--preset", "ultrafast", "--segment-s", 0.5)
    assert (status, err) == (0, "")
    parts = ["init.mp4", *sorted(each.name for each in (tmp_path / "out" / "audio").glob("*.m4s"))]
    assert len(parts) == 3
    joined = tmp_path / "joined.mp4"
    joined.write_bytes(b"".join((tmp_path / "out" / "audio" / each).read_bytes() for each in parts))
    assert packets_of(joined, "audio") == packets_of(ride, "audio")
    assert first_s(joined, "audio") - first_s(ride, "audio") == pytest.approx(1, abs=2e-3)  # as the video
    assert f'{entry}"' in (tmp_path / "out" / "main.m3u8").read_text()


def test_an_interrupted_run_continues_after_its_last_segment(run, clip, tmp_path, monkeypatch):
    arguments = ("--preset", "ultrafast", "--segment-s", 0.25, "--smoothing-time-constant-s", 0)
    assert run(clip, tmp_path / "whole", *arguments)[0] == 0
    numbers = []
    pictures = encode.Foveation.pictures

    def interrupted(self, *args):
        for picture in pictures(self, *args):
            if picture.number == 8 and not numbers:
                raise KeyboardInterrupt
            yield picture

    monkeypatch.setattr(encode.Foveation, "pictures", interrupted)
    assert run(clip, tmp_path / "out", *arguments)[0] == 130
    assert len(json.loads((tmp_path / "out" / "segments.json").read_text())["durations_s"]) == 2
    assert "#EXT-X-ENDLIST" not in (tmp_path / "out" / "video.m3u8").read_text()
    status, _, err = run(clip, tmp_path / "out", *arguments)
    assert status == 2
    assert "holds segments; add --resume to continue them, or remove the folder" in err
    numbers.append(8)
    status, _, err = run(clip, tmp_path / "out", *arguments, "--resume", "--strength", 1)
    assert (status, err.count("\n")) == (2, 1)
    assert "was begun with another strength" in err
    assert "was begun with another audio" in run(clip, tmp_path / "out", *arguments, "--resume", "--no-audio")[2]
    status, out, err = run(clip, tmp_path / "out", *arguments, "--resume")
    assert status == 0
    assert "2 segments, 0.5 s, are there already" in err
    for path in sorted((tmp_path / "whole").rglob("*.m*")):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes(), path
    assert "6 frames, 0.5 s" in out
    assert "4 segments" in out
    for name in ("main.m3u8", "video.m3u8", "manifest.mpd"):  # as if it had ended before it wrote them
        (tmp_path / "out" / name).unlink()
    assert run(clip, tmp_path / "out", *arguments, "--resume")[0] == 0  # no frame is left to encode
    for name in ("main.m3u8", "video.m3u8", "manifest.mpd"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (tmp_path / "out" / "video" / "00002.m4s").write_bytes(b"")
    status, _, err = run(clip, tmp_path / "out", *arguments, "--resume")
    assert (status, err.count("\n")) == (2, 1)
    assert "00002.m4s is missing or damaged; remove the folder, and encode again" in err
    (tmp_path / "out" / "audio" / "init.mp4").rename(tmp_path / "init.mp4")
    (tmp_path / "out" / "video" / "00002.m4s").write_bytes((tmp_path / "whole" / "video" / "00002.m4s").read_bytes())
    assert "init.mp4 is missing; remove the folder" in run(clip, tmp_path / "out", *arguments, "--resume")[2]
    (tmp_path / "out" / "segments.json").write_text('{"tracks": {}, "durations_s": ["a"], "next_frame": 0}')
    status, _, err = run(clip, tmp_path / "out", *arguments, "--resume")
    assert (status, err.count("\n")) == (2, 1)
    assert "segments.json is damaged" in err


def test_tiles_have_their_place_and_more_bits_where_people_look(run, clip, tmp_path, monkeypatch):
    def left(*_):
        return np.array([[0.8, 0.1], [0.05, 0.05]])

    monkeypatch.setattr(encode, "tile_weights", left)
    arguments = ("--preset", "ultrafast", "--tiles", "2x2", "--rungs", 2, "--segment-s", 1, "--no-audio")
    status, out, _ = run(clip, tmp_path / "out", *arguments)
    assert status == 0
    assert "Mbit/s of 2 x 2 tiles, all qualities together" in out
    mpd = ElementTree.parse(tmp_path / "out" / "manifest.mpd")
    places = [each.get("value") for each in mpd.iterfind(".//SupplementalProperty", DASH)]
    assert places == [f"0,{x},{y},128,64,256,128" for y in (0, 64) for x in (0, 128)]
    size = {path.parent.name: path.stat().st_size for path in (tmp_path / "out").rglob("*.m4s")}
    assert len(size) == 8
    assert size["tile_0_0_0"] > 1.5 * size["tile_1_1_0"]
    assert size["tile_0_0_0"] > 1.2 * size["tile_0_0_1"]
    for name in size:
        joined = tmp_path / f"{name}.mp4"
        joined.write_bytes(
            b"".join((tmp_path / "out" / name / each).read_bytes() for each in ("init.mp4", "00000.m4s"))
        )
        assert [each.shape for each in frames_of(joined)] == FRAMES * [(64, 128, 3)]


def test_a_live_stream_becomes_segments_from_zero(run, tmp_path):
    from tests import live_streams

    port = live_streams.free_port(socket.SOCK_DGRAM)
    with live_streams.Sender(f"udp://127.0.0.1:{port}?pkt_size=1316", "mpegts"):
        arguments = ("--seconds", 1, "--wait", 60, "--segment-s", 0.5, "--preset", "ultrafast")
        status, out, err = run(f"udp://127.0.0.1:{port}", tmp_path / "out", *arguments)
    assert (status, err) == (0, f"udp://127.0.0.1:{port} sends 128 x 64\n")
    assert "segments in" in out
    progress = json.loads((tmp_path / "out" / "segments.json").read_text())
    assert 0 < sum(progress["durations_s"]) < 60  # not since 1970
    assert progress["is_complete"]
    status, _, err = run(f"udp://127.0.0.1:{port}", tmp_path / "out", "--resume")
    assert status == 2
    assert "is live and cannot be continued; remove --resume, and name a new folder" in err
    for option in ("--report", "--passes=2"):
        status, _, err = run(f"udp://127.0.0.1:{port}", tmp_path / "out.mp4", option, "--bitrate", "1M")
        assert status == 2
        assert f"udp://127.0.0.1:{port} is live and cannot be read twice; remove {option.partition('=')[0]}" in err


def test_the_report_compares_with_the_encoder_without_regions(run, clip, tmp_path, monkeypatch):
    done = []
    compare = encode.compare
    monkeypatch.setattr(encode, "compare", lambda *args: compare(*args[:-1], done.append))  # instead of the bar
    arguments = ("--preset", "ultrafast", "--report", "--report-frames", 3, "--no-audio")
    status, out, _ = run(clip, tmp_path / "out.mp4", *arguments)
    assert status == 0
    assert re.search(r"report in .*out_report.html: -?[\d.]+ % of the rate saved where the map predicts gaze", out)
    assert "the first 3" in (tmp_path / "out_report.html").read_text()
    assert sum(done) == encode.ENCODINGS


def test_map_files_have_a_map_for_each_frame(run, clip, tmp_path):
    status, out, _ = run(clip, tmp_path / "map.bin", "--map-for", "android")
    assert status == 0
    assert "offsets of 12 frames for android" in out
    assert (tmp_path / "map.bin").stat().st_size == FRAMES * 16 * 8
    assert run(clip, tmp_path / "map.txt", "--map-for", "svt-av1")[0] == 0
    assert [line.split()[0] for line in (tmp_path / "map.txt").read_text().splitlines()] == [*map(str, range(FRAMES))]


def test_a_bag_of_several_topics_is_encoded_once_the_topic_is_named(run, tmp_path):
    writer = BagWriter("mcap")
    grey = np.full((64, 128, 3), 99, np.uint8)
    image = [(at, writer.image(at, grey, "rgb8")) for at in (1, 10**8)]
    bag = writer.write(tmp_path / "run", {"/left": image, "/right": image[:1]})
    status, out, err = run(bag, tmp_path / "map.txt", "--map-for", "svt-av1")
    assert (status, out) == (2, "")
    assert err.endswith("/run has 2 image topics; choose the topic /left or /right\n")
    for topic, count in (("/left", 2), ("/right", 1)):
        assert run(bag, tmp_path / "map.txt", "--map-for", "svt-av1", "--topic", topic)[0] == 0
        assert len((tmp_path / "map.txt").read_text().splitlines()) == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codec", "x266"], "unknown codec 'x266'"),
        (["--codec", "libsvtav1", "--preset", "13"], "libsvtav1 ignores regions of interest"),
        (["--codec", "av1"], "dB against outside; choose libx264, libx265 or libvpx-vp9; or write a map file for its"),
        (["--codec-options", "aq-mode=0"], "libx264 ignores regions of interest"),
        (["--codec-options", "aq-mode=0"], "turn adaptive quantisation off or change the mode; or choose libx265 or "),
        (
            ["--bitrate", "5M", "--quality", "20"],
            "both a rate of 5000000 bit/s and a quality of 20 were given; remove one",
        ),
        (["--bitrate", "5Mbit"], "'5Mbit' is not a rate; expected 1k to 10G bits a second; write it like 5M or 800k"),
        (["--passes", "2"], "two passes were asked for without a rate"),
        (["--passes", "2", "--codec", "vp9", "--bitrate", "1M"], "is not a file for VP9|libvpx-vp9 has no two passes"),
        (["--resume"], "--resume was given for a file"),
        (["--tiles", "2x2"], "--tiles was given for a file"),
        (["--map-for", "kvazaar"], "out.mp4 does not end in .txt or .bin"),
        (["--map-for", "kvazaar", "--bitrate", "5M"], "--bitrate was given with --map-for; remove one of them"),
        (["--bitrate", "5M", "--codec-options", "crf=30"], "a rate and the further option crf were given; remove one"),
        (["--report", "--codec-options", "crf=30"], "a quality and the further option crf were given; remove one"),
        (["--height", "63"], "are 126 x 63, and video codecs need even sides; scale them: --height 62"),
    ],
)
def test_wrong_options_are_one_clear_line(run, clip, tmp_path, arguments, message):
    status, out, err = run(clip, tmp_path / "out.mp4", *arguments)
    assert (status, out) == (2, "")
    assert re.search(re.escape(message).replace(r"\|", "|"), err), err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_other_wrong_outputs(run, clip, tmp_path):
    (tmp_path / "file").touch()
    for output, arguments, message in (
        (clip, [], "is both the input and the output"),
        (tmp_path / "out.avi", [], "out.avi is not a known kind of output"),
        (
            tmp_path / "out.webm",
            ["--codec", "x264"],
            "out.webm is not a file for H.264; name it with .mp4 or .m4v or .mov or .mkv",
        ),
        (tmp_path / "file", [], "a file with this name already exists"),
        (tmp_path / "out", ["--tiles", "4x"], "'4x' is not ROWSxCOLUMNS"),
        (tmp_path / "out", ["--tiles", "8x8"], "8 x 8 tiles of a picture of 256 x 128 have sides of 16 pixels"),
        (tmp_path / "out", ["--codec", "libvpx"], "segments cannot hold VP8"),
        (tmp_path / "out", ["--passes", "2", "--bitrate", "1M"], "--passes 2 was given for segments"),
    ):
        status, _, err = run(clip, output, *arguments)
        assert status == 2, output
        assert message in err
        assert err.count("\n") == 1


def test_audio_that_the_file_cannot_hold_is_a_clear_error(run, clip, tmp_path):
    status, _, err = run(clip, tmp_path / "out.webm", "--codec", "vp9")
    assert status == 2
    assert ".webm files cannot hold the audio (aac); choose .mkv, or add --no-audio" in err
    ride = make_clip(tmp_path / "ride.avi", codec="pcm_mulaw")
    status, _, err = run(ride, tmp_path / "folder")
    assert (status, err.count("\n")) == (2, 1)
    assert "segments cannot hold the audio (pcm_mulaw); add --no-audio\n" in err  # nor can Matroska
    status, _, err = run(ride, tmp_path / "out.mp4", "--bitrate", "1M", "--passes", 2)  # before the first pass
    assert ".mp4 files cannot hold the audio (pcm_mulaw)" in err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ride.avi"]


def test_a_source_without_video_or_of_another_shape_is_refused(run, tmp_path):
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), format="fltp", layout="mono")
        tone.sample_rate, tone.pts = 8000, 0
        container.mux(stream.encode(tone))
        container.mux(stream.encode(None))
    square = make_clip(tmp_path / "square.mp4", (64, 64), sound=False)
    odd = tmp_path / "odd"
    odd.mkdir()
    cv2.imwrite(str(odd / "a.png"), np.zeros((65, 130, 3), np.uint8))
    for source, message in (
        (tmp_path / "none.mp4", "does not exist"),
        (sound, "cannot be opened as a video (it has no video"),
        (square, "the frame is 64 x 64"),
        (odd, "130 x 65, and video codecs need even sides; scale them: --height 64"),
    ):
        status, _, err = run(source, tmp_path / "out.mp4")
        assert status == 2, source
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "out.mp4").exists()


def test_a_file_that_cannot_be_written_whole_is_an_error_of_one_line(run, clip, tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))  # Python ignores the signal, so that writing fails
        status, out, err = run(clip, tmp_path / "out.mp4", "--preset", "ultrafast", "--quality", 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (status, out) == (2, "")
    assert "not all of the file could be written" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_and_leaves_nothing(run, clip, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sal360.cli.encode.VideoFile.write", full)
    status, _, err = run(clip, tmp_path / "out.mp4")
    assert status == 2
    assert "the disk is full" in err
    assert not list(tmp_path.iterdir())


def test_a_cut_video_is_encoded_as_far_as_it_goes_and_gives_status_2(run, clip, tmp_path):
    cut = tmp_path / "cut.mkv"
    with av.open(str(clip)) as source, av.open(str(cut), "w") as target:
        video = source.streams.video[0]
        stream = target.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    status, out, err = run(cut, tmp_path / "out.mp4", "--preset", "ultrafast")
    assert status == 2
    assert "is cut off after" in err
    assert 0 < len(frames_of(tmp_path / "out.mp4")) < FRAMES
    assert "frames" in out

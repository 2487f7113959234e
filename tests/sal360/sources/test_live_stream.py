"""Live streams on loopback, made by FFmpeg: received, cut, restarted, changed, refused."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av")

from sal360.errors import DataError, ParameterError  # noqa: E402
from sal360.sources import open_source  # noqa: E402
from sal360.sources.frame import Frame  # noqa: E402
from sal360.sources.live_stream import LiveStream, StreamSettings  # noqa: E402
from sal360.sources.stream_address import StreamAddress, stream_address  # noqa: E402
from tests.live_streams import (  # noqa: E402
    KINDS,
    Answers,
    Log,
    Restartable,
    Sender,
    Start,
    free_port,
    http_server,
    restartable,
    wait_for,
)


@pytest.fixture(autouse=True)
def no_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own ~/.netrc does not matter."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def require_protocol(url: str) -> None:
    """Skip the test where FFmpeg was built without the protocol."""
    try:
        av.open(url, timeout=0.1).close()
    except av.error.ProtocolNotFoundError:
        pytest.skip(f"this FFmpeg has no protocol for {url}")
    except (av.FFmpegError, OSError):
        pass


@pytest.fixture(params=KINDS)
def sender(request: pytest.FixtureRequest, tmp_path: Path) -> Restartable:
    """A stream that can be started again and again."""
    stream = restartable(request.param, tmp_path)
    require_protocol(stream.url)
    return stream


def opened(url: str, log: Log, **options: Any) -> LiveStream:
    address = stream_address(url)
    assert address is not None
    return LiveStream(address, log=log, **options)


def taken(stream: LiveStream, count: int, width: int) -> list[Frame]:
    """The next frames of this width; others are left out."""
    frames: list[Frame] = []

    def has_enough() -> bool:
        frame = stream.take(0.1)
        if frame is not None and frame.image.shape[1] == width:
            frames.append(frame)
        return len(frames) >= count

    wait_for(has_enough, f"{count} frames of {width} columns")
    return frames


def test_a_stream_that_is_cut_and_restarted_in_another_size_is_back(sender: Restartable) -> None:
    start, log = sender.start, Log()
    with opened(sender.url, log, settings=StreamSettings(options=sender.options)) as stream:
        with start(size=(128, 64), grey=60):
            first = taken(stream, 5, 128)
        wait_for(lambda: any("waiting until it is back" in line for line in log.warnings), "the loss")
        with start(size=(256, 128), grey=200):
            second = taken(stream, 5, 256)
            warnings = list(log.warnings)  # the end of this sender is a second loss
    assert abs(first[-1].image.mean() - 60) < 4
    assert abs(second[-1].image.mean() - 200) < 4
    stamps_s = [frame.stamp_s for frame in first + second]
    assert stamps_s == sorted(set(stamps_s))
    assert abs(stamps_s[-1] - time.time()) < 3600
    names = [frame.name for frame in first + second]
    assert len(set(names)) == len(names)
    assert sum("waiting until it is back" in line for line in warnings) == 1
    assert sum("is back after" in line for line in log.infos) == 1
    assert any("sends 128 x 64" in line for line in log.infos)
    assert any("sends 256 x 128" in line for line in log.infos)
    assert "geheim" not in " ".join(log.infos + log.warnings)


@pytest.fixture
def udp() -> tuple[str, Start]:
    """A UDP stream."""
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    require_protocol(url)
    return url, lambda **form: Sender(f"{url}?pkt_size=1316", "mpegts", **form)


def test_a_size_that_changes_without_a_pause_is_no_loss(udp: tuple[str, Start]) -> None:
    url, start = udp
    log = Log()
    with opened(url, log, settings=StreamSettings(timeout_s=20.0)) as stream:
        with start(size=(128, 64)):
            taken(stream, 3, 128)
        with start(size=(64, 32)):
            taken(stream, 3, 64)
    assert any("changed from 128 x 64 to 64 x 32" in line for line in log.infos)
    assert not any("until it is back" in line for line in log.warnings)


def test_the_newest_frame_is_taken_however_many_came_before(udp: tuple[str, Start]) -> None:
    url, start = udp
    arrivals: list[None] = []
    # by a clock that stands still, stamps count the frames: each is a microsecond later than the one before
    stream = opened(url, Log(), now_ns=lambda: 1000 * 10**9, on_frame=lambda: arrivals.append(None))
    with start(), stream:
        wait_for(lambda: len(arrivals) >= 8, "frames")
        frame = stream.take()
    assert frame is not None
    assert round((frame.stamp_s - 1000) * 1e6) >= 7


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
@pytest.mark.parametrize("login", ["", "admin:geheim@"])
def test_a_stream_that_asks_for_a_password_gives_one_line(scheme: str, login: str) -> None:
    protocol = "RTSP/1.0" if scheme == "rtsp" else "HTTP/1.1"
    answer = (
        f'{protocol} 401 Unauthorized\r\nCSeq: @\r\nContent-Length: 0\r\nWWW-Authenticate: Basic realm="cam"\r\n\r\n'
    )
    log = Log()
    with Answers(answer.encode()) as server, opened(f"{scheme}://{login}127.0.0.1:{server.port}/live", log) as stream:
        with pytest.raises(DataError) as caught:
            list(stream.frames())
        count = len(server.requests)
        with pytest.raises(DataError):
            stream.take()
        assert len(server.requests) == count < 8  # the account is not locked by attempts
    line = str(caught.value)
    assert "\n" not in line
    assert "geheim" not in line
    if login:
        assert "refuses the user name and password; correct them" in line
    else:
        assert f"asks for a user name and password; write {scheme}://USER:PASSWORD@HOST/…" in line


def trouble(url: str, log: Log, **options: Any) -> str:
    """The line about a stream that cannot be received."""
    with opened(url, log, **options) as stream:

        def has_line() -> bool:
            assert stream.take(0.05) is None
            return bool(log.warnings)

        wait_for(has_line, "a line")
    assert len(log.warnings) == 1
    return log.warnings[0]


def test_a_server_that_is_not_there_is_waited_for_and_given_up_in_the_end() -> None:
    url = f"rtsp://127.0.0.1:{free_port()}/live"
    line = trouble(url, Log())
    assert (
        line
        == f"{url} refuses connections; start the camera or server, or correct the port; waiting for its first frame"
    )
    with opened(url, Log(), patience_s=0.5) as stream, pytest.raises(DataError, match="refuses connections"):
        list(stream.frames())


def test_a_server_that_says_nothing_does_not_block_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sal360.sources.live_stream._OPEN_S", 0.3)
    settings = StreamSettings(timeout_s=0.2)
    with Answers(b"") as server:
        for scheme in ("rtsp", "http"):
            line = trouble(f"{scheme}://127.0.0.1:{server.port}/live", Log(), settings=settings)
            assert "sent nothing for 0." in line


def test_a_protocol_that_ffmpeg_lacks_is_named_at_once() -> None:
    address = StreamAddress("nope://host/live", "nope://host/live", "nope", "host")
    with LiveStream(address, log=Log()) as stream, pytest.raises(DataError, match="has no protocol nope; forward the"):
        list(stream.frames())


def test_a_stream_without_video_is_reported() -> None:
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    require_protocol(url)
    with Sender(f"{url}?pkt_size=1316", "mpegts", audio=True):
        assert f"{url} has no video; choose a stream with video" in trouble(url, Log())


def test_a_page_that_is_no_stream_is_reported() -> None:
    with Answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") as server:
        assert "sends nothing that FFmpeg can decode" in trouble(f"http://127.0.0.1:{server.port}/live", Log())


def test_a_device_that_is_not_there_is_waited_for() -> None:
    line = trouble("/dev/video98", Log())
    assert line.startswith("/dev/video98 ")
    if "does not exist" not in line:
        pytest.skip(f"this FFmpeg has no Video4Linux: {line}")
    assert "ls /dev/video*" in line


def test_frames_with_too_many_pixels_are_refused(udp: tuple[str, Start]) -> None:
    url, start = udp
    with start(size=(128, 64)):
        line = trouble(url, Log(), max_pixels=128 * 64 - 1)
    assert f"the frames of {url} are 128 x 64, more than 8191 pixels; reduce them at the sender" in line


@pytest.mark.parametrize("hardware", ["d3d11va", "videotoolbox"])
def test_without_the_hardware_the_cpu_decodes_and_one_line_says_so(udp: tuple[str, Start], hardware: str) -> None:
    url, start = udp
    log = Log()
    with start(), opened(url, log, settings=StreamSettings(hardware=hardware)) as stream:
        taken(stream, 2, 128)
    if not log.warnings:
        pytest.skip(f"{hardware} works here")
    assert [line for line in log.warnings if "CPU" in line] == log.warnings
    assert len(log.warnings) == 1


@pytest.mark.parametrize("options", ["rtsp_transport", "=udp", "a=b,c"])
def test_malformed_options_are_refused(options: str) -> None:
    with pytest.raises(ParameterError, match="write NAME=VALUE,NAME=VALUE"):
        opened("rtsp://host/live", Log(), settings=StreamSettings(options=options))


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[str]:
    """The address of a video of twelve frames on a web server."""
    with av.open(str(tmp_path / "clip.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for index in range(12):
            picture = np.full((64, 128, 3), 20 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
    with http_server(tmp_path) as port:
        yield f"http://127.0.0.1:{port}/clip.mp4"


def test_a_recording_on_a_server_gives_every_frame_and_ends(recording: str) -> None:
    greys = [frame.image.mean() for frame in open_source(recording)]
    np.testing.assert_allclose(greys, 20 * np.arange(12), atol=4)


def test_a_recording_can_be_repeated(recording: str) -> None:
    frames = open_source(recording, loop=True, height_px=32)
    assert [next(frames).image.shape[0] for _ in range(30)] == [32] * 30
    frames.close()


def test_closing_does_not_wait_for_a_stream_that_is_silent(
    udp: tuple[str, Start], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sal360.sources.live_stream._OPEN_S", 2.0)
    url, _ = udp
    stream = opened(url, Log())
    stream.start()
    assert stream.take(0.05) is None
    stream.close()
    wait_for(lambda: not stream._thread.is_alive(), "the end of the thread")

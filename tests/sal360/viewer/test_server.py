"""The server: what a page gets, who may look, and that no viewer holds up another or the one who publishes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sal360.cli import main
from sal360.errors import ParameterError
from sal360.viewer.scene import Scene

from .conftest import make_scene, noise_scene

aiohttp = pytest.importorskip("aiohttp")

from sal360.viewer import server as server_module  # noqa: E402 (needs aiohttp)
from sal360.viewer.server import Address, SeenView, ViewerServer  # noqa: E402

ANY_PORT = Address(port=0)


def unpacked(message: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<I", message)
    header = json.loads(message[4 : 4 + length])
    offset = 4 + length
    for part in header["parts"]:
        header[part["name"]] = {**part, "data": message[offset : offset + part["bytes"]]}
        offset += part["bytes"]
    assert offset == len(message)
    return header


class Page:
    """What the page does, without a browser."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def say(self, **message: Any) -> None:
        await self._connection.send_json(message)

    async def text(self) -> dict[str, Any]:
        return json.loads((await self._connection.receive(timeout=20)).data)

    async def frame(self) -> dict[str, Any]:
        while True:
            message = await self._connection.receive(timeout=20)
            if message.type is aiohttp.WSMsgType.BINARY:
                return unpacked(message.data)
            assert message.type is aiohttp.WSMsgType.TEXT, message


def with_page(server: ViewerServer, use: Callable[[Page], Awaitable[None]], pages: int = 1) -> None:
    """Connect pages, and run `use` with them."""

    async def connected() -> None:
        async with aiohttp.ClientSession() as session:
            address = server.url.replace("/?", "/socket?") if "?" in server.url else server.url + "socket"
            connections = [await session.ws_connect(address, max_msg_size=1 << 26) for _ in range(pages)]
            await use(*[Page(each) for each in connections])
            for each in connections:
                await each.close()

    asyncio.run(connected())


def get(url: str, **headers: str) -> tuple[int, str, Any]:
    async def got() -> tuple[int, str, Any]:
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            return answer.status, await answer.text(), answer.headers

    return asyncio.run(got())


def close_code(url: str, **headers: str) -> int | None:
    async def got() -> int | None:
        async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as connection:
            message = await connection.receive(timeout=20)
            if message.type is aiohttp.WSMsgType.TEXT:
                return None
            return connection.close_code

    return asyncio.run(got())


def test_the_page_is_served_with_a_policy_that_forbids_other_sources() -> None:
    with ViewerServer("demo", ANY_PORT) as server:
        status, text, headers = get(server.url)
        assert status == 200
        assert "</html>" in text
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert get(server.url + "other")[0] == 404


def test_picture_map_and_grid_of_one_frame_arrive_in_one_message() -> None:
    scene = make_scene(12.5, 7)

    async def use(page: Page) -> None:
        assert (await page.text())["about"] == {"source": "demo"}
        await page.say(grid="shading_rate")
        await page.say(want=1)
        frame = await page.frame()
        assert (frame["sequence"], frame["stamp_s"], frame["name"]) == (7, 12.5, "scene_7")
        assert frame["picture"]["data"] == scene.jpeg()
        values = np.frombuffer(frame["map"]["data"], np.uint8)
        assert np.allclose(
            values * frame["map"]["scale"] / 255, scene.density.ravel(), atol=frame["map"]["scale"] / 509
        )
        assert (frame["shading_rate"]["rows"], frame["shading_rate"]["columns"]) == (16, 32)

    with ViewerServer("demo", ANY_PORT) as server:
        server.publish(scene)
        with_page(server, use)


def test_a_page_gets_the_newest_frame_and_only_as_many_as_it_asks_for() -> None:
    async def use(page: Page) -> None:
        await page.say(want=1)
        assert (await page.frame())["sequence"] == 1
        for sequence in range(2, 30):
            server.publish(make_scene(float(sequence), sequence, height=32))
        await page.say(ping=5)
        answer = await page.text()  # nothing was sent before it that was not asked for
        while "pong" not in answer:
            answer = await page.text()
        assert answer["pong"] == 5
        await page.say(want=1)
        assert (await page.frame())["sequence"] == 29

    with ViewerServer("demo", ANY_PORT) as server:
        server.publish(make_scene(height=32))
        with_page(server, use)


def test_a_viewer_that_never_reads_delays_neither_the_publisher_nor_another_viewer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "_SEND_TIMEOUT_S", 0.5)
    scenes = [noise_scene(number) for number in range(1, 5)]

    want = b'{"want": 4}'
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def ask() -> None:
        with contextlib.suppress(OSError):  # it was disconnected
            client.sendall(bytes([0x81, 0x80 | len(want), 0, 0, 0, 0]) + want)  # masked with zeros

    def connect(port: int) -> None:
        """A client that asks for frames again and again, and reads none."""
        client.connect(("127.0.0.1", port))
        lines = ["GET /socket HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "", ""]
        client.sendall("\r\n".join(lines).encode())

    async def use(page: Page) -> None:
        for number in range(1, 2000):
            scene = scenes[number % 4]
            server.publish(make_scene(float(number), number, picture=scene.picture))
            ask()
            await page.say(want=1)
            assert (await page.frame())["sequence"] == number
            if "has read nothing" in caplog.text:
                return
        raise AssertionError("the silent viewer stays connected")

    with caplog.at_level(logging.WARNING), ViewerServer("demo", ANY_PORT) as server:
        connect(int(server.url.split(":")[2].strip("/")))
        with_page(server, use)
        client.close()
    assert "disconnected viewer" in caplog.text


def test_publishing_costs_nothing_while_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scene, "jpeg", lambda *_: pytest.fail("encoded for nobody"))
    with ViewerServer("demo", ANY_PORT) as server:
        for number in range(1, 50):
            server.publish(make_scene(float(number), number, height=32))


def test_lines_about_the_source_reach_every_page() -> None:
    async def use(first: Page, second: Page) -> None:
        for page in (first, second):
            assert (await page.text())["trouble"] == "the stream was lost"
        server.say("")
        for page in (first, second):
            assert (await page.text()) == {"trouble": ""}

    with ViewerServer("demo", ANY_PORT) as server:
        server.say("the stream was lost")
        with_page(server, use, pages=2)


def test_views_reach_the_publisher() -> None:
    seen: list[SeenView] = []

    async def use(page: Page) -> None:
        await page.say(view={"quaternion": [0, 0, 0.6, 0.8], "fov_deg": 80, "is_head": True, "stamp_s": 1.5})
        await page.say(ping=1)
        while "pong" not in await page.text():
            pass

    with ViewerServer("demo", ANY_PORT, on_view=seen.append) as server:
        with_page(server, use)
    assert seen == [SeenView(1, (0.0, 0.0, 0.6, 0.8), 80.0, True, 1.5)]


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[1]",
        '{"delete": 1}',
        '{"want": null}',
        '{"hello": 3}',
        '{"view": {"quaternion": [0, 0, 0, 0], "fov_deg": 80, "is_head": false, "stamp_s": 1}}',
        '{"view": {"quaternion": [0, 0, 0, NaN], "fov_deg": 80, "is_head": false, "stamp_s": 1}}',
        '{"ping": ' + "[" * 2000 + "]" * 2000 + "}",
        '{"ping": "' + "x" * 5000 + '"}',
    ],
    ids=lambda text: text[:24],
)
def test_a_malformed_message_ends_only_its_own_connection(text: str) -> None:
    async def use(good: Page, bad: Page) -> None:
        await bad._connection.send_str(text)
        while (message := await bad._connection.receive(timeout=20)).type is aiohttp.WSMsgType.TEXT:
            assert "pong" not in message.data
        assert bad._connection.close_code in (4400, 1009)
        await good.say(want=1)
        assert (await good.frame())["sequence"] == 1

    with ViewerServer("demo", ANY_PORT) as server:
        server.publish(make_scene(height=32))
        with_page(server, use, pages=2)


def test_there_is_a_limit_of_viewers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_VIEWERS", 1)

    async def use(first: Page, second: Page) -> None:
        assert "about" in await first.text()
        assert (await second.text())["trouble"] == "There are 1 viewers already; close one of them."

    with ViewerServer("demo", ANY_PORT) as server:
        with_page(server, use, pages=2)


def test_other_machines_need_the_token() -> None:
    with ViewerServer("demo", Address("0.0.0.0", 0)) as server:
        port, token = server.url.split(":")[2].split("/?token=")
        assert len(token) >= 20
        here = f"http://127.0.0.1:{port}/"
        assert get(f"{here}?token={token}")[0] == 200
        for wrong in ("", "?token=", "?token=x", f"?token={token}x", "?token=%C3%A9"):
            assert get(here + wrong)[0] == 403, wrong
            assert close_code(f"{here}socket{wrong}") == 4401, wrong
        assert close_code(f"{here}socket?token={token}") is None


def test_pages_of_other_servers_and_foreign_names_are_refused() -> None:
    with ViewerServer("demo", ANY_PORT) as server:
        assert close_code(server.url + "socket", Origin="http://elsewhere.example") == 4401
        assert close_code(server.url + "socket", Origin=server.url.rstrip("/")) is None
        assert get(server.url, Host="rebound.example")[0] == 403
        assert get(server.url, Host="localhost:1")[0] == 200


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path) -> None:
    with ViewerServer("demo", ANY_PORT) as server:
        port = int(server.url.split(":")[2].strip("/"))
        with pytest.raises(ParameterError, match="is in use"):
            ViewerServer("other", Address(port=port))
        import cv2

        cv2.imwrite(str(tmp_path / "one.png"), make_scene().picture)
        assert main(["view", str(tmp_path / "one.png"), "--port", str(port), "--model", str(tiny_model)]) == 2
    said = f"error: port {port} of 127.0.0.1 is in use; choose another with --port, or end the other program\n"
    assert capsys.readouterr().err == said


def test_a_server_can_be_restarted_on_its_port_at_once() -> None:
    async def use(page: Page) -> None:
        await page.say(want=1)
        assert (await page.frame())["sequence"] == 1

    with ViewerServer("demo", ANY_PORT) as server:
        server.publish(make_scene(height=32))
        with_page(server, use)
        port = int(server.url.split(":")[2].strip("/"))
    with ViewerServer("demo", Address(port=port)) as server:
        server.publish(make_scene(height=32))
        with_page(server, use)


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(ParameterError, match=r"are not a certificate and its key; give PEM files"):
        ViewerServer("demo", Address(port=0, certificate=tmp_path / "text.pem", key=tmp_path / "text.pem"))
    with pytest.raises(ParameterError, match=r"none\.pem does not exist"):
        ViewerServer("demo", Address(port=0, certificate=tmp_path / "none.pem", key=tmp_path / "text.pem"))


def test_view_serves_a_picture_and_records_where_viewers_look(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    picture, table = tmp_path / "one.png", tmp_path / "views.csv"
    cv2.imwrite(str(picture), make_scene().picture)
    urls: list[str] = []
    start = ViewerServer.start

    def started(server: ViewerServer) -> None:
        start(server)
        urls.append(server.url)

    monkeypatch.setattr(ViewerServer, "start", started)

    async def use(page: Page) -> None:
        await page.say(want=1)
        frame = await page.frame()
        for azimuth in (0.0, 1.0):
            half = azimuth / 2
            view = {"quaternion": [0, 0, np.sin(half), np.cos(half)], "fov_deg": 90, "is_head": False}
            await page.say(view={**view, "stamp_s": frame["stamp_s"]})
        await page.say(ping=1)
        while "pong" not in await page.text():
            pass

    import threading

    def look() -> None:
        while not urls:
            time.sleep(0.01)

        class At:
            url = urls[0]

        with_page(At, use)  # type: ignore[arg-type]

    looking = threading.Thread(target=look)
    looking.start()
    command = ["view", str(picture), "--port=0", "--views", str(table), "--seconds=4", "--model", str(tiny_model)]
    assert main(command) == 0
    looking.join()
    lines = table.read_text().splitlines()
    assert lines[0] == "time_s,stamp_s,viewer,head,azimuth_deg,elevation_deg,density,target_deg"
    assert [line.split(",")[4] for line in lines[1:]] == ["0.00", "57.30"]
    out = capsys.readouterr().out
    assert out.startswith("open http://127.0.0.1:")
    assert "2 views: mean density " in out


@pytest.mark.parametrize("codec", ["avc1.42E033", "vp09.00.51.08"])
def test_each_picture_of_a_video_is_one_that_a_decoder_shows_at_once(codec: str) -> None:
    av = pytest.importorskip("av")
    from sal360.viewer.picture_stream import PictureStream

    stream = PictureStream.for_codecs(["hvc1.1.6.L93", codec])
    decoder = av.CodecContext.create({"avc1": "h264", "vp09": "vp9"}[codec[:4]], "r")
    decoder.thread_count = 1  # further threads delay frames
    for number, height in ((1, 128), (2, 128), (3, 64)):  # the last one begins a stream of another size
        scene = make_scene(float(number), number, height=height)
        about, data = stream.encode(scene)
        assert (about["type"], about["key"]) == (codec, number != 2)
        assert (about["width"], about["height"]) == (2 * height, height)
        shown = decoder.decode(av.Packet(data))
        if not shown and codec.startswith("avc1"):  # FFmpeg's own decoder waits for the next picture
            shown = decoder.decode(None)
            decoder.flush_buffers()
        assert len(shown) == 1
        picture = shown[0].to_ndarray(format="bgr24")
        assert np.abs(picture.astype(int) - scene.picture).mean() < 6
    stream.close()


def test_a_picture_that_is_encoded_after_the_viewer_left_opens_no_encoder_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("av")
    from sal360.viewer import picture_stream

    opened: list[weakref.ref[Any]] = []
    encode = picture_stream._Encoder.encode
    stream = picture_stream.VideoStream("avc1.42E033")

    def encode_while_it_leaves(self: Any, *arguments: Any) -> Any:
        opened.append(weakref.ref(self))
        stream.close()  # as the server's thread would
        return encode(self, *arguments)

    monkeypatch.setattr(picture_stream._Encoder, "encode", encode_while_it_leaves)
    gc.disable()  # memory must not wait for it
    try:
        assert stream.encode(make_scene(1.0, 1))[0] == {"type": "image/jpeg"}
        assert stream.encode(make_scene(2.0, 2))[0] == {"type": "image/jpeg"}
        assert [each() for each in opened] == [None]
    finally:
        gc.enable()


_VIEWERS_COME_AND_GO = """
import asyncio
import aiohttp
import numpy as np
import psutil
from sal360.viewer.scene import Scene
from sal360.viewer.server import Address, ViewerServer

async def watch(url):
    async with aiohttp.ClientSession() as session, session.ws_connect(url + "socket", max_msg_size=0) as connection:
        await connection.send_json({"hello": {"codecs": ["vp09.00.51.08"]}, "want": 1})
        while (await connection.receive(timeout=30)).type is not aiohttp.WSMsgType.BINARY:
            pass

async def two_watch(url):
    await asyncio.gather(watch(url), watch(url))

picture = np.random.default_rng(0).integers(0, 256, (512, 1024, 3), np.uint8)
scene = Scene("x", 0.0, picture, np.ones((32, 64), np.float32), sequence=1)
for _ in range(4):
    with ViewerServer("x", Address(port=0), pictures="video") as server:
        server.publish(scene)
        asyncio.run(two_watch(server.url))
    print(psutil.Process().memory_info().rss / 2**20)
"""


def test_viewers_that_come_and_go_and_new_servers_let_no_process_grow() -> None:
    pytest.importorskip("av")
    pytest.importorskip("psutil")
    # in a process of its own, whose heap holds nothing else
    result = subprocess.run(
        [sys.executable, "-c", _VIEWERS_COME_AND_GO], capture_output=True, text=True, check=True, timeout=120
    )
    first, *others = map(float, result.stdout.split())
    assert max(others) < first + 30  # an encoder has 65 MB, and each server had two


@pytest.mark.parametrize("codec", ["avc1.42E033", "vp09.00.51.08"])
def test_video_is_better_where_the_map_is_dense(codec: str) -> None:
    av = pytest.importorskip("av")
    from sal360.encoding.probe import luma
    from sal360.viewer.picture_stream import PictureStream

    # fresh detail in each frame, because encoders copy what only moves; grey, because luma is compared
    generator = np.random.default_rng(1)
    details = [cv2.GaussianBlur(generator.normal(0, 150, (256, 512)), (0, 0), 1.5) for _ in range(4)]
    pictures = [np.repeat((128 + each).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2) for each in details]
    peaked = np.full((32, 64), 0.05, np.float32)
    peaked[12:20, 8:24] = 8.0  # to the left of the middle

    def error(density: np.ndarray) -> float:
        """Of luma where the map has its peak, without the first frame, in which VP9 ignores regions."""
        stream = PictureStream.for_codecs([codec])
        decoder = av.CodecContext.create({"avc1": "h264", "vp09": "vp9"}[codec[:4]], "r")
        shown = []
        for number, picture in enumerate(pictures, 1):
            _, data = stream.encode(make_scene(float(number), number, picture=picture, density=density))
            shown += decoder.decode(av.Packet(data))
        shown += decoder.decode(None)
        wanted = [16 + picture[..., 0] * (219 / 255) for picture in pictures]  # luma of video
        errors = [np.abs(luma(each) - right) for each, right in zip(shown, wanted, strict=True)]
        return float(np.mean(errors[1:], axis=0)[112:144, 80:176].mean())

    assert error(peaked) < 0.85 * error(np.ones((32, 64), np.float32))


def test_the_encoders_of_the_viewer_obey_regions() -> None:
    pytest.importorskip("av")
    from sal360.encoding.probe import require_obedience
    from sal360.viewer.picture_stream import ENCODERS

    assert all(require_obedience(settings).obeys for settings in ENCODERS.values())

"""Which texts are streams, and what is shown of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sal360.errors import DataError
from sal360.sources.stream_address import StreamAddress, masked, stream_address


@pytest.fixture(autouse=True)
def no_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ~/.netrc of the test, which does not exist yet."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def address(text: str) -> StreamAddress:
    found = stream_address(text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "name"),
    [
        ("rtsp://camera.local/live/main", "rtsp", "camera.local", 554, "camera.local_live_main"),
        ("RTSP://10.0.0.5:8554/", "rtsp", "10.0.0.5", 8554, "10.0.0.5_8554"),
        ("rtmp://[::1]/app/key", "rtmp", "::1", 1935, "1_app_key"),
        ("udp://@239.0.0.1:1234", "udp", "239.0.0.1", 0, "239.0.0.1_1234"),
        ("udp://:5000", "udp", "", 0, "5000"),
        ("srt://host:9000?mode=caller", "srt", "host", 0, "host_9000"),
        ("https://example.org/a/live.m3u8?token=1", "https", "example.org", 443, "example.org_a_live"),
        ("/dev/video0", "", "", 0, "video0"),
    ],
)
def test_streams_are_recognised(text: str, scheme: str, host: str, port: int, name: str) -> None:
    found = address(text)
    assert (found.scheme, found.host, found.port, found.name) == (scheme, host, port, name)
    assert found.is_device == text.startswith("/dev")


@pytest.mark.parametrize("text", ["picture.jpg", "folder/", "/dev/null", "C:/videos/a.mp4", "", "a b.mp4"])
def test_files_are_no_streams(text: str) -> None:
    assert stream_address(text) is None


def test_a_path_that_pathlib_made_of_an_address_is_still_one() -> None:
    assert address(str(Path("rtsp://u:p@host/live"))) == address("rtsp://u:p@host/live")


def test_a_file_whose_name_looks_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rtsp:").mkdir()
    (tmp_path / "rtsp:" / "a.mp4").touch()
    assert stream_address("rtsp:/a.mp4") is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:geheim@host/live", "rtsp://***@host/live"),
        ("rtsp://admin:ge@heim@host:554/live", "rtsp://***@host:554/live"),
        ("https://host/live.m3u8?user=admin&pwd=geheim", "https://host/live.m3u8?…"),
        ("srt://host:9000?passphrase=geheim", "srt://host:9000?…"),
        ("rtsp://host/user=admin_password=geheim_channel=1", "rtsp://host/user=admin_password=***"),
        ("http://host/a;token=geheim/b", "http://host/a;token=***/b"),
        ("http://host/a#geheim", "http://host/a"),
    ],
)
def test_no_secret_is_shown(text: str, shown: str) -> None:
    found = address(text)
    assert found.shown == shown
    assert found.url == text
    for told in (repr(found), found.name, masked(f"Errno 5: '{text}' failed")):
        assert "geheim" not in told
        assert "heim@" not in told


@pytest.mark.parametrize("secret", ["ge/heim", "ge?heim", "ge#heim"])
def test_a_password_that_must_be_escaped_is_not_shown_and_the_remedy_is_named(secret: str) -> None:
    with pytest.raises(DataError, match="%2F") as caught:
        stream_address(f"rtsp://admin:{secret}@host/live")
    assert "heim" not in str(caught.value)
    assert address("rtsp://admin:ge%2Fheim@host/live").host == "host"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ftp://host/a.mp4", "ftp://host/a.mp4 is no address of a stream; expected rtsp://HOST/PATH"),
        ("rtps://admin:geheim@host/a", r"rtps://\*\*\*@host/a is no address of a stream"),
        ("rtsp://host:99999/a", "has the port 99999; expected 1 to 65535"),
        ("rtsp://host:port/a", "has no valid host and port; correct it"),
        ("rtsp:///a", "has no host"),
    ],
)
def test_what_is_no_address_gives_one_line(text: str, found: str) -> None:
    with pytest.raises(DataError, match=found) as caught:
        stream_address(text)
    assert "geheim" not in str(caught.value)


def test_the_login_comes_from_netrc_unless_the_address_has_one(no_logins: Path) -> None:
    no_logins.write_text("machine host login admin password ge@h/eim\ndefault login anyone password other\n")
    found = address("rtsp://host/live")
    assert found.url == "rtsp://admin:ge%40h%2Feim@host/live"
    assert found.has_login
    assert found.shown == "rtsp://host/live"
    assert address("rtsp://u:p@host/live").url == "rtsp://u:p@host/live"
    assert not address("rtsp://elsewhere/live").has_login  # the default entry is not for everybody
    assert not address("udp://host:1").has_login


def test_a_malformed_netrc_gives_one_line_without_its_content(no_logins: Path) -> None:
    no_logins.write_text("machine host login admin geheim\n")
    with pytest.raises(DataError, match="netrc is malformed") as caught:
        stream_address("rtsp://host/live")
    assert "geheim" not in str(caught.value)

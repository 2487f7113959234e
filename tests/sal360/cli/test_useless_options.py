"""Options without effect are refused, by the tables of the commands."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest

from sal360.cli import encode, evaluate, main, predict, view
from sal360.cli.options import Useless

RIDE, SHARDS = "ride.mp4", "shard.tar"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs that exist, and cannot be read: the tables come first."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", RIDE, SHARDS):
        Path(name).touch()
    Path("folder").mkdir()
    Path("folder", "a.png").touch()


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        *(
            (f"encode ride.mp4 map.txt --map-for kvazaar {option}", f"{option.split()[0]} was given with --map-for")
            for option in (
                *("--codec x264", "--preset fast", "--bitrate 5M", "--quality 20", "--passes 1", "--codec-options g=1"),
                *("--segment-s 4", "--resume", "--tiles 2x2", "--rungs 3", "--report", "--report-frames 2"),
                *("--no-audio", "--block-px 16"),
            )
        ),
        ("encode ride.mp4 out.mp4 --rungs 2", "--rungs was given for a file; name a folder as the output"),
        ("encode ride.mp4 out.mp4 --segment-s 4", "--segment-s was given for a file; name a folder as the output"),
        ("encode ride.mp4 out --rungs 3", "--rungs was given without --tiles; add --tiles"),
        ("encode ride.mp4 out --tiles 2x2 --strength 1", "--strength was given with --tiles, whose bits follow"),
        ("encode ride.mp4 out --tiles 2x2 --report", "--report was given with --tiles; remove one of them"),
        ("encode ride.mp4 out.mp4 --report-frames 9", "--report-frames was given without --report; add --report"),
        ("encode rtsp://127.0.0.1/x out --rate 30", "--rate was given for a live stream, which has its own rate"),
        ("encode ride.mp4 out.mp4 --seconds 9", "--seconds was given without a live stream; remove it"),
        ("encode ride.mp4 out.mp4 --hardware none", "--hardware was given without a live stream; remove it"),
        ("encode ride.mp4 out.mp4 --topic /image", "--topic was given without a bag; remove it"),
        ("view a.png --static x.html --port 80", "--port was given with --static, which needs no server"),
        ("view folder --static x.html --hold 3", "--hold was given with --static"),
        ("view a.png --view fov=60", "--view was given without --static; add --static, or put the view into"),
        ("view a.png --map m.npy --threads 2", "--threads was given with --map, which replaces the prediction"),
        ("view a.png --wait 2", "--wait was given without a live stream"),
        ("view ride.mp4 --hold 2", "--hold was given without a folder of pictures"),
        ("view a.png --once", "--once was given for one picture"),
        ("view folder --topic /image", "--topic was given without a bag"),
        ("predict a.png --maps npz", "--maps was given without a video or live stream; remove it: pictures get .npy"),
        ("predict a.png --seconds 2", "--seconds was given without a live stream"),
        ("predict a.png --no-overlays --full-scale 4", "--full-scale was given with --no-overlays; remove one"),
        ("predict a.png --no-overlays --maps video --full-scale 4", "--maps was given without a video"),
        ("predict ride.mp4 --maps video --maps-type float16", "--maps-type was given with --maps video, whose"),
        ("predict a.png --ray --html", "--html was given with --ray; leave it out"),
        ("predict a.png --ray --seconds 2", "--seconds was given with --ray; leave it out"),
        ("predict a.png --ray --wait 2", "--wait was given with --ray"),
        ("evaluate ride.mp4 --rate 1", "--rate was given without --live; remove it, or add --live"),
        ("evaluate ride.mp4 --protocol both", "--protocol was given without --ground-truth; remove it, or name"),
    ],
)
@pytest.mark.usefixtures("here")
def test_an_option_without_effect_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], command: str, refused: str
) -> None:
    assert main(shlex.split(command)) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {refused}"), output.err
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert not Path("out").exists()


def test_a_video_has_its_own_rate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "ride.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height = 64, 32
        container.mux(stream.encode(av.VideoFrame(64, 32, "yuv420p")))
        container.mux(stream.encode(None))
    assert main(["encode", str(path), str(tmp_path / "out.mp4"), "--rate", "30"]) == 2
    assert "--rate was given for a video, which has its own rate; remove it" in capsys.readouterr().err


def _rows(module: object, arguments: list[str]) -> tuple[argparse.ArgumentParser, list[Useless]]:
    parser: argparse.ArgumentParser = module._parser()  # type: ignore[attr-defined]
    options = parser.parse_args(arguments)
    if module is predict:
        return parser, [
            *predict._useless_everywhere(options),
            *predict.useless_for(options, has_video=True, is_live=True),
        ]
    return parser, module._useless(options)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("module", "arguments"),
    [(encode, ["a", "b"]), (view, ["a.png"]), (predict, ["a.png"]), (evaluate, ["a.mp4"])],
)
def test_the_tables_name_options_of_their_commands(module: object, arguments: list[str]) -> None:
    parser, rows = _rows(module, arguments)
    known = {option for action in parser._actions for option in action.option_strings}
    assert {option for row in rows for option in row.options.split()} <= known


def test_what_the_user_wrote_is_known_even_if_it_is_the_default() -> None:
    assert "--rungs" in encode._parser().parse_args(["a", "b", "--rungs", "3"]).given
    options = encode._parser().parse_args(["a"])
    assert (options.given, options.rungs, options.output) == (frozenset(), 3, None)

"""What all subcommands have in common."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sal360.cli import COMMANDS, main


def test_the_help_names_every_command_and_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for name, command in COMMANDS.items():
        assert any(line.split()[:1] == [name] and line.endswith(command.summary) for line in lines)


def test_the_include_path_has_the_header(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--include-path"]) == 0
    assert (Path(capsys.readouterr().out.rstrip("\n")) / "sal360.h").is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_and_refuses_an_unknown_option_in_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: sal360 {name} [OPTIONS] ")
    listed = said.partition("\npositional arguments:\n  ")[2].split()[0]
    assert listed.isupper()
    assert listed in said.splitlines()[0]
    assert main([name, "x", "--none-such"]) == 2
    assert capsys.readouterr().err == f"error: unrecognized arguments: --none-such; see sal360 {name} --help\n"


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("demo", "av", "replay"),
        ("evaluate", "matplotlib", "replay"),
        ("evaluate", "jinja2", "replay"),
        ("view", "aiohttp", "viewer"),
    ],
)
def test_a_module_that_is_needed_at_the_end_is_missed_at_the_start(
    command: str,
    module: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    assert main([command, "no_such_source"]) == 2
    remedy = f'pip install ".[{extra}]" in the checkout of sal360'
    assert capsys.readouterr().err == f"error: the Python module {module} is missing; {remedy}\n"
    assert list(tmp_path.iterdir()) == []


NUMBERS = {
    ("predict", "--full-scale"): "a value from 1 to 1000",
    ("predict", "--max-pixels"): "a value from 1 to 1e9",
    ("evaluate", "--max-pixels"): "a value from 1 to 1e9",
    ("evaluate", "--smoothing-time-constant-s"): "a value from 0 to 60",
    ("evaluate", "--truth-tolerance-s"): "a value from 0 to 3600",
    ("encode", "--height"): "a value from 0 to 16384",
    ("encode", "--rate"): "a value from 0.1 to 1000",
    ("encode", "--segment-s"): "a value from 0.2 to 60",
    ("view", "--hold"): "a value from 0.01 to 1e6",
    ("level", "--max-tilt"): "a value from 1 to 180",
    ("demo", "--seconds"): "a value from 0.1 to 86400",
    ("demo", "--rate"): "a value from 0.1 to 1000",
    ("demo", "--height"): "a value from 0 to 8192",
}


@pytest.mark.parametrize(("command", "option"), NUMBERS)
@pytest.mark.parametrize("value", ["-3", "nan", "inf", "9" * 30, "many"])
def test_a_number_out_of_its_range_gives_a_one_line_error_that_names_the_option(
    command: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "no_such_source", f"{option}={value}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: argument {option}: ")
    assert error.endswith(f"; see sal360 {command} --help\n")
    assert error.count("\n") == 1
    is_whole = option in ("--max-pixels", "--height")
    if value == "many" or (is_whole and value in ("nan", "inf")):
        assert f"{value!r} is not a {'whole ' if is_whole else ''}number" in error
    else:
        assert f"{value} is not {NUMBERS[command, option]}" in error


def test_an_unknown_command_gives_a_one_line_error_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predcit"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: unknown command 'predcit'; expected one of {', '.join(COMMANDS)}; see sal360 --help\n"


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_file_whose_name_begins_with_a_hyphen_can_be_named(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-night.mp4").touch()
    assert main([command, "-night.mp4"]) == 2
    assert capsys.readouterr().err.endswith("; to name the file -night.mp4, write ./-night.mp4\n")
    assert main([command, "-day.mp4"]) == 2
    assert capsys.readouterr().err.endswith(f"; see sal360 {command} --help\n")

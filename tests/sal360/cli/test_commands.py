"""What all subcommands have in common."""

from __future__ import annotations

import pytest

from sal360.cli import COMMANDS, main


def test_the_help_names_every_command_and_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for name, command in COMMANDS.items():
        assert any(line.split()[:1] == [name] and line.endswith(command.summary) for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_and_refuses_an_unknown_option_in_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: sal360 {name} [OPTIONS]")
    assert main([name, "x", "--none-such"]) == 2
    assert capsys.readouterr().err == f"error: unrecognized arguments: --none-such; see sal360 {name} --help\n"


def test_an_unknown_command_is_one_line_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predcit"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: unknown command 'predcit'; expected one of {', '.join(COMMANDS)}; see sal360 --help\n"

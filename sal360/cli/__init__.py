"""The command `sal360`: a table of subcommands, each a module with a `main(arguments)`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import sal360
from sal360.errors import ParameterError, clean_end, one_line_errors
from sal360.replay.recording import LivePlayer


class Command(NamedTuple):
    """A subcommand, whose module is imported only when it runs."""

    module: str
    """Module with `main(arguments: Sequence[str]) -> int | None`; its parser is an `options.CommandParser`."""
    summary: str
    """One line for `sal360 --help`."""


# sal360_ros is only named, not imported: the library runs without ROS 2
COMMANDS = {
    "predict": Command("sal360.cli.predict", "write the saliency maps of pictures, videos and streams"),
    "encode": Command("sal360.cli.encode", "encode a video with better quality where people look"),
    "evaluate": Command("sal360.cli.evaluate", "evaluate a recorded bag or video: accuracy, latency, flicker"),
    "view": Command("sal360.cli.view", "look at panoramas and their maps in a browser"),
    "demo": Command("sal360_ros.demo", "run a camera and the node on a ROS 2 graph and measure them"),
    "level": Command("sal360.cli.level", "find which way is up in a tilted camera's pictures"),
    "calibrate-lenses": Command("sal360.cli.calibrate_lenses", "calibrate a camera with two fisheye lenses"),
    "build-engine": Command("sal360.cli.build_engine", "build a TensorRT engine, so that the first start is fast"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand that the arguments (default: those of the process) start with.

    Returns:
        Exit status: the subcommand's own; 2 after an error, which is one line on stderr.
    """
    with clean_end():
        return one_line_errors(lambda: _run(sys.argv[1:] if arguments is None else list(arguments)))


def live_player() -> LivePlayer:
    """The function that plays a recording into the real node.

    Raises:
        ModuleNotFoundError: ROS 2 is not installed, or not sourced.
    """
    play_live: LivePlayer = importlib.import_module("sal360_ros.live_replay").play_live
    return play_live


def _run(arguments: list[str]) -> int | None:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"sal360 {sal360.__version__}")
        return 0
    if name == "--include-path":
        print(importlib.import_module("sal360.outputs.shared_memory").include_path())
        return 0
    if name not in COMMANDS:
        raise ParameterError(f"unknown command {name!r}", "see sal360 --help", expected=f"one of {', '.join(COMMANDS)}")
    command = importlib.import_module(COMMANDS[name].module)
    status: int | None = command.main(rest)
    return status


def _help() -> str:
    width = max(map(len, (*COMMANDS, "--include-path")))
    commands = "\n".join(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: sal360 COMMAND [OPTIONS]\n\n"
        "Where would people look in a 360° picture?\n\n"
        f"commands:\n{commands}\n\n"
        "options:\n"
        f"  {'--help':{width}}  show this help, or sal360 COMMAND --help for a command\n"
        f"  {'--version':{width}}  show the version\n"
        f"  {'--include-path':{width}}  show the folder of sal360.h, for a C or C++ compiler's -I"
    )

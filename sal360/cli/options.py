"""Shared by the subcommands: one style of help and errors, and the options that choose the model and its runtime."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

from sal360.cameras.settings import AUTO, CameraSettings, check_camera, parse_camera
from sal360.errors import ParameterError
from sal360.images import LARGEST_MAX_PIXELS, MAX_PIXELS
from sal360.predictor import MAX_FRONT_STRENGTH
from sal360.runtimes import BACKEND_NAMES
from sal360.runtimes.backend import PRECISIONS
from sal360.settings import Rule, Settings, flatten
from sal360.sources.live_stream import HARDWARE, StreamSettings


class CommandParser(argparse.ArgumentParser):
    """Parser of one subcommand: `--help` shows the defaults, and a wrong option is a one-line error.

    Args:
        command: the subcommand's name and positional arguments ("evaluate BAG").
        description: text above the options in `--help`; its line breaks are kept.
    """

    def __init__(self, command: str, description: str) -> None:
        name, *positional = command.split(maxsplit=1)
        super().__init__(
            prog=f"sal360 {name}",
            usage=" ".join(["%(prog)s", "[OPTIONS]", *positional]),
            description=description,
            formatter_class=_HelpFormatter,
        )
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; the result's `given` has the names of the options that the user wrote."""
        self._given = [str(each) for each in (sys.argv[1:] if args is None else args)]
        defaults = {each: each.default for each in self._actions if each.option_strings}
        for each in defaults:
            each.default = argparse.SUPPRESS
        try:
            found, others = super().parse_known_args(args, namespace)
        finally:
            for each, default in defaults.items():
                each.default = default
        written = [each for each in defaults if hasattr(found, each.dest)]
        for each, default in defaults.items():
            if default is not argparse.SUPPRESS and not hasattr(found, each.dest):
                setattr(found, each.dest, default)
        found.given = frozenset(option for each in written for option in each.option_strings)
        return found, others

    def error(self, message: str) -> NoReturn:
        """Raise the error that argparse found.

        Raises:
            ParameterError: always.
        """
        files = [each for each in self._given if each.startswith("-") and os.path.lexists(each)]
        remedy = f"to name the file {files[0]}, write ./{files[0]}" if files else f"see {self.prog} --help"
        raise ParameterError(message, remedy)


class Useless(NamedTuple):
    """Options that would have no effect, and are therefore refused; a row of a command's table."""

    where: str
    """In words that follow "was given": "for a file"."""
    is_so: bool
    """Whether the command was called like this."""
    options: str
    """Their names, separated by blanks."""
    remedy: str = "remove it"


def refuse_useless(arguments: argparse.Namespace, table: Iterable[Useless]) -> None:
    """Refuse the first option that the user wrote and that has no effect.

    Raises:
        ParameterError: there is one.
    """
    for row in table:
        for option in row.options.split() if row.is_so else ():
            if option in arguments.given:
                raise ParameterError(f"{option} was given {row.where}", row.remedy)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Appends the default to the help of each option that takes a value and has one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        is_text = action.nargs != 0 and not isinstance(action.default, Settings)
        has_default = is_text and str(action.default) not in ("None", "", "[]", argparse.SUPPRESS)
        return f"{text} (default: %(default)s)" if has_default else text


def in_range(kind: type[int] | type[float], minimum: float, maximum: float) -> Callable[[str], float]:
    """The `type` of an option that takes a number in a range; NaN is refused."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            name = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {name}") from None
        if not minimum <= value <= maximum:
            allowed = Rule(minimum=minimum, maximum=maximum).allowed
            raise argparse.ArgumentTypeError(f"{text} is not a value from {allowed}")
        return value

    return read


def as_declared(settings: Settings, name: str) -> Callable[[str], float]:
    """The `type` of an option for a numeric setting: its range is that of the setting."""
    default, rule = next((value, rule) for each, value, rule in flatten(settings) if each == name)
    assert rule.minimum is not None
    assert rule.maximum is not None
    return in_range(int if isinstance(default, int) else float, rule.minimum, rule.maximum)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options whose values `model_options` hands to a `Predictor`."""
    add = parser.add_argument_group("model").add_argument
    add(
        "--model",
        default="",
        metavar="FILE",
        help='model file, or "permissive" (default: the bundled model of all data sets)',
    )
    add("--backend", choices=BACKEND_NAMES, default="auto", help="runtime")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="arithmetic precision")
    add(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="CPU threads of the runtime and of OpenCV; 0: let each choose",
    )
    add(
        "--allow-pickled-programs",
        action="store_true",
        help="open torch programs (.pt2), which can execute arbitrary code when opened",
    )
    add(
        "--prior-strength",
        type=float,
        default=1.0,
        metavar="X",
        help="strength of the model's equator prior; 1: as trained, 0: none",
    )
    add(
        "--front-strength",
        type=in_range(float, 0, MAX_FRONT_STRENGTH),
        default=0.0,
        metavar="X",
        help="strength of a prior towards the middle of the frame, for viewers of a fixed camera; 1: as recorded in "
        "headsets, 0: none",
    )


MODEL_OPTIONS = (
    "--model --backend --device --precision --threads --allow-pickled-programs --prior-strength --front-strength"
)
"""Those of `add_model_options`."""
STREAM_OPTIONS = "--wait --stream-timeout-s --hardware --decoding-threads --stream-options"
"""Those of `add_stream_options` besides `--seconds`."""


def add_camera(parser: argparse.ArgumentParser) -> None:
    """Add the option that says what the frames are: `camera` becomes `CameraSettings`."""
    parser.add_argument(
        "--camera",
        type=_camera,
        default=AUTO,
        metavar="CAMERA",
        help="what the frames are: a model, a preset or a calibration file, with settings after a colon, as in "
        "dual_fisheye:fov_deg=200 (see docs/cameras.md); without it, equirectangular frames of 2:1",
    )


def _camera(text: str) -> CameraSettings:
    """The settings that a text describes; those that no frame can fit end the command before it does anything."""
    settings = parse_camera(text)
    check_camera(settings)
    return settings


def add_max_pixels(parser: argparse.ArgumentParser, larger_ones: str = "are skipped before they are decoded") -> None:
    """Add the option that limits the size of pictures; `larger_ones` says what happens to others."""
    parser.add_argument(
        "--max-pixels",
        type=in_range(int, 1, LARGEST_MAX_PIXELS),
        default=MAX_PIXELS,
        metavar="N",
        help=f"maximum size of a picture; larger ones {larger_ones}",
    )


def add_stream_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of live streams: those whose values `stream_settings` returns, `--seconds` and `--wait`."""
    settings = StreamSettings()
    meaning = {name: rule.description for name, _, rule in flatten(settings)}
    add = parser.add_argument_group("live streams and cameras").add_argument
    add("--seconds", type=in_range(float, 0.1, 1e7), metavar="S", help="duration (default: until Ctrl-C)")
    add(
        "--wait",
        type=in_range(float, 0, 1e7),
        default=10.0,
        metavar="S",
        help="time to wait for a stream that is lost or not there yet, seconds",
    )
    add(
        "--stream-timeout-s",
        type=as_declared(settings, "timeout_s"),
        default=settings.timeout_s,
        metavar="S",
        help=meaning["timeout_s"],
    )
    add("--hardware", choices=HARDWARE, default=settings.hardware, help=meaning["hardware"])
    add(
        "--decoding-threads",
        type=as_declared(settings, "threads"),
        default=settings.threads,
        metavar="N",
        help=meaning["threads"],
    )
    add("--stream-options", default=settings.options, metavar="NAME=VALUE,…", help=meaning["options"])


def stream_settings(arguments: argparse.Namespace) -> StreamSettings:
    """The settings from the options of `add_stream_options`."""
    return StreamSettings(
        timeout_s=arguments.stream_timeout_s,
        hardware=arguments.hardware,
        threads=arguments.decoding_threads,
        options=arguments.stream_options,
    )


def model_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `Predictor` from the options of `add_model_options`."""
    names = ("model", "backend", "device", "precision", "threads", "prior_strength", "front_strength")
    return {name: getattr(arguments, name) for name in (*names, "allow_pickled_programs")}

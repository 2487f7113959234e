"""Settings from YAML and the command line, into frozen dataclasses (jsonargparse)."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sal360.errors import CheckpointError, ParameterError
from sal360.files import write_text


def require(option: str, value: object, holds: bool, expected: str) -> None:
    """Refuse a value out of its range.

    Raises:
        ParameterError: `holds` is false.
    """
    if not holds:
        raise ParameterError(f"{option} is {value}", f"set --{option}", expected=expected)


def require_at_least(option: str, value: float, minimum: float) -> None:
    """Refuse a value below `minimum` (or NaN)."""
    require(option, value, value >= minimum, f"at least {minimum:g}")


def require_between(option: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside [low, high] (or NaN)."""
    require(option, value, low <= value <= high, f"{low:g} to {high:g}")


Config = TypeVar("Config")


def from_plain(kind: type[Config], plain: Mapping[str, Any]) -> Config:
    """The dataclass `kind` of what `dataclasses.asdict` made of it, also after JSON turned its tuples into lists.

    Raises:
        CheckpointError: a setting is unknown, as in a checkpoint of a newer version.
    """
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in plain.items():
        if name not in hints:
            known = ", ".join(hints)
            raise CheckpointError(
                f"the setting {name!r} of {kind.__name__} is unknown", "update sal360_ros", expected=known
            )
        if dataclasses.is_dataclass(hints[name]):
            value = from_plain(hints[name], value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def read_config(kind: type[Config], description: str, argv: Sequence[str] | None = None) -> Config:
    """The dataclass `kind` from `--config FILE.yaml` and options such as `--loop.steps 100`; later ones win.

    Raises:
        ParameterError: an option is unknown, of the wrong type or out of its range, or the YAML file is missing.
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings  # starts slowly

    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # --help shows the docstring under each field
    parser = ArgumentParser(description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of settings")
    parser.add_class_arguments(kind)
    try:
        parsed = parser.instantiate(parser.parse_args(argv))
    except ArgumentError as error:
        raise ParameterError(
            _one_line(error), "correct the option or file", expected="settings as --help lists them"
        ) from None
    return kind(**{each.name: parsed[each.name] for each in dataclasses.fields(kind)})  # type: ignore[arg-type]


def write_config(config: Any, path: str | Path) -> None:
    """Write a dataclass as YAML that `read_config` reads back."""
    plain = yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True)
    write_text(path, plain)


def _plain(value: Any) -> Any:
    """Tuples as lists: YAML's safe form knows no tuples."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

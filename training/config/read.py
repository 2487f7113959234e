"""Settings from YAML and the command line, into frozen dataclasses (jsonargparse)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sal360_ros.errors import ParameterError
from sal360_ros.files import write_text

Config = TypeVar("Config")


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
        raise ParameterError(_one_line(error), "settings as --help lists them", "correct the option or file") from None
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

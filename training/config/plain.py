"""Settings back from the plain mappings that checkpoints and JSON hold."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from sal360_ros.errors import CheckpointError

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
            raise CheckpointError(f"the setting {name!r} of {kind.__name__} is unknown", known, "update sal360_ros")
        if dataclasses.is_dataclass(hints[name]):
            value = from_plain(hints[name], value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)

"""Settings: frozen dataclasses, read from YAML files and the command line with jsonargparse.

A dataclass is in the module that it configures. Its `__post_init__` checks the ranges with the `require…` functions,
which raise a `SettingError` that names the field. Whoever reads the settings knows where a dataclass is nested and adds
that path: `read_config` turns "fov_deg" of a `PlacementConfig` into "--data.placement.fov_deg". Code that is handed a
value and finds it unusable later does the same with `option_names`.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import yaml

from sal360.errors import CheckpointError, ParameterError
from sal360.files import write_text

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Config = TypeVar("Config")


class SettingError(ParameterError):
    """A setting is out of its range, or several are incompatible.

    Args:
        values: what the settings are, by name; "views.height" is the field of a nested dataclass.
        expected: what they must be.
        options: whether the names are options of the command.
    """

    def __init__(self, values: Mapping[str, object], expected: str, *, options: bool = False) -> None:
        found = " and ".join(f"{name} is {_shown(value)}" for name, value in values.items())
        names = " or ".join(f"--{name}" if options else name for name in values)
        super().__init__(found, f"set {names}", expected=expected)
        self.values = dict(values)

    def renamed(self, rename: Callable[[str], str], *, options: bool) -> SettingError:
        """The same error with other names for the settings."""
        return SettingError(
            {rename(name): value for name, value in self.values.items()}, self.expected, options=options
        )


def require(name: str, value: object, holds: bool, expected: str) -> None:
    """Refuse a value that does not hold.

    Raises:
        SettingError: `holds` is false.
    """
    if not holds:
        raise SettingError({name: value}, expected)


def require_together(config: object, names: Sequence[str], holds: bool, expected: str) -> None:
    """Refuse the fields `names` of a dataclass, such as "height" or "views.height", if they are incompatible.

    Raises:
        SettingError: `holds` is false.
    """
    if not holds:
        raise SettingError({name: operator.attrgetter(name)(config) for name in names}, expected)


def require_at_least(name: str, value: float, minimum: float) -> None:
    """Refuse a value below `minimum`, or NaN."""
    require(name, value, value >= minimum, f"at least {minimum:g}")


def require_between(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside [low, high], or NaN."""
    require(name, value, low <= value <= high, f"{low:g} to {high:g}")


def require_path(name: str, value: str, expected: str) -> None:
    """Refuse an empty path, which would mean the working directory."""
    require(name, value, bool(value.strip()), expected)


def require_seed(name: str, value: int) -> None:
    """Refuse a seed that NumPy, PyTorch or scikit-learn does not take."""
    require(name, value, 0 <= value < 1 << 32, f"0 to {(1 << 32) - 1}")


def process_count(variable: str) -> int:
    """A number of processes that torchrun put into the environment; 1 if this process runs alone.

    Raises:
        ParameterError: it is no number of processes.
    """
    text = os.environ.get(variable, "1")
    if not (text.isdecimal() and int(text) > 0):
        found = f"the environment variable {variable} is {text!r}"
        raise ParameterError(found, "unset it, or start the command with torchrun", expected="a number of processes")
    return int(text)


def is_first_process() -> bool:
    """Whether this process is the first of those that torchrun started, or runs alone."""
    return process_number() == 0


def process_number() -> int:
    """The number of this process among those that torchrun started, from 0."""
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdecimal() else 0


def is_started_by_torchrun() -> bool:
    """Whether this process is a child of torchrun."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def option_names(prefix: str = "", /, **names: str) -> Iterator[None]:
    """Name the options in a `SettingError` that is raised inside, where only the caller knows them.

    Args:
        prefix: path of the dataclass whose fields the code inside checks: "loop".
        names: field → option, for fields whose option has another name: `input_height="input_size"`.
    """

    def rename(name: str) -> str:
        return names.get(name, f"{prefix}.{name}" if prefix else name)

    try:
        yield
    except SettingError as error:
        raise error.renamed(rename, options=True) from None


def read_config(
    kind: type[Config], description: str, argv: Sequence[str] | None = None, *, subcommand: str = ""
) -> Config:
    """The dataclass `kind` from `--config FILE.yaml` and options such as `--loop.steps 100`; later ones win.

    Args:
        kind: the dataclass.
        description: text above the options in `--help`.
        argv: the options; None takes those of the process.
        subcommand: what stands before the options, for the usage in `--help`.

    Raises:
        ParameterError: an option is unknown, of the wrong type or out of its range, or the YAML file is missing.
    """
    from jsonargparse import ArgumentError  # starts slowly

    try:
        values = _parser(kind, description, subcommand).parse_args(argv).as_dict()
    except (ArgumentError, UnicodeDecodeError, RecursionError) as error:  # PyYAML lets the last two through
        place = " or in ".join(["on the command line", *_config_files(sys.argv[1:] if argv is None else argv)])
        text = " ".join(str(error).split())
        raise ParameterError(text, f"correct it {place}; --help lists the settings") from None
    del values["config"]
    with option_names():
        for path in _config_files(sys.argv[1:] if argv is None else argv):
            with suppress(ValueError):  # a date that does not exist, which jsonargparse takes as text
                _check_groups(kind, yaml.safe_load(Path(path).read_bytes()))
        return _build(kind, values)


def _check_groups(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Refuse settings in a file that are no mapping: options on the command line would replace them silently."""
    for name, of in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(of) and name in values:
            require(name, values[name], isinstance(values[name], Mapping), _GROUP)
            try:
                _check_groups(cast(type[Any], of), values[name])
            except SettingError as error:
                raise error.renamed(f"{name}.{{}}".format, options=False) from None


_GROUP = "settings in it, or to be left out for the defaults"


def _parser(kind: type[Any], description: str, subcommand: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # --help shows the docstring under each field
    prog = f"{_command()} {subcommand}".rstrip()
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of settings")
    parser.add_class_arguments(kind)
    return parser


def _command() -> str:
    """How this process was started: "python -m training.pretrain"."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name


def _config_files(argv: Sequence[str]) -> list[str]:
    """The files that `--config FILE` and `--config=FILE` name."""
    following = [value for option, value in itertools.pairwise(argv) if option == "--config"]
    return following + [option.removeprefix("--config=") for option in argv if option.startswith("--config=")]


def config_from_dict(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """The dataclass `kind` from the values of `dataclasses.asdict`, possibly via JSON; fields may be missing.

    Raises:
        CheckpointError: a setting is unknown, missing, of another type or out of its range, as in a checkpoint of
            another version.
    """
    try:
        return _build(kind, values)
    except SettingError as error:
        raise CheckpointError(f"the setting {error.found}", _UPDATE, expected=error.expected) from None


_UPDATE = "update sal360, or give a checkpoint that this version wrote"


def _build(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A dataclass from plain values, nested ones first; a `SettingError` names the path from `kind` down."""
    kinds = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in kinds:
            raise CheckpointError(
                f"the setting {name!r} of {kind.__name__} is unknown", _UPDATE, expected=", ".join(kinds)
            )
        if dataclasses.is_dataclass(kinds[name]):
            require(name, value, isinstance(value, Mapping), _GROUP)
            try:
                value = _build(kinds[name], value)
            except SettingError as error:
                raise error.renamed(f"{name}.{{}}".format, options=False) from None
        else:
            require(name, value, _is_a(value, kinds[name]), _described(kinds[name]))
        arguments[name] = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
    missing = _required(kind) - arguments.keys()
    if missing:
        raise CheckpointError(f"the setting {min(missing)!r} of {kind.__name__} is missing", _UPDATE)
    return kind(**arguments)


def _required(kind: type[Any]) -> set[str]:
    """The fields without a default."""
    nothing = dataclasses.MISSING
    return {each.name for each in dataclasses.fields(kind) if each.default is each.default_factory is nothing}


_PLAIN = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
"""The types of single settings, and what errors call them."""
_UNIONS = (typing.Union, types.UnionType)


def _is_a(value: object, kind: Any) -> bool:
    """Whether a plain value, perhaps from JSON, is of the type of a field."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return value in parts
    if origin is tuple:
        return isinstance(value, (list, tuple)) and _are(value, parts)
    if origin is dict:
        return isinstance(value, Mapping) and all(_is_a(each, parts[1]) for each in value.values())
    if origin in _UNIONS:
        return any(_is_a(value, each) for each in parts)
    if kind not in _PLAIN:
        return True  # what the dataclass itself has to check
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    return isinstance(value, kind)


def _are(values: Sequence[object], kinds: Sequence[Any]) -> bool:
    """Whether the entries of a list are of the types of a tuple."""
    if kinds[1:] == (...,):
        return all(_is_a(each, kinds[0]) for each in values)
    return len(values) == len(kinds) and all(map(_is_a, values, kinds))


def _described(kind: Any) -> str:
    """The type of a field, as errors call it."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " or ".join(map(str, parts)) if len(parts) < 3 else f"one of {', '.join(map(str, parts))}"
    if origin is tuple:
        count = "" if parts[1:] == (...,) else f"{len(parts)} values, "
        return f"a list, {count}each {_described(parts[0])}"
    if origin is dict:
        return f"a mapping, each value {_described(parts[1])}"
    if origin in _UNIONS:
        return " or ".join(map(_described, parts))
    return _PLAIN.get(kind, str(kind))


def write_config(config: Any, path: str | Path) -> None:
    """Write a dataclass as YAML that `read_config` reads back."""
    values = _without_tuples(dataclasses.asdict(config))
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _without_tuples(value: Any) -> Any:
    """Tuples as lists: YAML's safe form has no tuples."""
    if isinstance(value, dict):
        return {name: _without_tuples(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_tuples(each) for each in value]
    return value


def _shown(value: object) -> str:
    """A value as error messages show it."""
    if isinstance(value, (list, tuple)) and not value:
        return "empty"
    return repr(value) if isinstance(value, str) else str(value)

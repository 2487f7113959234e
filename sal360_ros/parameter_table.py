"""ROS parameters as the fields of a frozen dataclass: declared with descriptors, checked, changed while running.

A field made by `parameter` is a ROS parameter of its name; a field with the metadata of `rules` holds settings of
another module, each of them a parameter whose name follows a dot ("smoothing.time_constant_s").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from sal360.errors import ParameterError, Sal360Error

# What rclpy declares by itself or with a topic, and what is therefore no spelling mistake.
_OF_RCLPY = ("use_sim_time", "start_type_description_service", "qos_overrides")


Change = Literal["live", "unconfigured", "start"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a parameter means and may be."""

    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    changes: Change = "live"
    """When it may change: at any time, while the node is unconfigured, or only at the start of the process."""

    def expectation(self, default: Any) -> str:
        """What is allowed, for an error message."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        kind = {bool: "true or false", int: "a whole number", float: "a number (write 1.0, not 1)", str: "a text"}
        span = f" from {self.minimum:g} to {self.maximum:g}" if self.minimum is not None is not self.maximum else ""
        return kind[type(default)] + span

    def descriptor(self, default: Any) -> ParameterDescriptor:
        """The same for ROS tools."""
        described = ParameterDescriptor(description=self.description, read_only=self.changes == "start")
        constraints = [self.expectation(default)] if self.choices else []
        constraints += ["changes only while the node is unconfigured"] if self.changes == "unconfigured" else []
        described.additional_constraints = "; ".join(constraints)
        if self.minimum is not None and self.maximum is not None:
            if isinstance(default, float):
                described.floating_point_range = [
                    FloatingPointRange(from_value=float(self.minimum), to_value=float(self.maximum))
                ]
            else:
                described.integer_range = [IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum))]
        return described


def parameter(
    default: bool | int | float | str,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    changes: Change = "live",
) -> Any:
    """A dataclass field that is a ROS parameter; see `Rule`."""
    rule = Rule(description, minimum, maximum, choices, changes)
    return dataclasses.field(default=default, metadata={"rule": rule})


def rules(**of_settings: Rule) -> dict[str, Any]:
    """Metadata of a dataclass field that holds settings: a rule for each of theirs."""
    return {"rules": of_settings}


def flatten(values: Any) -> Iterator[tuple[str, Any, Rule]]:
    """Name, value and rule of each parameter in a dataclass instance."""
    for each in dataclasses.fields(values):
        value = getattr(values, each.name)
        if "rule" in each.metadata:
            yield each.name, value, each.metadata["rule"]
        else:
            for name, rule in each.metadata["rules"].items():
                yield f"{each.name}.{name}", getattr(value, name), rule


def with_values(values: Any, changes: dict[str, Any]) -> Any:
    """A copy of a dataclass instance with the parameters of these (dotted) names changed."""
    changed: dict[str, Any] = {}
    for name, value in changes.items():
        of_group, _, own = name.rpartition(".")
        if of_group:
            settings = changed.get(of_group, getattr(values, of_group))
            changed[of_group] = dataclasses.replace(settings, **{own: value})
        else:
            changed[own] = value
    return dataclasses.replace(values, **changed)


Values = TypeVar("Values")


class ParameterTable(Generic[Values]):
    """The parameters of one node.

    A start value that is refused does not end the node: the default stands in for it, and `read` raises until a
    valid value has been set.

    Args:
        node: made with `automatically_declare_parameters_from_overrides`, so that names which no table has are found.
        defaults: instance of the dataclass that declares them.
        is_fixed: tells whether the node is configured now.
        check: raises `Sal360Error` for values that do not fit each other or the loaded model.
    """

    def __init__(
        self,
        node: Node,
        defaults: Values,
        *,
        is_fixed: Callable[[], bool] = lambda: False,
        check: Callable[[Values], None] = lambda _: None,
    ) -> None:
        self._values = defaults
        self._is_fixed = is_fixed
        self._check = check
        self._rules = {name: rule for name, _, rule in flatten(defaults)}
        self._refused: dict[str, ParameterError] = {}
        given = [name for name in node.get_parameters_by_prefix("") if name.split(".")[0] not in _OF_RCLPY]
        for name in given:
            node.undeclare_parameter(name)
        self.unknown = sorted(set(given) - set(self._rules))
        """Names that were given values at the start and that no parameter has."""
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._take_over)
        for name, default, rule in flatten(defaults):
            self._declare(node, name, default, rule)

    def _declare(self, node: Node, name: str, default: Any, rule: Rule) -> None:
        try:
            node.declare_parameter(name, default, rule.descriptor(default))
        except ParameterException as error:
            node.declare_parameter(name, default, rule.descriptor(default), ignore_override=True)
            self._refused[name] = ParameterError(
                str(error), "correct it where the node is started, or set it now", expected=rule.expectation(default)
            )

    @property
    def current(self) -> Values:
        """The values at this moment."""
        return self._values

    def read(self) -> Values:
        """The values to configure with.

        Raises:
            ParameterError: a start value was refused and has not been replaced.
        """
        for error in self._refused.values():
            raise error
        return self._values

    def _changed(self, parameters: list[Parameter]) -> Values:
        changes = {each.name: each.value for each in parameters if each.name in self._rules}
        changed: Values = with_values(self._values, changes)
        return changed

    def _validate(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            for each in parameters:
                if each.name in self._rules:
                    self._validate_one(each.name, each.value)
            self._check(self._changed(parameters))
        except Sal360Error as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _validate_one(self, name: str, value: Any) -> None:
        rule = self._rules[name]
        if rule.choices and value not in rule.choices:
            raise ParameterError(f"{name} is {value!r}", "choose one of them", expected=rule.expectation(value))
        if rule.changes == "unconfigured" and self._is_fixed():
            raise ParameterError(
                f"{name} was set on a configured node",
                "deactivate and clean up the node first",
                expected="an unconfigured one",
            )

    def _take_over(self, parameters: list[Parameter]) -> None:
        self._values = self._changed(parameters)
        for each in parameters:
            self._refused.pop(each.name, None)

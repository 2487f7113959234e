"""Settings as ROS parameters: declared with descriptors, checked, changed while the node runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from sal360.errors import ParameterError, Sal360Error
from sal360.settings import AnySettings, Rule, Value, flatten, with_values

# Names that rclpy declares for every node or topic.
DECLARED_BY_RCLPY = ("use_sim_time", "start_type_description_service", "qos_overrides")


def describe(rule: Rule, default: Value) -> ParameterDescriptor:
    """The descriptor that ROS tools show: meaning, unit, range, choices and when the parameter may change."""
    unit = f" [{rule.unit}]" if rule.unit else ""
    descriptor = ParameterDescriptor(description=rule.description + unit, read_only=rule.changes == "start")
    constraints = [f"one of {', '.join(map(str, rule.choices))}"] if rule.choices else []
    constraints += ["can be changed only while the node is unconfigured"] if rule.changes == "unconfigured" else []
    descriptor.additional_constraints = "; ".join(constraints)
    if rule.minimum is not None and rule.maximum is not None:
        if isinstance(default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(rule.minimum), to_value=float(rule.maximum))
            ]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(rule.minimum), to_value=int(rule.maximum))]
    return descriptor


def _refused(name: str, value: object, default: Value, rule: Rule) -> ParameterError:
    """The error for a start value of a wrong type or outside its range."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number (1.0, not 1)", str: "text"}
    wanted = rule.allowed if rule.choices else " from ".join(filter(None, (kinds[type(default)], rule.allowed)))
    where = "" if rule.changes == "start" else ", at the start or with `ros2 param set`"
    return ParameterError(f"{name} is {value!r}", f"set it to {wanted}{where}")


class ParameterTable(Generic[AnySettings]):
    """The parameters of one node.

    A start value that is refused does not end the node: the default replaces it, and `read` raises until a valid value
    is set.

    Args:
        node: made with `automatically_declare_parameters_from_overrides`, so that misspelt names are found.
        defaults: the settings that declare them.
        is_fixed: returns whether the node is configured now.
        check: raises `Sal360Error` for values that are incompatible with each other or with the loaded model.
    """

    def __init__(
        self,
        node: Node,
        defaults: AnySettings,
        *,
        is_fixed: Callable[[], bool] = lambda: False,
        check: Callable[[AnySettings], None] = lambda _: None,
    ) -> None:
        self._values = defaults
        self._is_fixed = is_fixed
        self._check = check
        self._rules = {name: rule for name, _, rule in flatten(defaults)}
        self._refused: dict[str, ParameterError] = {}
        names = [name for name in node.get_parameters_by_prefix("") if name.split(".")[0] not in DECLARED_BY_RCLPY]
        given = {name: node.get_parameter(name).value for name in names}
        for name in given:
            node.undeclare_parameter(name)
        self.unknown = sorted(set(given) - set(self._rules))
        """Names that were given at the start but are not parameters."""
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._take_over)
        for name, default, rule in flatten(defaults):
            try:
                node.declare_parameter(name, default, describe(rule, default))
            except ParameterException:
                node.declare_parameter(name, default, describe(rule, default), ignore_override=True)
                self._refused[name] = _refused(name, given.get(name), default, rule)

    def warn_of_unknown(self, warn: Callable[[str], object]) -> None:
        """Say, in one line each, which names that were given at the start are not parameters."""
        for unknown in self.unknown:
            warn(f"there is no parameter {unknown}; `ros2 param list` shows the names")

    @property
    def current(self) -> AnySettings:
        """The current values."""
        return self._values

    def read(self) -> AnySettings:
        """The values to configure with.

        Raises:
            ParameterError: a start value was refused and has not been replaced.
        """
        for error in self._refused.values():
            raise error
        return self._values

    def _changed(self, parameters: list[Parameter]) -> AnySettings:
        return with_values(self._values, {each.name: each.value for each in parameters if each.name in self._rules})

    def _validate(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            for each in parameters:
                if each.name in self._rules:
                    self._validate_one(each.name, each.value)
            self._check(self._changed(parameters))
        except Sal360Error as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _validate_one(self, name: str, value: Value) -> None:
        rule = self._rules[name]
        rule.check(name, value)
        if rule.changes == "unconfigured" and self._is_fixed():
            raise ParameterError(f"{name} was set on a configured node", "deactivate and clean up the node first")

    def _take_over(self, parameters: list[Parameter]) -> None:
        self._values = self._changed(parameters)
        for each in parameters:
            self._refused.pop(each.name, None)

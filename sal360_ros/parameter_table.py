"""Settings as ROS parameters: declared with descriptors, checked, changed while the node runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
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
    kinds = {
        bool: "true or false",
        int: "a whole number",
        float: "a number (1.0, not 1)",
        str: "text",
        tuple: "a list of names",
    }
    wanted = rule.allowed if rule.choices else " from ".join(filter(None, (kinds[type(default)], rule.allowed)))
    where = "" if rule.changes == "start" else ", at the start or with `ros2 param set`"
    return ParameterError(f"{name} is {value!r}", f"set it to {wanted}{where}")


class ParameterTable(Generic[AnySettings]):
    """The parameters of one node, and copies of most of them for its members, such as the cameras of one node.

    A member's parameters are named `<member>.<parameter>`. Each has the common value until it is set itself.

    A start value that is refused does not end the node: the default replaces it, and `read` raises until a valid value
    is set.

    Args:
        node: made with `automatically_declare_parameters_from_overrides`, so that misspelt names are found.
        defaults: the settings that declare them.
        is_fixed: returns whether the node is configured now.
        check: raises `Sal360Error` for values that are incompatible with each other or with the loaded model.
        members: returns the names of the members, which differ from those of all parameters and groups.
        common: names of parameters or groups that the members do not have.
    """

    def __init__(
        self,
        node: Node,
        defaults: AnySettings,
        *,
        is_fixed: Callable[[], bool] = lambda: False,
        check: Callable[[AnySettings], None] = lambda _: None,
        members: Callable[[AnySettings], Iterable[str]] = lambda _: (),
        common: Collection[str] = (),
    ) -> None:
        self._node = node
        self._values = {"": defaults}  # by member; "": the common ones
        self._is_fixed = is_fixed
        self._check = check
        self._rules = {name: rule for name, _, rule in flatten(defaults)}
        self._common = {name for name in self._rules if name in common or name.partition(".")[0] in common}
        self._refused: dict[str, Sal360Error] = {}
        self._reason: Sal360Error | None = None  # why a value was refused last
        self._following: set[str] | None = None  # members' parameters that are being set because the common one is
        names = [name for name in node.get_parameters_by_prefix("") if name.split(".")[0] not in DECLARED_BY_RCLPY]
        self._given = {name: node.get_parameter(name).value for name in names}
        self._own = set(self._given)  # members' parameters that do not follow the common one
        for name in self._given:
            node.undeclare_parameter(name)
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._take_over)
        for name, default, rule in flatten(defaults):
            self._declare(name, default, rule)
        declared = set(self._rules)
        for member in filter(None, members(self.current)):
            self._values[member] = self.current
            for name, value, rule in flatten(self.current):
                if name not in self._common:
                    self._declare(f"{member}.{name}", value, rule)
                    declared.add(f"{member}.{name}")
        self._following = set()
        node.add_pre_set_parameters_callback(self._with_followers)
        names_refused = any(self._rules[name].changes == "start" for name in self._refused if name in self._rules)
        self.unknown = sorted(set(self._given) - declared) if not names_refused else []
        """Names that were given at the start but are not parameters."""

    def _declare(self, name: str, default: Value, rule: Rule) -> None:
        value = list(default) if isinstance(default, tuple) else default
        is_empty_list = isinstance(default, tuple) and name in self._given and not self._given[name]  # it has no type
        try:
            self._node.declare_parameter(name, value, describe(rule, default), ignore_override=is_empty_list)
        except ParameterException:
            self._node.declare_parameter(name, value, describe(rule, default), ignore_override=True)
            described = _refused(name, self._given.get(name), default, rule)
            self._refused[name] = self._reason if self._reason and isinstance(default, tuple) else described
        self._reason = None

    def warn_of_unknown(self, warn: Callable[[str], object], others: Collection[str] = ()) -> None:
        """Say, in one line each, which names that were given at the start are not parameters.

        Args:
            others: parameters of other nodes that read the same file, which are no mistakes, and neither are those of
                their members.
        """
        for unknown in self.unknown:
            if unknown not in others and unknown.partition(".")[2] not in others:
                warn(f"there is no parameter {unknown}; `ros2 param list` shows the names")

    @property
    def current(self) -> AnySettings:
        """The current common values."""
        return self._values[""]

    def of(self, member: str) -> AnySettings:
        """The current values of a member; "" returns the common ones."""
        return self._values[member]

    def read(self) -> AnySettings:
        """The common values to configure with.

        Raises:
            ParameterError: a start value was refused and has not been replaced.
        """
        for error in self._refused.values():
            raise error
        return self.current

    def _split(self, name: str) -> tuple[str, str]:
        """The member and the name without it."""
        member, _, own = name.partition(".")
        return (member, own) if own and member in self._values else ("", name)

    def _changed(self, parameters: list[Parameter]) -> dict[str, AnySettings]:
        """The values of the common parameters and of each member that would change."""
        changes: dict[str, dict[str, Value]] = {}
        for each in parameters:
            member, name = self._split(each.name)
            if name in self._rules:
                value = tuple(each.value) if each.type_ == Parameter.Type.STRING_ARRAY else each.value
                for affected in self._values if name in self._common else (member,):
                    changes.setdefault(affected, {})[name] = value
        return {member: with_values(self._values[member], values) for member, values in changes.items()}

    def _with_followers(self, parameters: list[Parameter]) -> list[Parameter]:
        """Have every member follow a common parameter, unless its own was set."""
        given = {each.name for each in parameters}
        followers = [
            Parameter(f"{member}.{each.name}", each.type_, each.value)
            for each in parameters
            for member in filter(None, self._values)
            if each.name in self._rules and each.name not in self._common
        ]
        followers = [each for each in followers if each.name not in given | self._own]
        self._following = {each.name for each in followers}
        return [*parameters, *followers]

    def _validate(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            for each in parameters:
                self._validate_one(each.name, each.value)
            for values in self._changed(parameters).values():
                self._check(values)
        except Sal360Error as error:
            self._reason = error
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _validate_one(self, name: str, value: Value) -> None:
        rule = self._rules.get(self._split(name)[1])
        if rule is None:
            return
        rule.check(name, value)
        if rule.changes == "unconfigured" and self._is_fixed():
            raise ParameterError(f"{name} was set on a configured node", "deactivate and clean up the node first")

    def _take_over(self, parameters: list[Parameter]) -> None:
        self._values |= self._changed(parameters)
        for each in parameters:
            self._refused.pop(each.name, None)
        if self._following is not None:  # not while they are declared
            self._own |= {each.name for each in parameters} - self._following
            self._following = set()

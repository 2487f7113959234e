"""Thresholds of a run, as a robot's CI states them: "p95_latency_ms<50"."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sal360_ros.errors import ParameterError

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_PATTERN = re.compile(r"\s*([A-Za-z]\w*)\s*(<=|>=|==|<|>)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(%?)\s*")


@dataclass(frozen=True)
class Requirement:
    """One threshold: a figure's name, an operator and a number."""

    figure: str
    relation: str
    limit: float

    def holds(self, figures: Mapping[str, float]) -> bool:
        """Whether the run meets it; a figure that it has not (no frame was answered) or that is NaN meets nothing."""
        return _OPERATORS[self.relation](figures.get(self.figure, math.nan), self.limit)

    def __str__(self) -> str:
        return f"{self.figure} {self.relation} {self.limit:g}"


def parse_requirement(text: str) -> Requirement:
    """The requirement that a text such as "p95_latency_ms<50" or "answered_share >= 99 %" states.

    Raises:
        ParameterError: it is not a name, one of < <= > >= ==, and a number.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ParameterError(
            f"the requirement is {text!r}", "a figure, one of < <= > >= ==, and a number", 'write "p95_latency_ms<50"'
        )
    figure, relation, number, percent = match.groups()
    return Requirement(figure, relation, float(number) / (100 if percent else 1))


def check_names(requirements: Sequence[Requirement], known: Collection[str]) -> None:
    """Refuse requirements on figures that a run cannot have.

    Raises:
        ParameterError: naming those it can.
    """
    unknown = sorted({each.figure for each in requirements} - set(known))
    if unknown:
        raise ParameterError(
            f"this run has no figure {', '.join(unknown)}",
            "one of " + ", ".join(sorted(known)),
            "correct --require, or choose --live or --ground-truth that gives it",
        )

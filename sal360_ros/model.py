"""The node's model: opened outside the executor, freed without waiting for an inference that hangs."""

from __future__ import annotations

from collections.abc import Callable

from sal360.predictor import Predictor
from sal360_ros.supervision import Background

CLOSE_S = 1.0
"""Time for a model to be freed; an inference that hangs prevents it."""


class Model:
    """At most one open model, and at most one that is being opened.

    Args:
        make: opens the model; called in a separate thread, or by `get`.
        in_executor: schedules a function to be called in the executor's thread.
    """

    def __init__(self, make: Callable[[], Predictor], in_executor: Callable[[Callable[[], None]], None]) -> None:
        self.predictor: Predictor | None = None
        """The open model."""
        self._make = make
        self._in_executor = in_executor
        self._opening: Background[Predictor] | None = None
        self._then: Callable[[], None] | None = None

    @property
    def opening_s(self) -> float | None:
        """Seconds since opening a model began; None if none is being opened."""
        opening = self._opening
        return None if opening is None or opening.is_done else opening.seconds

    def open(self, then: Callable[[], None]) -> None:
        """Start opening the model, unless that has begun; afterwards call `then` in the executor's thread."""
        self._then = then
        if self._opening is None:
            self._opening = Background("open", self._make, on_done=lambda: self._in_executor(self._ended))
        elif self._opening.is_done:
            self._in_executor(self._ended)

    def _ended(self) -> None:
        if self._opening is not None and self._opening.is_done:  # and it was not abandoned for another one
            then, self._then = self._then, None
            if then is not None:
                then()

    def get(self) -> Predictor:
        """The open model; waits for the opening that `open` began, or opens the model here.

        Raises:
            Exception: opening it failed.
        """
        if self.predictor is None:
            opening, self._opening = self._opening, None
            self.predictor = opening.result() if opening is not None else self._make()
        return self.predictor

    def close(self) -> None:
        """Free the model; one that is being opened is freed when it is open.

        Raises:
            TimeoutError: it is still in use after `CLOSE_S`; it is freed later.
            Exception: freeing it failed; it counts as freed nevertheless.
        """
        opening, self._opening = self._opening, None
        predictor, self.predictor = self.predictor, None
        if opening is not None:
            opening.abandon(_close)
        if predictor is not None:
            _close(predictor).result(CLOSE_S)


def _close(predictor: Predictor) -> Background[None]:
    return Background("close", predictor.close)  # waits for the running inference

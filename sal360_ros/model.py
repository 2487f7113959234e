"""The node's model: opened beside the executor, freed without waiting for an inference that hangs."""

from __future__ import annotations

from collections.abc import Callable

from sal360.predictor import Predictor
from sal360_ros.supervision import Background

CLOSE_S = 1.0
"""Time for a model to be freed; an inference that hangs prevents it."""


class Model:
    """At most one open model, and at most one that is being opened.

    Args:
        make: opens the model; called in a thread of its own, or by `get`.
        in_executor: has a function called in the executor's thread.
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
        """For how long a model has been being opened, in seconds; None if none is."""
        opening = self._opening
        return None if opening is None or opening.is_done else opening.seconds

    def open(self, then: Callable[[], None]) -> None:
        """Begin to open the model, if that has not begun; call `then` in the executor's thread when it has ended."""
        self._then = then
        if self._opening is None:
            self._opening = Background("open", self._make, on_done=lambda: self._in_executor(self._ended))
        elif self._opening.is_done:
            self._in_executor(self._ended)

    def _ended(self) -> None:
        if self._opening is not None and self._opening.is_done:  # and was not abandoned for another one
            then, self._then = self._then, None
            if then is not None:
                then()

    def get(self) -> Predictor:
        """The open model; what `open` began is waited for, and without it the model is opened here.

        Raises:
            Exception: whatever opening it raised.
        """
        if self.predictor is None:
            opening, self._opening = self._opening, None
            self.predictor = opening.result() if opening is not None else self._make()
        return self.predictor

    def close(self) -> None:
        """Free the model, and one that is being opened when it is open.

        Raises:
            TimeoutError: it is still in use after `CLOSE_S`; it is freed later.
            Exception: whatever freeing it raised; it is given up all the same.
        """
        opening, self._opening = self._opening, None
        predictor, self.predictor = self.predictor, None
        if opening is not None:
            opening.abandon(_close)
        if predictor is not None:
            _close(predictor).result(CLOSE_S)


def _close(predictor: Predictor) -> Background[None]:
    return Background("close", predictor.close)  # it waits for an inference that is under way

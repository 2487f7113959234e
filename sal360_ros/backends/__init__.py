"""Runtimes that execute a model file, one small class each; `open_model` chooses."""

from sal360_ros.backends.backend import Backend
from sal360_ros.backends.choice import BACKEND_NAMES, open_model

__all__ = ["BACKEND_NAMES", "Backend", "open_model"]

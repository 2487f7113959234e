"""Runtimes that execute a model file, one small class each; `open_model` chooses one."""

from __future__ import annotations

from sal360.runtimes.backend import Backend
from sal360.runtimes.selection import BACKEND_NAMES, open_model

__all__ = ["BACKEND_NAMES", "Backend", "open_model"]

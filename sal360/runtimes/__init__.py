"""Runtimes that execute a model file, one small class each; `open_model` and `open_bundled_model` choose one."""

from __future__ import annotations

from sal360.runtimes.backend import Backend
from sal360.runtimes.selection import BACKEND_NAMES, open_bundled_model, open_model

__all__ = ["BACKEND_NAMES", "Backend", "open_bundled_model", "open_model"]

"""A few CC0 panoramas for the demo, so that it needs neither camera nor download (see ATTRIBUTION.md)."""

from __future__ import annotations

from pathlib import Path


def bundled_panoramas() -> Path:
    """The folder of the bundled panoramas (JPEG, 1024 x 512)."""
    return Path(__file__).parent

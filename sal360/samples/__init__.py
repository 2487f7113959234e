"""Four CC0 panoramas, so that the demo needs neither a camera nor a download (see ATTRIBUTION.md)."""

from __future__ import annotations

from pathlib import Path


def bundled_panoramas() -> Path:
    """Path of the folder with the bundled panoramas (JPEG, 1024 x 512)."""
    return Path(__file__).parent

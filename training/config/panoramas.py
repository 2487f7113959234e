"""Settings of the panoramas that pretraining learns from."""

from __future__ import annotations

from dataclasses import dataclass

from training.config.ranges import require, require_at_least


@dataclass(frozen=True)
class PanoramaConfig:
    """Where the panoramas are and how large they are read."""

    root: str
    """Folder of panoramas (jpg, png, webp; searched recursively), or of the tar shards that
    `python -m training.data.shards` wrote."""
    height: int = 160
    """Rows to which a panorama is reduced when it is read, pixels; the width is twice that."""
    cache: str = ""
    """Folder for the decoded panoramas (uint8, memory-mapped, made once); empty decodes each time anew."""

    def __post_init__(self) -> None:
        require("data.root", repr(self.root), bool(self.root.strip()), "a folder of panoramas")
        require_at_least("data.height", self.height, 16)

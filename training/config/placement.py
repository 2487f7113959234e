"""Settings of how photographs are placed on the sphere."""

from __future__ import annotations

from dataclasses import dataclass

from training.config.ranges import require, require_at_least, require_between


@dataclass(frozen=True)
class PlacementConfig:
    """Viewports of photographs on real panoramas."""

    fov_deg: tuple[float, float] = (50.0, 110.0)
    """Smallest and largest horizontal field of view of a photograph, degrees."""
    elevation_deg: float = 25.0
    """Largest elevation, up or down, of a photograph's middle near the equator, degrees."""
    equator_share: float = 0.7
    """Share of the attempts near the equator; the others are uniform on the sphere."""
    roll_deg: float = 8.0
    """Largest tilt of a photograph, degrees."""
    inset_share: float = 0.0
    """Share of the panoramas on which photographs are laid flat, larger than a viewport shows them."""
    insets: int = 1
    """Most such photographs on one panorama, side by side; how many is drawn anew each time."""
    inset_width: tuple[float, float] = (0.4, 0.65)
    """Smallest and largest width of such a photograph, in panorama widths; 0.66 fills the height."""
    slots: int = 8
    """Most photographs on one panorama."""
    mean_photographs: float = 5.0
    """Photographs that a panorama holds on average: sets the length of an epoch."""
    attempts: int = 120
    """Places tried for a panorama's photographs."""
    exposure: float = 0.2
    """Strength of random gain and offset of a photograph's colours, 0 to 1."""
    saturation: float = 0.0
    """Strength of the random change of a photograph's saturation, 0 to 1; 1 goes from grey to twice its own."""
    crop: float = 1.0
    """Smallest share of a photograph's width that is shown; 1 shows it whole."""

    def __post_init__(self) -> None:
        low, high = self.fov_deg
        require("placement.fov_deg", self.fov_deg, 10 <= low <= high <= 150, "10 <= smallest <= largest <= 150")
        require_between("placement.elevation_deg", self.elevation_deg, 0, 90)
        require_between("placement.inset_share", self.inset_share, 0, 1)
        narrow, wide = self.inset_width
        require("placement.inset_width", self.inset_width, 0.1 <= narrow <= wide <= 0.66, "0.1 to 0.66, in order")
        require_between("placement.equator_share", self.equator_share, 0, 1)
        require_between("placement.roll_deg", self.roll_deg, 0, 180)
        require_between("placement.exposure", self.exposure, 0, 1)
        require_between("placement.saturation", self.saturation, 0, 1)
        require_between("placement.crop", self.crop, 0.2, 1)
        for name in ("insets", "slots", "attempts", "mean_photographs"):
            require_at_least(f"placement.{name}", getattr(self, name), 1)

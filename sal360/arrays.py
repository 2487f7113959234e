"""Names for the arrays that the project passes around, with their element types kept."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
"""8-bit pictures: (H, W) grey or (H, W, 3) colour."""
Density: TypeAlias = NDArray[np.float32]
"""(h, w) density over the sphere, relative to uniform: 1 is average, weighted by solid angle."""
Floats: TypeAlias = NDArray[np.float64]
"""Directions, angles, rotations, weights: whatever is computed in double precision."""
Reals: TypeAlias = NDArray[np.floating[Any]]
"""Either precision, where both are taken."""
Integers: TypeAlias = NDArray[np.int64]
"""Counts and indices."""
Mask: TypeAlias = NDArray[np.bool_]
"""What is known, valid or chosen."""

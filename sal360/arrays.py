"""Names for the array types that the project uses, with their element types."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
"""8-bit pictures: (H, W) grey or (H, W, 3) colour."""
Density: TypeAlias = NDArray[np.float32]
"""(h, w) density over the sphere, relative to uniform: 1 is average, weighted by solid angle."""
Floats: TypeAlias = NDArray[np.float64]
"""Directions, angles, rotations, weights: all that is computed in double precision."""
Reals: TypeAlias = NDArray[np.floating[Any]]
"""Either precision, where both are accepted."""
Integers: TypeAlias = NDArray[np.int64]
"""Counts and indices."""
Mask: TypeAlias = NDArray[np.bool_]
"""Boolean arrays: the elements that are known, valid or chosen."""

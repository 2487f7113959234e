"""sal360: where people would look in a 360° picture, as a density over the sphere.

from sal360 import Predictor

with Predictor() as predictor:
    density = predictor.predict(frame)  # (h, w) float32; 1 is uniform, 4 is four times as likely
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sal360.predictor import Predictor

__version__ = "0.2.0"

__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    """`Predictor`, imported when it is first used: the executables must handle signals before numpy is loaded."""
    if name == "Predictor":
        from sal360.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'sal360' has no attribute {name!r}")

"""sal360: where people would look in a 360° picture, in real time."""

__version__ = "0.1.0"

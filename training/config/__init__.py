"""Every setting of the training commands: frozen dataclasses, one per concern, with a docstring under each field.

A command reads its dataclass from YAML and the command line (`read_config`); the field `loop.steps` is the option
`--loop.steps`. Ranges are checked when the dataclass is made, so a wrong value stops before anything is loaded.
"""

from training.config.loop import LoopConfig, OptimiserConfig
from training.config.panoramas import PanoramaConfig
from training.config.read import read_config, write_config

__all__ = ["LoopConfig", "OptimiserConfig", "PanoramaConfig", "read_config", "write_config"]

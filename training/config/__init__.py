"""Every setting of the training commands: frozen dataclasses, one per concern, with a docstring under each field.

A command reads its dataclass from YAML and the command line (`read_config`); the field `loop.steps` is the option
`--loop.steps`. Ranges are checked when the dataclass is made, so a wrong value stops before anything is loaded.
"""

from training.config.contrastive import ContrastiveConfig, ObjectiveConfig
from training.config.loop import LoopConfig, OptimiserConfig
from training.config.panoramas import PanoramaConfig
from training.config.read import read_config, write_config
from training.config.views import ViewConfig

__all__ = [
    "ContrastiveConfig",
    "LoopConfig",
    "ObjectiveConfig",
    "OptimiserConfig",
    "PanoramaConfig",
    "ViewConfig",
    "read_config",
    "write_config",
]

"""Predictions of any saliency model, by the name of its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sal360_ros.predictor import Predictor
from sal360_ros.sphere import Array
from training.analysis.encoders import checkpoint_name
from training.checkpoint import load_weights, read_header
from training.config.plain import from_plain
from training.config.saliency import SaliencyModelConfig
from training.data.views import resize
from training.models.saliency_model import DensityModel, SaliencyModel

BUNDLED = "bundled"


@dataclass(frozen=True)
class TrainedPredictor:
    """A saliency model that is ready to predict."""

    name: str
    """For tables."""
    height: int
    """Rows of the panoramas as it sees them, pixels."""
    predict: Callable[[Array], Array]
    """A panorama (H, W, 3) uint8 RGB, of any size, to its density relative to uniform (h, w) float32."""


def read_predictor(model: str, prior_strength: float = 1.0) -> TrainedPredictor:
    """A saliency model by the name of its file.

    Args:
        model: "bundled", a model file that `sal360_ros` runs, or a saliency checkpoint (folder or .safetensors).
        prior_strength: power of the model's own equator prior; 1 leaves it as it is, 0 takes it out.

    Raises:
        ModelError: the model file cannot be run.
        CheckpointError: the checkpoint is missing, broken or no saliency model.
    """
    path = Path(model)
    if model == BUNDLED or (path.is_file() and path.suffix != ".safetensors"):
        # the bundled model's figures shall not depend on the processor
        file, precision = ("", "fp32") if model == BUNDLED else (path, "auto")
        predictor = Predictor(file, precision=precision, prior_strength=prior_strength)
        return TrainedPredictor(path.stem, predictor.spec.input_height, predictor.predict)
    config = from_plain(SaliencyModelConfig, read_header(path, kind="saliency").config)
    config = replace(config, prior=replace(config.prior, strength=config.prior.strength * prior_strength))
    saliency_model = SaliencyModel(config)
    load_weights(path, saliency_model, kind="saliency")
    density_model = DensityModel(saliency_model, upsample=0).eval()

    @torch.inference_mode()
    def predict(panorama: Array) -> Array:
        frame = torch.tensor(resize(panorama, config.input_height))  # a copy: panoramas may be read-only
        density: Array = density_model(frame[None])[0].numpy()
        return density

    return TrainedPredictor(checkpoint_name(path), config.input_height, predict)

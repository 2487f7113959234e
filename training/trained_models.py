"""Open trained models: encoders and saliency models from checkpoints, and predictors from any model file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sal360.arrays import Density, Pixels
from sal360.errors import ModelError, ParameterError, printable
from sal360.predictor import Predictor
from sal360.weights import DEFAULT, WEIGHTS, Weights, bundled_weights
from training.checkpoint import BEST, load_weights, newest_checkpoint, read_header
from training.config import config_from_dict
from training.data.panoramas import PanoramaConfig, Panoramas, open_panoramas
from training.data.views import resize
from training.models.contrastive import ContrastiveConfig, ContrastiveModel
from training.models.prior import PriorConfig, prior_settings_of_header
from training.models.saliency_model import CalibrationConfig, DensityModel, SaliencyModel, SaliencyModelConfig


@dataclass(frozen=True)
class TrainedEncoder:
    """A contrastive model in evaluation mode."""

    name: str
    """Name for tables, from `checkpoint_name`."""
    model: ContrastiveModel
    """The model with its weights."""
    height: int
    """Height of its input, pixels."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device


def best_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_encoder(path: str | Path) -> TrainedEncoder:
    """The contrastive model of a checkpoint, on the GPU if there is one.

    Raises:
        CheckpointError: it is missing, broken or does not hold a contrastive model.
    """
    header = read_header(path, kind="contrastive")
    # the weights come from the checkpoint, not from the start of its training
    config = replace(config_from_dict(ContrastiveConfig, header.config), pretrained=False, weights_file="")
    model = ContrastiveModel(config)
    load_weights(path, model, kind="contrastive")
    return TrainedEncoder(checkpoint_name(path), model.eval().to(best_device()), config.height)


def checkpoint_name(path: str | Path) -> str:
    """Encoder, run folder and step of a checkpoint, for tables: "resnet50 first_run @250"."""
    header = read_header(path)
    return printable(f"{header.config.get('encoder', header.kind)} {_run_of(Path(path)).name} @{header.step}")


def require_distinct(names: Sequence[str], option: str = "models") -> None:
    """Refuse models of one name, whose figures tables could not tell apart.

    Raises:
        ParameterError: naming the option that lists them.
    """
    for name in names:
        if names.count(name) > 1:
            remedy = f"rename a file or folder, or list each model once in --{option}"
            raise ParameterError(f"two models have the name {name}", remedy)


def name_of_run(path: str | Path) -> str:
    """Encoder and run folder of a checkpoint, for the names of model files: "resnet50-first_run"."""
    # a colon, as in timm:convnext_tiny, is not allowed in the file names of every system
    encoder = str(read_header(path).config.get("encoder", "")).replace(":", "-")
    run = printable(_run_of(Path(path)).name)
    return run if encoder and encoder in run else f"{encoder}-{run}".strip("-")


def _run_of(path: Path) -> Path:
    """The folder of the run to which a checkpoint belongs."""
    path = path.resolve() if path.name == "last" else path.absolute()
    path = path.parent if path.suffix == ".safetensors" else path
    is_best = path.name == BEST and newest_checkpoint(path) is None  # else it is a run of this name
    return path.parent if path.name.startswith("step-") or is_best else path


def open_large_enough(config: PanoramaConfig, heights: Sequence[int]) -> Panoramas:
    """The panoramas at the largest of `config.height` and `heights`, so that no model sees them enlarged.

    Raises:
        DataError: they are missing or unusable.
    """
    return open_panoramas(replace(config, height=max(config.height, *heights)))


def saliency_settings(checkpoint: str | Path) -> SaliencyModelConfig:
    """The settings of the saliency model in a checkpoint.

    Raises:
        CheckpointError: it is missing, broken or does not hold a saliency model.
    """
    settings = read_header(checkpoint, kind="saliency").config
    prior = prior_settings_of_header(settings.get("prior", {}))
    return config_from_dict(SaliencyModelConfig, {**settings, "prior": prior})


def read_saliency_model(checkpoint: str | Path, **changes: Any) -> SaliencyModel:
    """The saliency model of a checkpoint, with its weights.

    Args:
        checkpoint: checkpoint folder, run folder or .safetensors file.
        changes: settings that replace those of the checkpoint.

    Raises:
        CheckpointError: it is missing, broken or does not hold a saliency model.
    """
    model = SaliencyModel(replace(saliency_settings(checkpoint), **changes))
    load_weights(checkpoint, model, kind="saliency")
    return model


def read_content_model(checkpoint: str | Path, **changes: Any) -> DensityModel:
    """The saliency model of a checkpoint without equator prior and calibration, ready to predict.

    Raises:
        CheckpointError: it is missing, broken or does not hold a saliency model.
    """
    bare = {"prior": PriorConfig(strength=0.0), "calibration": CalibrationConfig()}
    return DensityModel(read_saliency_model(checkpoint, **bare, **changes), upsample=0).eval()


BUNDLED = "bundled"
"""The name of the default bundled model."""
MODEL_NAMES = (BUNDLED, *(each for each in WEIGHTS if each != DEFAULT))
"""The names of the bundled models."""


def named_weights(model: str) -> Weights | None:
    """The bundled weights that an option `models` or `model` names; None for a path."""
    return DEFAULT if model == BUNDLED else bundled_weights(model)


@dataclass(frozen=True)
class TrainedPredictor:
    """A saliency model that is ready to predict."""

    name: str
    """Name for tables."""
    height: int
    """Height of the panoramas as the model sees them, pixels."""
    predict: Callable[[Pixels], Density]
    """A panorama (H, W, 3) RGB of any size to its density relative to uniform, (h, w)."""


def read_predictor(model: str, prior_strength: float = 1.0) -> TrainedPredictor:
    """A saliency model by its name or path.

    Args:
        model: one of `MODEL_NAMES`, a model file, or a saliency checkpoint (folder or .safetensors).
        prior_strength: exponent of the model's own equator prior; 1 keeps the prior, 0 removes it.

    Raises:
        ModelError: there is no such model, or the model file cannot be run.
        CheckpointError: the checkpoint is broken or does not hold a saliency model.
        ParameterError: the model has no prior, and `prior_strength` is not 1.
    """
    if _is_model_file(model):
        return _file_predictor(model, prior_strength)
    prior = saliency_settings(model).prior
    changed = read_saliency_model(model, prior=replace(prior, strength=prior.strength * prior_strength))
    return _checkpoint_predictor(model, DensityModel(changed, upsample=0).eval())


def read_content_predictor(model: str) -> TrainedPredictor:
    """As `read_predictor`, without the equator prior and, for checkpoints, without the calibration."""
    if _is_model_file(model):
        return _file_predictor(model, prior_strength=0.0)
    return _checkpoint_predictor(model, read_content_model(model))


def _is_model_file(model: str) -> bool:
    if not named_weights(model) and not Path(model).exists():
        raise ModelError(
            f"there is no model {model!r}",
            f"pass {', '.join(MODEL_NAMES)}, a model file, or the folder or file of a saliency checkpoint",
        )
    return bool(named_weights(model)) or (Path(model).is_file() and Path(model).suffix != ".safetensors")


def _file_predictor(model: str, prior_strength: float) -> TrainedPredictor:
    weights = named_weights(model)
    # fp32: the figures of bundled models must not depend on the CPU
    predictor = Predictor(weights or model, precision="fp32" if weights else "auto", prior_strength=prior_strength)
    return TrainedPredictor(printable(Path(model).stem), predictor.spec.input_height, predictor.predict)


def _checkpoint_predictor(checkpoint: str, model: DensityModel) -> TrainedPredictor:
    height, device = model.model.config.input_height, best_device()
    model = model.to(device)

    @torch.inference_mode()
    def predict(panorama: Pixels) -> Density:
        frame = torch.tensor(resize(panorama, height), device=device)  # a copy: panoramas may be read-only
        return np.asarray(model(frame[None])[0].cpu().numpy(), np.float32)

    return TrainedPredictor(checkpoint_name(checkpoint), height, predict)

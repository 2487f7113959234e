"""Trained models, read back: encoders and saliency models from checkpoints, and predictors from any model file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sal360.predictor import Predictor
from sal360.sphere import Array
from training.checkpoint import load_weights, read_header
from training.config import config_from_dict
from training.data.panoramas import PanoramaConfig, Panoramas, open_panoramas
from training.data.views import resize, to_planes
from training.models.contrastive import ContrastiveConfig, ContrastiveModel
from training.models.layers import normalise
from training.models.saliency_model import DensityModel, SaliencyModel, SaliencyModelConfig


@dataclass(frozen=True)
class TrainedEncoder:
    """A contrastive model in evaluation mode."""

    name: str
    """For tables; of `checkpoint_name`."""
    model: ContrastiveModel
    """The model with its weights."""
    height: int
    """Rows of the panoramas it takes, pixels."""


def read_encoder(path: str | Path) -> TrainedEncoder:
    """The contrastive model of a checkpoint.

    Raises:
        CheckpointError: it is missing, broken or not contrastive.
    """
    header = read_header(path, kind="contrastive")
    # the weights come from the checkpoint, not from where its training began
    config = replace(config_from_dict(ContrastiveConfig, header.config), pretrained=False, weights_file="")
    model = ContrastiveModel(config)
    load_weights(path, model, kind="contrastive")
    return TrainedEncoder(checkpoint_name(path), model.eval(), config.height)


def checkpoint_name(path: str | Path) -> str:
    """Encoder, run folder and step of a checkpoint, short enough for a table: "resnet50 first_run @250"."""
    header, path = read_header(path), Path(path)
    run = path.parent if path.suffix == ".safetensors" or path.name.startswith(("step-", "last")) else path
    return f"{header.config.get('encoder', header.kind)} {run.name} @{header.step}"


def open_large_enough(config: PanoramaConfig, heights: Sequence[int]) -> Panoramas:
    """The panoramas with at least as many rows as the largest of `heights`, so that no model sees them enlarged.

    Raises:
        DataError: as `open_panoramas`.
    """
    return open_panoramas(replace(config, height=max(config.height, *heights)))


@torch.inference_mode()
def latents(encoder: TrainedEncoder, panoramas: Panoramas) -> Iterator[tuple[str, Tensor]]:
    """File name and latent Λ_x (512, h, w) of each panorama, one after the other."""
    for index in tqdm(range(len(panoramas)), desc=encoder.name, unit="panorama"):
        view = to_planes(resize(panoramas[index], encoder.height))
        yield Path(panoramas.paths[index]).name, encoder.model.encoder(normalise(torch.from_numpy(view)[None]))[0]


def saliency_settings(checkpoint: str | Path) -> SaliencyModelConfig:
    """The settings of the saliency model in a checkpoint.

    Raises:
        CheckpointError: it is missing, broken or holds no saliency model.
    """
    return config_from_dict(SaliencyModelConfig, read_header(checkpoint, kind="saliency").config)


def read_saliency_model(checkpoint: str | Path, **changes: Any) -> SaliencyModel:
    """The saliency model of a checkpoint, with its weights.

    Args:
        checkpoint: checkpoint folder, run folder or .safetensors file.
        changes: settings in place of the checkpoint's own.

    Raises:
        CheckpointError: it is missing, broken or holds no saliency model.
    """
    model = SaliencyModel(replace(saliency_settings(checkpoint), **changes))
    load_weights(checkpoint, model, kind="saliency")
    return model


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
        model: "bundled", a model file, or a saliency checkpoint (folder or .safetensors).
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
    prior = saliency_settings(path).prior
    saliency_model = read_saliency_model(path, prior=replace(prior, strength=prior.strength * prior_strength))
    density_model = DensityModel(saliency_model, upsample=0).eval()
    height = saliency_model.config.input_height

    @torch.inference_mode()
    def predict(panorama: Array) -> Array:
        frame = torch.tensor(resize(panorama, height))  # a copy: panoramas may be read-only
        density: Array = density_model(frame[None])[0].numpy()
        return density

    return TrainedPredictor(checkpoint_name(path), height, predict)

"""Trained encoders out of contrastive checkpoints, ready to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from training.checkpoint import load_weights, read_header
from training.config import ContrastiveConfig, PanoramaConfig
from training.config.plain import from_plain
from training.data.panoramas import Panoramas, open_panoramas
from training.data.views import resize, to_planes
from training.models.contrastive import ContrastiveModel
from training.models.imagenet import normalise


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
    config = replace(from_plain(ContrastiveConfig, header.config), pretrained=False, weights_file="")
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

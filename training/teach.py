"""Make training targets for panoramas without gaze: predictions of trained models for enlarged panoramas.

    python -m training.teach --checkpoints '[runs/compact_average]' --panoramas PANORAMAS --output runs/taught.npz
    python -m training.train_decoder … --data.taught runs/taught.npz

Encoders recognise objects at the size that they have in photographs. On a panorama of 384 rows a person is about 20
pixels tall; enlarged twice, without additional detail, the same photograph is predicted much better
(docs/model_search.md). That is too slow for a camera, so the model learns to predict at its own size the map that it
predicts for the larger picture (knowledge distillation: Hinton, Vinyals and Dean, 2015). Averaging over sizes, mirror
images and models reduces the noise.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sal360.arrays import Pixels, Reals
from sal360.errors import one_line_errors
from sal360.files import check_folder_is_writable
from training.checkpoint import joined, read_header
from training.config import option_names, read_config, require, require_path
from training.data.panoramas import PanoramaConfig, open_panoramas
from training.data.taught_maps import average_to, names_below, write_taught
from training.models.saliency_model import DensityModel, SaliencyModel
from training.trained_models import read_content_model, saliency_settings


@dataclass(frozen=True)
class TeachConfig:
    """The teachers, and the panoramas that they predict."""

    checkpoints: tuple[str, ...]
    """Checkpoints, run folders or .safetensors files of saliency models; their settings may differ."""
    panoramas: str
    """Folder of panoramas without gaze."""
    output: str
    """Path of the .npz file with the maps."""
    heights: tuple[int, ...] = (384, 576, 768)
    """Heights of the panoramas in the teachers' input, pixels; multiples of 64."""
    stride: int = 8
    """Stride of the maps at the smallest of the heights: 1, 2, 4, 8 or 16."""

    def __post_init__(self) -> None:
        require("checkpoints", self.checkpoints, len(self.checkpoints) > 0, "at least one")
        require_path("panoramas", self.panoramas, "a folder of panoramas")
        whole = len(self.heights) > 0 and all(height >= 64 and height % 64 == 0 for height in self.heights)
        require("heights", self.heights, whole, "multiples of 64, at least one")
        require("stride", self.stride, self.stride in (1, 2, 4, 8, 16), "1, 2, 4, 8 or 16")
        require("output", self.output, self.output.endswith(".npz"), "a file name that ends in .npz")


def teach(config: TeachConfig) -> dict[str, Reals]:
    """Write the maps and return them: densities relative to uniform (h, w), by the panoramas' names.

    Raises:
        CheckpointError: a checkpoint is missing, broken or does not hold a saliency model.
        DataError: the panoramas are missing or broken.
        ParameterError: the stride is finer than that of a model.
        OSError: the file cannot be written.
    """
    check_folder_is_writable(Path(config.output).parent)
    smallest = min(config.heights)
    map_size = smallest // config.stride, 2 * smallest // config.stride
    for checkpoint in config.checkpoints:
        settings = saliency_settings(checkpoint)
        stride = settings.input_height // SaliencyModel.map_size_of(settings)[0]
        with option_names():
            require("stride", config.stride, config.stride >= stride, f"{stride} or more, as {checkpoint} has it")
    sums: dict[str, Reals] = {}
    sizes = [(height, checkpoint) for height in config.heights for checkpoint in config.checkpoints]
    for height, checkpoint in tqdm(sizes, desc="teaching", unit="model", disable=None):
        panoramas = open_panoramas(PanoramaConfig(config.panoramas, height))
        # without prior and calibration, because the student has its own
        with option_names(input_height="heights", scales="heights"):
            model = read_content_model(checkpoint, input_height=height).to(memory_format=torch.channels_last)
        for index, name in enumerate(names_below(config.panoramas, panoramas.paths)):
            taught = average_to(_mean_with_mirror_image(model, panoramas[index]), map_size)
            sums[name] = sums.get(name, 0) + taught / len(sizes)
    write_taught(config.output, sums, joined(*(read_header(each).learnt_from for each in config.checkpoints)))
    return sums


@torch.no_grad()
def _mean_with_mirror_image(model: DensityModel, panorama: Pixels) -> Reals:
    """Mean of the densities (h, w) of a panorama (H, W, 3) and of its mirror image, mirrored back."""
    densities = model(torch.from_numpy(np.stack([panorama, panorama[:, ::-1]]))).numpy()  # (2, h, w)
    return np.asarray((densities[0] + densities[1, :, ::-1]) / 2)


def main() -> None:
    """The command `python -m training.teach`."""
    config = read_config(TeachConfig, "Make maps of panoramas for a model to learn.")
    print(f"{config.output}: maps of {len(teach(config))} panoramas")


if __name__ == "__main__":
    sys.exit(one_line_errors(main))

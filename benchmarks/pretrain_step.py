"""Speed of pretraining: python benchmarks/pretrain_step.py [--json] [--encoder resnet50] [--data PANORAMAS].

Panoramas per second of the whole loop (`training.loop.train` with loader, objective, optimiser and curves), compared
with (a) the same model, objective and optimiser in eager float32 on a fixed batch, and (b) the loader alone. Rounds of
loop and eager alternate, and medians are reported: ratios are more reliable than absolute figures. Without --data,
random panoramas are used.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from sal360.errors import clean_end, one_line_errors
from training.contrastive_loss import ContrastiveObjective, ObjectiveConfig
from training.data.panoramas import PanoramaConfig
from training.loop import LoopConfig, make_fabric, train
from training.models.contrastive import ContrastiveConfig, ContrastiveModel
from training.models.encoders import ENCODERS
from training.optimiser import OptimiserConfig, make_optimiser
from training.pretrain import PretrainConfig, PretrainTask, Source, open_views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--encoder", default="compact", choices=sorted(ENCODERS))
    parser.add_argument("--data", default="", help="folder of panoramas")
    parser.add_argument("--batch", type=int, default=8, help="panoramas per step; two views of each")
    parser.add_argument("--steps", type=int, default=3, help="measured steps per round, after as many warm-up steps")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--workers", type=int, default=1, help="number of loader processes")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or str(draw_panoramas(Path(folder) / "panoramas"))
        loops, eagers = [], []
        for number in range(arguments.rounds):
            config = settings(arguments, data, folder, f"run{number}")
            fabric = make_fabric(config.loop)
            source = open_views(config, fabric)
            loops.append(train(PretrainTask(config, source, fabric), config.loop, config.optimiser, fabric))
            eagers.append(eager_images_per_s(config, source, arguments.steps))
        loader = loader_images_per_s(source, config, 200)
    speeds = [each["speed/images_per_s"] for each in loops]
    loop, eager = statistics.median(speeds), statistics.median(eagers)
    result = {
        "encoder": arguments.encoder,
        "settings": {name: getattr(config.loop, name) for name in ("precision", "channels_last", "compile", "workers")},
        "unit": "panoramas/s",
        "loop": loop,
        "eager_fp32": eager,
        "loader_alone": loader,
        "loop_over_eager": loop / eager,
        "loader_over_loop": loader / loop,
        "waiting_for_data": statistics.median(each["speed/waiting_for_data"] for each in loops),
        "rounds": {"loop": speeds, "eager_fp32": eagers},
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{arguments.encoder}, {result['settings']}, panoramas/s:")
    print(f"  loop {loop:.2f}   eager fp32 {eager:.2f} (x {loop / eager:.2f})   loader alone {loader:.0f}")
    print(f"  waiting for data {result['waiting_for_data']:.2%} of the time")


def settings(arguments: argparse.Namespace, data: str, folder: str, run: str) -> PretrainConfig:
    """A run with twice the measured steps: the last point of its curves is the mean over the second half."""
    return PretrainConfig(
        data=PanoramaConfig(data, cache=f"{folder}/cache"),
        loop=LoopConfig(
            run=f"{folder}/{run}",
            steps=2 * arguments.steps,
            batch_size=arguments.batch,
            workers=arguments.workers,
            precision=arguments.precision,
            channels_last=arguments.channels_last,
            compile=arguments.compile,
            log_every_steps=arguments.steps,
            evaluate_every_epochs=1000,
        ),
        model=ContrastiveConfig(encoder=arguments.encoder),
        objective=ObjectiveConfig(),
        optimiser=OptimiserConfig(name="sgd", learning_rate=0.01, schedule="constant"),
        retrieval_panoramas=2,
    )


def eager_images_per_s(config: PretrainConfig, source: Source, steps: int) -> float:
    """Panoramas per second of forward, objective, backward and optimiser in float32, without a loader."""
    view, turned, indices = next(source.batches(0, 1))
    model, objective = ContrastiveModel(config.model), ContrastiveObjective(source.count, config.objective)
    optimiser = make_optimiser(model, config.optimiser)

    def step() -> None:
        output = model(view, turned)
        objective(output, indices).total.backward()
        optimiser.step()
        optimiser.zero_grad()
        objective.update(output.global_embedding.detach(), indices)

    step()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * len(indices) / (time.perf_counter() - begin)


def loader_images_per_s(source: Source, config: PretrainConfig, batches: int) -> float:
    """Panoramas per second of the loader alone, after its processes have started."""
    loading = source.batches(0, batches + 8)
    for _ in range(8):
        next(loading)
    begin = time.perf_counter()
    for _ in range(batches):
        next(loading)
    return batches * config.loop.batch_size / (time.perf_counter() - begin)


def draw_panoramas(root: Path, count: int = 64) -> Path:
    """Write smooth random panoramas, 2048 x 1024, as JPEG files."""
    root.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (32, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"{number:03d}.jpg"), cv2.resize(coarse, (2048, 1024), interpolation=cv2.INTER_CUBIC))
    return root


if __name__ == "__main__":
    torch.manual_seed(0)
    with clean_end():
        sys.exit(one_line_errors(main))

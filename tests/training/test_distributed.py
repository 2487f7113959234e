"""Two processes learn the same as one from the whole batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

# Imports once, then forks: one process, and two as torchrun would start them. Each takes one step of the whole loop.
SCRIPT = """
    import os, signal, socket, sys, time
    from pathlib import Path
    import numpy as np, torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook
    from training.contrastive_loss import ObjectiveConfig
    from training.pretrain import PretrainConfig
    from training.data.loader import StepSampler, load
    from training.data.panoramas import PanoramaConfig, PanoramaViews
    from training.data.views import ViewConfig, ViewPair
    from training.loop import LoopConfig, make_fabric, train
    from training.models.contrastive import ContrastiveConfig
    from training.optimiser import OptimiserConfig
    from training.pretrain import PretrainTask, Source
    from training import processes
    from training.loop import Task

    generator = np.random.default_rng(0)
    panoramas = [generator.integers(0, 256, (64, 128, 3), dtype=np.uint8) for _ in range(12)]

    def step(out):
        config = PretrainConfig(
            data=PanoramaConfig("unused", 64),
            loop=LoopConfig(str(out), steps=1, batch_size=8, workers=0, accelerator="cpu", channels_last=False),
            model=ContrastiveConfig(encoder="compact", height=64),
            views=ViewConfig(height=64),
            objective=ObjectiveConfig(negatives=5),
            optimiser=OptimiserConfig(name="sgd", learning_rate=0.01),
        )
        fabric = make_fabric(config.loop)
        place = dict(rank=fabric.global_rank, world=fabric.world_size)

        def batches(start, stop):
            sampler = StepSampler(12, batch_size=8, seed=0, start=start, stop=stop, **place)
            return load(PanoramaViews(panoramas, ViewPair(0, config.views)), sampler, 0)

        own = panoramas[fabric.global_rank :: fabric.world_size]
        task = PretrainTask(config, Source(12, 1, batches, own), fabric)
        task.model.eval()
        with torch.no_grad():
            scores = task.retrieval(task.model, fabric.device)
        gradients = {}

        def keep(*_):
            gradients.update({name: each.grad.clone() for name, each in task.model.named_parameters()})

        hook = register_optimizer_step_pre_hook(keep)
        train(task, config.loop, config.optimiser, fabric)
        hook.remove()
        state = dict(task.model.named_buffers(), memory=task.objective.memory)
        processes._ASK_EVERY_S = 0.05
        together = {
            "shares": processes.in_shares(11, lambda index: (index, fabric.global_rank), "test"),
            "waited": processes.first_process_does(fabric, lambda: time.sleep(0.3) or fabric.global_rank),
            "scores": scores,
        }
        if fabric.world_size > 1:
            together["stopped"] = stopped_by_a_signal_to_the_second(out, fabric)
        torch.save({"gradients": gradients, "state": state, "together": together}, f"{out}-{fabric.global_rank}.pt")

    class Line(Task):
        kind, config, steps_per_epoch = "saliency", {}, 100

        def __init__(self, rank):
            self.model, self.rank, self.done = torch.nn.Linear(2, 1), rank, 0

        def batches(self, start, stop):
            return [torch.ones(4, 2)] * (stop - start)

        def losses(self, model, batch):
            return {"loss": model(batch).square().mean()}

        def after_step(self):
            self.done += 1
            if (self.done, self.rank) == (3, 1):
                os.kill(os.getpid(), signal.SIGTERM)

    def stopped_by_a_signal_to_the_second(out, fabric):
        config = LoopConfig(f"{out}-line", steps=50, batch_size=8, workers=0, accelerator="cpu")
        task = Line(fabric.global_rank)
        try:
            train(task, config, OptimiserConfig(name="sgd"), fabric)
        except SystemExit as ended:
            return ended.code, task.done

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for world in (1, 2):
        children = []
        for rank in range(world):
            if not (child := os.fork()):
                if world > 1:
                    os.environ.update(
                        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
                        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0",
                    )
                step(Path(sys.argv[1]) / f"world{world}")
                os._exit(0)
            children.append(child)
        assert not any(os.waitpid(child, 0)[1] for child in children)
"""


def test_two_processes_have_the_gradient_of_one_with_the_whole_batch(tmp_path: Path, repository: Path) -> None:
    script = textwrap.dedent(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("world1-0", "world2-0", "world2-1"))
    expected, found = (torch.cat([each.flatten() for each in run["gradients"].values()]) for run in (one, first))
    assert expected.norm() > 0
    assert (expected - found).norm() < 1e-5 * expected.norm()
    for name, value in one["state"].items():  # batch statistics and memory bank
        torch.testing.assert_close(value, first["state"][name], rtol=1e-4, atol=1e-6, msg=name)
    check_what_they_did_together(one["together"], first["together"], second["together"])
    for kind in ("gradients", "state"):
        for name, value in first[kind].items():
            assert torch.equal(value, second[kind][name]), name


def check_what_they_did_together(one: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> None:
    assert [index for index, _ in first["shares"]] == list(range(11))
    assert {rank for _, rank in first["shares"]} == {0, 1}
    assert first["shares"] == second["shares"]
    assert first["waited"] == second["waited"] == 0  # what the first process returned
    assert first["scores"] == pytest.approx(one["scores"], abs=1e-5)
    assert first["scores"] == second["scores"]
    assert first["stopped"] == second["stopped"] == (128 + signal.SIGTERM, 4)

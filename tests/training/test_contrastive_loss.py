"""The objective against slow oracles: loops over samples, negatives and locations."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sal360.errors import DataError, ParameterError
from training.contrastive_loss import ContrastiveObjective, ObjectiveConfig, noise_contrastive_loss
from training.models.contrastive import ContrastiveOutput

CHANNELS = 8


def make_objective(n_data: int = 12, **settings: Any) -> ContrastiveObjective:
    return ContrastiveObjective(n_data, ObjectiveConfig(**settings), channels=CHANNELS, seed=3)


def make_output(samples: int = 4, seed: int = 0) -> ContrastiveOutput:
    generator = torch.Generator().manual_seed(seed)
    global_embedding = functional.normalize(torch.randn(samples, CHANNELS, generator=generator), dim=1)
    local_embedding = functional.normalize(torch.randn(samples, CHANNELS, 3, 5, generator=generator), dim=1)
    return ContrastiveOutput(global_embedding, local_embedding)


def slow_scores(embedding: list[Tensor], memory: Tensor, own: int, others: list[int]) -> list[float]:
    """Positive first: the mean over locations of ψ_ij · m, over T."""
    scores = []
    for entry in [own, *others]:
        products = [sum(float(vector[c]) * float(memory[entry, c]) for c in range(CHANNELS)) for vector in embedding]
        scores.append(sum(products) / len(products) / 0.07)
    return scores


def slow_nce(scores: list[list[float]], n_data: int) -> float:
    """Z is n times the mean of exp over the batch; every score is data or noise with P_n = 1 / n."""
    everything = [math.exp(score) for row in scores for score in row]
    z = n_data * sum(everything) / len(everything)
    noise = (len(scores[0]) - 1) / n_data  # K · P_n
    loss = 0.0
    for row in scores:
        probability = [math.exp(score) / z for score in row]
        loss -= math.log(probability[0] / (probability[0] + noise))
        loss -= sum(math.log(noise / (p + noise)) for p in probability[1:])
    return loss / len(scores)


def slow_infonce(scores: list[list[float]]) -> float:
    return -sum(math.log(math.exp(row[0]) / sum(map(math.exp, row))) for row in scores) / len(scores)


@pytest.mark.parametrize("loss", ["nce", "infonce"])
def test_loss_is_that_of_the_loops(loss: str) -> None:
    objective, output, indices = make_objective(loss=loss), make_output(), [5, 0, 11, 7]
    parts = objective(output, torch.tensor(indices))
    scores: dict[str, list[list[float]]] = {"global": [], "local": []}
    for sample, own in enumerate(indices):
        others = [entry for entry in range(12) if entry != own]
        locations = [output.local_embedding[sample, :, i, j] for i in range(3) for j in range(5)]
        scores["global"].append(slow_scores([output.global_embedding[sample]], objective.memory, own, others))
        scores["local"].append(slow_scores(locations, objective.memory, own, others))
    expected = {name: slow_nce(rows, 12) if loss == "nce" else slow_infonce(rows) for name, rows in scores.items()}
    assert float(parts.global_nce) == pytest.approx(expected["global"], rel=1e-5)
    assert float(parts.local_nce) == pytest.approx(expected["local"], rel=1e-5)
    assert float(parts.total) == pytest.approx(0.3 * expected["global"] + 0.7 * expected["local"], rel=1e-5)
    positive = sum(row[0] for row in scores["global"]) / 4 * 0.07
    negative = sum(sum(row[1:]) for row in scores["global"]) / 44 * 0.07
    assert float(parts.positive_similarity) == pytest.approx(positive, abs=1e-6)
    assert float(parts.negative_similarity) == pytest.approx(negative, abs=1e-6)


def test_nce_is_least_where_the_model_knows_the_noise() -> None:
    """The gradient vanishes in expectation where exp(l) / Z is the density of the data: here with one negative."""
    log_probability = torch.full((1, 2), math.log(1 / 10), requires_grad=True)
    noise_contrastive_loss(log_probability, n_data=10).backward()
    assert log_probability.grad is not None
    # p = P_n: the posterior of data is ½, for the positive and for the negative alike
    torch.testing.assert_close(log_probability.grad, torch.tensor([[-0.5, 0.5]]))


def test_normaliser_is_fixed_by_the_first_batch() -> None:
    objective = make_objective()
    assert math.isnan(objective.global_normaliser)
    objective(make_output(seed=0), torch.tensor([0, 1, 2, 3]))
    first = objective.global_normaliser.clone(), objective.local_normaliser.clone()
    objective(make_output(seed=1), torch.tensor([4, 5, 6, 7]))
    assert (objective.global_normaliser, objective.local_normaliser) == first
    assert first[0] != first[1]


def test_memory_moves_towards_the_global_embedding_only() -> None:
    objective, output = make_objective(memory_momentum=0.25), make_output(2)
    before = objective.memory.clone()
    objective.update(output.global_embedding, torch.tensor([9, 4]))
    for sample, entry in enumerate((9, 4)):
        new = output.global_embedding[sample]
        mixed = [0.25 * float(before[entry, c]) + 0.75 * float(new[c]) for c in range(CHANNELS)]
        norm = math.sqrt(sum(value * value for value in mixed))
        assert objective.memory[entry].tolist() == pytest.approx([value / norm for value in mixed], abs=1e-6)
    untouched = [entry for entry in range(12) if entry not in (9, 4)]
    assert torch.equal(objective.memory[untouched], before[untouched])


def test_memory_begins_with_random_unit_vectors() -> None:
    memory = ContrastiveObjective(2000, ObjectiveConfig(), seed=0).memory
    assert memory.shape == (2000, 512)
    torch.testing.assert_close(memory.norm(dim=1), torch.ones(2000))
    assert memory.mean(dim=0).norm() < 0.05  # no direction is preferred


@pytest.mark.parametrize(("n_data", "wanted", "drawn"), [(12, 16000, 11), (12, 5, 5), (2, 16000, 1)])
def test_negatives_are_distinct_and_never_the_positive(n_data: int, wanted: int, drawn: int) -> None:
    objective = make_objective(n_data, negatives=wanted)
    objective.memory = functional.one_hot(torch.arange(n_data), n_data).float()  # a score then names its entry
    indices = torch.arange(2)
    seen = torch.zeros(n_data)
    for _ in range(300 if drawn < n_data - 1 else 1):
        candidates = objective._draw_candidates(indices.device)
        weights = torch.arange(1.0, n_data + 1).expand(2, -1)  # entry e scores e + 1
        scores = objective._scores(weights, objective.memory[indices], indices, candidates) * 0.07
        assert scores.shape == (2, 1 + drawn)
        assert scores[:, 0].round().tolist() == [1, 2]
        for row, own in zip(scores[:, 1:].round().int().tolist(), (1, 2), strict=True):
            assert own not in row
            assert len(set(row)) == drawn
        seen[(scores[0, 1:].round() - 1).long()] += 1
    if drawn < n_data - 1:  # uniform over the others: each is drawn 300 · 5 / 11 = 136 times, ± 9
        assert seen[0] == 0
        assert seen[1:].min() > 90
        assert seen[1:].max() < 182


def test_draws_differ_from_step_to_step() -> None:
    objective = make_objective(negatives=5)
    draws = {tuple(objective._draw_candidates(torch.device("cpu")).tolist()) for _ in range(20)}
    assert len(draws) == 20


def test_a_restored_objective_continues_bit_for_bit(tmp_path: Path) -> None:
    def step(objective: ContrastiveObjective, seed: int) -> Tensor:
        output, indices = make_output(seed=seed), torch.tensor([1, 2, 3, 4])
        total = objective(output, indices).total
        objective.update(output.global_embedding, indices)
        return total

    objective = make_objective(negatives=5)
    for seed in range(3):
        step(objective, seed)
    torch.save(objective.state_dict(), tmp_path / "state.pt")
    restored = ContrastiveObjective(12, ObjectiveConfig(negatives=5), channels=CHANNELS, seed=99)
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for seed in range(3, 6):
        assert torch.equal(step(objective, seed), step(restored, seed))
    assert torch.equal(objective.memory, restored.memory)


def test_loss_stays_float32_under_bf16() -> None:
    output, indices = make_output(), torch.tensor([0, 1, 2, 3])
    expected = make_objective()(output, indices).total
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(make_objective()(output, indices).total, expected)


def test_the_loss_of_similar_embeddings_is_lower() -> None:
    objective, indices = make_objective(), torch.tensor([0, 1, 2, 3])
    objective(make_output(), indices)  # fixes Z
    matching = objective.memory[indices]
    own = ContrastiveOutput(matching, matching[:, :, None, None].expand(-1, -1, 3, 5))
    swapped = ContrastiveOutput(matching.flip(0), matching.flip(0)[:, :, None, None].expand(-1, -1, 3, 5))
    assert objective(own, indices).total < objective(swapped, indices).total


def test_one_panorama_is_too_few() -> None:
    with pytest.raises(DataError, match="1 panoramas"):
        make_objective(1)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"negatives": 0}, {"memory_momentum": 1.5}, {"local_weight": -0.1}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=f"^{next(iter(settings))} is"):
        ObjectiveConfig(**settings)  # type: ignore[arg-type]


# One process of two. First the whole batch alone, then half of it with the other process, the gradients averaged as
# DDP does: two steps with a linear "encoder", for both losses.
_PROCESS = """
import json
from types import SimpleNamespace
import torch, torch.distributed as dist
from torch.nn import functional
from training.contrastive_loss import ContrastiveObjective, ObjectiveConfig
from training.loop import LoopConfig, make_fabric

def run(loss, rank, world, fabric=None):
    torch.manual_seed(0)
    pictures, weight = torch.randn(2, 6, 10, 3, 5), torch.randn(8, 10, requires_grad=True)
    indices = torch.tensor([[4, 30, 2, 9, 0, 7], [3, 4, 30, 12, 1, 0]])
    objective = ContrastiveObjective(40, ObjectiveConfig(loss=loss, negatives=7), channels=8, seed=1, fabric=fabric)
    share = slice(rank * 6 // world, (rank + 1) * 6 // world)
    gradients = []
    for step in range(2):
        latent = torch.einsum("oc,bchw->bohw", weight, pictures[step, share])
        embedding = functional.normalize(latent.mean(dim=(2, 3)), dim=1)
        output = SimpleNamespace(global_embedding=embedding, local_embedding=functional.normalize(latent, dim=1))
        (gradient,) = torch.autograd.grad(objective(output, indices[step, share]).total, weight)
        objective.update(embedding.detach(), indices[step, share])
        if world > 1:
            dist.all_reduce(gradient)
        gradients.append((gradient / world).tolist())
    return {"gradients": gradients, "memory": objective.memory.tolist()}

losses = ("nce", "infonce")
alone = [run(loss, 0, 1) for loss in losses]
fabric = make_fabric(LoopConfig("unused", steps=1, accelerator="cpu"))
together = [run(loss, fabric.global_rank, 2, fabric) for loss in losses]
print(json.dumps({"one": alone, "two": together}))
dist.destroy_process_group()
"""


def test_two_processes_give_the_gradient_of_one(repository: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in ("0", "1"):  # as torchrun would start them
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
        place |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environment = {**os.environ, **place, "PYTHONPATH": str(repository)}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", _PROCESS], stdout=subprocess.PIPE, text=True, cwd=repository, env=environment
            )
        )
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for result in map(json.loads, outputs):
        for one, two in zip(result["one"], result["two"], strict=True):
            scale = np.abs(one["gradients"]).max()
            assert scale > 0.01
            np.testing.assert_allclose(two["gradients"], one["gradients"], rtol=1e-5, atol=1e-6 * scale)
            np.testing.assert_allclose(two["memory"], one["memory"], atol=1e-6)

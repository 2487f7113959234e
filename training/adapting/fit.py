"""Fit an ending to gaze by likelihood, and find out by leaving scenes out whether that helps on others.

Each scene counts the same, however many pictures and people it has. The numbers of an ending have distributions around
the model's own (`ending_family`). How many independent observations a scene counts as against them, because the
fixations of one scene depend on each other, is unknown, and few scenes may tell the prior but not the rest. So there
are several `CANDIDATES`, from cautious to free, and the one is chosen whose gain is the surest.

The gain on a scene is that of an ending that was fitted to other scenes, by the candidate whose gain on the other
scenes is the surest. So the choice costs as much as it would on new scenes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import avg_pool2d
from tqdm import tqdm

from sal360.arrays import Floats, Integers
from training.adapting.ending_family import EndingFamily

_PRIOR = ("strength", "elevation", "longitude")
_ALL = ("temperature", "blur", "floor", "scales", *_PRIOR)


class Candidate(NamedTuple):
    """A way to fit."""

    names: tuple[str, ...]
    """The numbers that are fitted."""
    observations: float
    """How many independent observations a scene counts as."""


CANDIDATES = (Candidate(_ALL, 1.0), Candidate(_PRIOR, 8.0), Candidate(_ALL, 8.0), Candidate(_ALL, 64.0))
"""From cautious to free."""
_MAX_PARTS = 20
"""With more scenes, several are left out together."""
_MAX_ROWS = 48
"""Approximate number of rows of the grid on which likelihood is fitted; it is measured on the map's own."""
_MIN_DENSITY = 1e-6
"""Relative to uniform: lower limit of a density before its logarithm is taken."""
_GRADIENT = 3e-3
"""Largest slope at which a fit has converged, nats per standard deviation of a number: the rest is below 1e-4 nats."""


@dataclass(frozen=True)
class Examples:
    """Pictures with gaze, as the fit needs them."""

    content: Tensor
    """(n, h, w), the model's content."""
    mass: Tensor
    """(n, h, w), the share of a picture's gaze on each pixel; adds up to 1 for each picture."""
    before: Tensor
    """(n, h, w), the density that the model predicts before it is adapted."""
    scene: Integers
    """(n,) from 0, the scene of each picture; at least two."""


@dataclass(frozen=True)
class Fitted:
    """An ending that was fitted, and its gain on scenes to which it was not."""

    candidate: Candidate
    """How it was fitted."""
    numbers: Tensor
    """(p,), fitted to all scenes."""
    left_out: list[Tensor]
    """For each scene, the numbers (p,) that were fitted to others."""
    gains: Floats
    """(scenes,), gain in log-likelihood of each scene that was left out, nats per fixation."""

    @property
    def gain(self) -> float:
        """Mean gain, nats per fixation."""
        return float(self.gains.mean())

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean gain over scenes."""
        half = _half_interval(self.gains)
        return self.gain - half, self.gain + half


def fit(family: EndingFamily, examples: Examples) -> Fitted:
    """Fit every candidate, with and without each scene, and choose one.

    Args:
        family: the endings.
        examples: gaze in at least two scenes.
    """
    with _one_thread():
        return _fit(family, examples)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The products are small: on a busy machine, threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit(family: EndingFamily, examples: Examples) -> Fitted:
    measure = _Measure(family, examples)
    own = measure.losses_of(examples.before)
    parts = np.array_split(np.arange(len(own)), min(len(own), _MAX_PARTS))
    likelihood = _Likelihood(family, examples)
    with tqdm(total=len(CANDIDATES) * (1 + len(parts)), desc="fit", unit="fit", disable=None) as progress:
        fits = [_fit_candidate(likelihood, candidate, parts, progress) for candidate in CANDIDATES]
    gains = np.stack([own - measure.losses_left_out(left_out) for _, left_out in fits])  # (candidates, scenes)
    chosen = [_surest(np.delete(gains, scene, axis=1)) for scene in range(len(own))]
    best = _surest(gains)
    return Fitted(
        CANDIDATES[best],
        fits[best][0],
        [fits[each][1][scene] for scene, each in enumerate(chosen)],
        gains[chosen, np.arange(len(own))],
    )


def _surest(gains: Floats) -> int:
    """The candidate of gains (candidates, scenes) whose interval of the mean begins highest."""
    lowest = [float(each.mean()) - (_half_interval(each) if len(each) > 1 else 0.0) for each in gains]
    return int(np.argmax(lowest))


def _half_interval(gains: Floats) -> float:
    """Half of the 95 % interval of the mean of gains (n,), n > 1, by Student's distribution: scenes may be few."""
    return float(stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / math.sqrt(len(gains)))


class _Measure:
    """Minus the mean log-likelihood of the gaze in each scene, nats per fixation, on the grid of the map."""

    def __init__(self, family: EndingFamily, examples: Examples) -> None:
        self._family, self._examples = family, examples

    def losses_of(self, density: Tensor) -> Floats:
        """The loss of each scene with densities (n, h, w)."""
        losses = _negative_log_likelihood(density, self._examples.mass).double().numpy()
        scene = self._examples.scene
        return np.asarray(np.bincount(scene, losses) / np.bincount(scene))

    @torch.no_grad()
    def losses_left_out(self, numbers: Sequence[Tensor]) -> Floats:
        """The loss of each scene with its own numbers (p,)."""
        examples = self._examples
        maps = [
            self._family.density(self._family.scales(content[None]), numbers[scene])[0]
            for content, scene in zip(examples.content, examples.scene, strict=True)
        ]
        return self.losses_of(torch.stack(maps))


class _Likelihood:
    """The likelihood that is fitted: that of `_Measure` on a grid of at most `_MAX_ROWS` rows, and its gradient."""

    def __init__(self, family: EndingFamily, examples: Examples) -> None:
        factor = max(1, family.map_size[0] // _MAX_ROWS)
        factor = factor if family.map_size[0] % factor == 0 else 1
        self._family = family.coarser(factor)
        self._scales = self._family.scales(avg_pool2d(examples.content, factor))  # (3, n, h, w)
        self._mass = factor**2 * avg_pool2d(examples.mass, factor)
        self._scene = examples.scene
        self._weight = torch.from_numpy(1 / np.bincount(self._scene)[self._scene]).float()  # (n,)

    @property
    def deviations(self) -> Tensor:
        """Standard deviations of the numbers, (p,)."""
        return self._family.deviations

    def places(self, names: Sequence[str]) -> list[int]:
        """Indices of the numbers with these names."""
        return self._family.places(names)

    def of(self, scenes: Integers) -> Callable[[Tensor], tuple[float, Floats]]:
        """The mean loss of some scenes and its gradient (p,), as a function of the numbers (p,)."""
        chosen = torch.from_numpy(np.flatnonzero(np.isin(self._scene, scenes)))
        scales, mass, weight = self._scales[:, chosen], self._mass[chosen], self._weight[chosen] / len(scenes)

        def loss_and_gradient(numbers: Tensor) -> tuple[float, Floats]:
            at = numbers.clone().requires_grad_()
            loss = weight @ _negative_log_likelihood(self._family.density(scales, at), mass)
            (gradient,) = torch.autograd.grad(loss, at)
            return loss.item(), gradient.double().numpy()

        return loss_and_gradient


def _negative_log_likelihood(density: Tensor, mass: Tensor) -> Tensor:
    """Of each picture's gaze, nats per fixation: (n,) of densities and masses (n, h, w)."""
    return -(mass * torch.log(density.clamp_min(_MIN_DENSITY))).sum((1, 2))


def _fit_candidate(
    likelihood: _Likelihood, candidate: Candidate, parts: Sequence[Integers], progress: tqdm[None]
) -> tuple[Tensor, list[Tensor]]:
    """The numbers (p,) fitted to all scenes, and for each scene those fitted without its part."""
    free = likelihood.places(candidate.names)
    deviations = likelihood.deviations.double().numpy()[free]
    scenes = np.concatenate(parts)

    def numbers_of(values: Floats) -> Tensor:
        """All numbers (p,) from the free ones in standard deviations; the others are the model's own."""
        numbers = torch.zeros(len(likelihood.deviations))
        numbers[free] = torch.from_numpy(deviations * values).float()
        return numbers

    def fit_to(some: Integers, start: Floats, inverse_curvature: Floats | None) -> tuple[Floats, Floats]:
        loss_and_gradient = likelihood.of(some)
        count = candidate.observations * len(some)

        def objective(values: Floats) -> tuple[float, Floats]:
            loss, gradient = loss_and_gradient(numbers_of(values))
            return loss + float(values @ values) / (2 * count), gradient[free] * deviations + values / count

        options = {"gtol": _GRADIENT, "maxiter": 100, "hess_inv0": inverse_curvature}
        found = minimize(objective, start, jac=True, method="BFGS", options=options)
        progress.update()
        return found.x, (found.hess_inv + found.hess_inv.T) / 2

    everything, inverse_curvature = fit_to(scenes, np.zeros(len(free)), None)
    left_out: list[Tensor] = []
    for part in parts:
        found, _ = fit_to(np.setdiff1d(scenes, part), everything, inverse_curvature)
        left_out += [numbers_of(found)] * len(part)
    return numbers_of(everything), left_out

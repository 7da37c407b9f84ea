"""A loss that compares the energies of different predictions, so that high energies tell of mistakes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ebt.thinking.descent import Energy, with_step
from ebt.thinking.geometry import Geometry
from ebt.thinking.noise import precise
from ebt.thinking.thought import Thought

ROUNDS = 4
"""Number of partners that each part is compared with."""
STEEPNESS = 2.0
"""Difference, in the logistic function, of energies that lie one standard deviation apart."""
LEAST = 1.0
"""Smaller deviations count as this one: fresh landscapes are nearly flat, and would get huge gradients."""


def ranking_loss(
    energies: Tensor, mistakes: Tensor, scored: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Logistic loss of pairs: the part with the larger mistake should have the higher energy (RankNet, Burges et al. 2005).

    The mean of ``log(1 + exp(-2 (E_i - E_j) / s))`` over random pairs with ``mistake_i > mistake_j``, where ``s`` is the
    standard deviation of all energies, at least 1. So the order of energies counts, and hardly their scale or their mean.

    Args:
        energies: Energies (N, *P), times the step size: on a vocabulary, in nats.
        mistakes: Size of the mistake of each part, (N, *P): 1 if wrong and 0 if right, or a distance.
        scored: Mask of the parts to compare, (N, *P). Default: all.
        generator: Source of the pairs.

    Returns:
        A scalar. 0 if all mistakes are equal.
    """
    energies, mistakes = precise(energies).flatten(), mistakes.flatten()
    counted = torch.ones_like(energies) if scored is None else scored.flatten().to(energies.dtype)
    scaled = STEEPNESS * energies / _deviation(energies.detach(), counted)
    total, pairs = energies.new_zeros(()), energies.new_zeros(())
    for _ in range(ROUNDS):
        other = torch.randperm(len(energies), generator=generator, device=energies.device)
        order = torch.sign(mistakes - mistakes[other]) * counted * counted[other]
        total = total + (F.softplus(-order * (scaled - scaled[other])) * order.abs()).sum()
        pairs = pairs + order.abs().sum()
    return total / pairs.clamp(min=1)


def _deviation(energies: Tensor, counted: Tensor) -> Tensor:
    """Standard deviation of the counted energies, at least ``LEAST``."""
    number = counted.sum().clamp(min=1)
    mean = (energies * counted).sum() / number
    deviation = (((energies - mean) ** 2 * counted).sum() / number).sqrt()
    return deviation.clamp(min=LEAST)


def rank(
    energy: Energy, geometry: Geometry, thought: Thought, target: Tensor, step: int, generator: torch.Generator | None = None
) -> Tensor:
    """The ranking loss of the final states of a descent. Gradients reach the weights of the energy, not the states.

    Args:
        energy: The energy that was descended.
        geometry: Its geometry.
        thought: Record of N rows.
        target: See ``supervise``.
        step: Step index passed to the energy.
        generator: Source of the pairs.
    """
    state = thought.state.detach()
    with torch.no_grad():
        view, mistakes = geometry.view(state), geometry.mistakes(state, target)
    energies = with_step(getattr(energy, "once", lambda: energy)())(view, step)
    scaled = thought.step_size.detach().mean() * like(energies, mistakes)
    return ranking_loss(scaled, mistakes, geometry.scored(target).expand_as(mistakes), generator)


def like(energies: Tensor, mistakes: Tensor) -> Tensor:
    """Energies with one value for each mistake. Those of the patches of an image, which has one loss, are summed."""
    return energies.flatten(mistakes.dim()).sum(-1) if energies.dim() > mistakes.dim() else energies

"""A plane through an energy landscape, with the descent's path in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError

MARGIN = 0.25
"""Free space around the paths, as a share of their extent."""
ROWS = 256
"""Maximum number of states per evaluation."""


@dataclass(frozen=True)
class Slice:
    """Energies on the plane through the winner's final state that holds most of the variance of all paths.

    Letters: M candidates, T steps, R x R points.
    """

    horizontal: Tensor
    """Coordinates (R,) of the points, 0 at the winner's final state, in units of the state."""
    vertical: Tensor
    """The same along the second axis."""
    energies: Tensor
    """(R, R) energy of the prediction, with rows along ``vertical``."""
    objective: Tensor
    """(R, R) function that the updates descend: the energy, plus what the update adds to it (``Update.objective``)."""
    paths: Tensor
    """(T + 1, M, 2) coordinates of the states, projected onto the plane."""
    winner: int
    share: float
    """Share of the variance of the paths that lies in the plane."""


@torch.no_grad()
def landscape_slice(model: Any, context: Any, resolution: int = 41, **options: Any) -> Slice:
    """Think about one context, and evaluate the energy on a plane around the answer.

    Args:
        model: A model that thinks.
        context: Input with one prediction: a puzzle, an image, or a text with ``predictions=1``.
        resolution: Number of points R per axis.
        options: See ``ThinkingModel.think``.

    Raises:
        InputError: If the context has several predictions.
    """
    context = model.prepared(context)
    more = {name: options[name] for name in model.CONTEXT if name in options}
    thought = model.think(context, **options)
    every, geometry = thought.candidates, thought.geometry
    if thought.winner.numel() != 1:
        raise InputError(f"the context has {thought.winner.numel()} predictions: a slice shows one, give a single context")
    centre, landscape = thought.state[0], model.landscape(context, **more)
    axes, coordinates, share = _plane(every.path, centre)
    horizontal, vertical = (_ticks(coordinates[..., i], resolution) for i in range(2))
    down, across = (grid.flatten() for grid in torch.meshgrid(vertical, horizontal, indexing="ij"))
    found: list[tuple[Tensor, Tensor]] = []
    for x, y in zip(across.split(ROWS), down.split(ROWS), strict=True):
        states = centre + (torch.stack((x, y), -1) @ axes).to(centre).view(-1, *centre.shape)
        energies = landscape(geometry.view(states), int(thought.steps) - 1)
        step = every.step_size if every.step_size.dim() == 0 else every.step_size.flatten()[0]
        sums = (energies, every.update.objective(geometry, energies, states, step))
        found.append(tuple(each.flatten(1).sum(1).double().cpu() for each in sums))
    energies, objective = (torch.cat(parts).view(resolution, resolution) for parts in zip(*found, strict=True))
    return Slice(horizontal, vertical, energies, objective, coordinates, int(thought.winner), share)


def _plane(path: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return two orthonormal axes (2, K), the coordinates (T + 1, M, 2) of the states on them, and their share of variance."""
    flat = (path - centre).flatten(2).double().cpu()
    _, values, axes = torch.linalg.svd(flat.flatten(0, 1), full_matrices=False)
    power = values.square()
    return axes[:2], flat @ axes[:2].T, float(power[:2].sum() / power.sum().clamp(min=1e-30))


def _ticks(coordinates: Tensor, resolution: int) -> Tensor:
    low, high = coordinates.amin().item(), coordinates.amax().item()
    room = MARGIN * (high - low) or 1.0
    return torch.linspace(low - room, high + room, resolution, dtype=torch.float64)

"""Small landscapes and networks, and the spaces' formulas written out a second time, for the tests of engine and networks.

Letters as in ``ebt.thinking.geometry``: N rows, P parts, V words, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ebt.models.thinking import SPACES as NAMED
from ebt.nn import EBTDecoder, EBTEncoder, NetworkConfig
from ebt.nn.blocks import Modulation
from ebt.thinking import (
    Energy,
    Euclidean,
    Geometry,
    Gradient,
    Projected,
    Recipe,
    Restart,
    StepSize,
    Supervised,
    Thought,
    Update,
    descend,
    supervise,
)

WORDS, WIDTH = 7, 8
VECTORS = ("euclidean", "projected", "restart-projected")
SIMPLEX = tuple(NAMED)
SPACES = (*SIMPLEX, *VECTORS)
COMPACT = ("compact-mirror", "compact-restart")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, std: float = 1.0) -> Tensor:
    return std * torch.randn(shape, generator=seeded(seed))


def make_table(seed: int = 1, words: int = WORDS, width: int = WIDTH) -> nn.Parameter:
    return nn.Parameter(normal(words, width, seed=seed, std=width**-0.5))


@dataclass(frozen=True)
class Space:
    """A geometry and an update, as configurations name them together."""

    geometry: Geometry
    update: Update

    def __getattr__(self, name: str) -> Any:
        return getattr(self.geometry, name)

    def descend(self, energy: Energy, start: Tensor, step_size: Tensor | float, steps: int, **settings: Any) -> Thought:
        settings.setdefault("final_energy", False)
        return descend(energy, start, steps=steps, step_size=step_size, geometry=self.geometry, update=self.update, **settings)

    def objective(self, energies: Tensor, state: Tensor, step_size: Tensor | float) -> Tensor:
        alpha = torch.as_tensor(step_size)
        return self.update.objective(self.geometry, energies, state, alpha.squeeze(-1) if alpha.dim() == state.dim() else alpha)

    def supervise(
        self, energy: Energy, start: Tensor, target: Tensor, step_size: StepSize, recipe: Recipe, *more: Any
    ) -> Supervised:
        return supervise(energy, self.geometry, self.update, start, target, step_size, recipe, *more)


def vectors(*arguments: Any, **settings: Any) -> Space:
    """Euclidean vectors that descend by their gradient."""
    return Space(Euclidean(*arguments, **settings), Gradient())


def make_space(name: str, table: Tensor, prediction_dims: int = 2) -> Space:
    if name == "euclidean":
        return vectors(prediction_dims, (table.shape[1],))
    if name in ("projected", "restart-projected"):
        update = Restart() if name == "restart-projected" else Gradient()
        return Space(Projected(prediction_dims, (table.shape[0],), weight=table.T), update)
    return make_simplex(name, table, prediction_dims)


def make_simplex(name: str, table: Tensor, prediction_dims: int = 2, **settings: Any) -> Space:
    kind, update = NAMED[name]
    return Space(kind(prediction_dims, table, **settings), update)  # type: ignore[call-arg]


# The formulas of the table in ebt/models/thinking.py, one vector at a time.


def logits_of(name: str, state: Tensor, table: Tensor) -> Tensor:
    return torch.einsum("...d,vd->...v", state, table) if name in COMPACT else state


def view_of(name: str, state: Tensor, table: Tensor) -> Tensor:
    if name == "euclidean":
        return state
    if name in ("projected", "restart-projected", "free"):
        return torch.einsum("...v,vd->...d", state, table)
    exp = logits_of(name, state, table).exp()
    return torch.einsum("...v,vd->...d", exp / exp.sum(-1, keepdim=True), table)


def direction_of(name: str, state: Tensor, table: Tensor, gradient: Tensor) -> Tensor:
    """What alpha multiplies: g, W g or J W g."""
    if name in ("euclidean", *COMPACT):
        return gradient
    pull = torch.einsum("vd,...d->...v", table, gradient)
    if name != "listing":
        return pull
    jacobians = [
        torch.autograd.functional.jacobian(lambda logits: torch.softmax(logits, 0), vector)
        for vector in state.flatten(0, -2).detach()
    ]
    rows = [jacobian @ vector for jacobian, vector in zip(jacobians, pull.flatten(0, -2), strict=True)]
    return torch.stack(rows).view_as(pull)


def next_of(name: str, state: Tensor, direction: Tensor, alpha: Tensor | float) -> Tensor:
    if name == "reference":
        return torch.softmax(state, -1) - alpha * direction
    return -alpha * direction if "restart" in name else state - alpha * direction


def loss_of(name: str, state: Tensor, target: Tensor, table: Tensor) -> Tensor:
    """Mean loss over all parts."""
    if name in VECTORS:
        gap = (state - target).abs()
        return torch.where(gap < 1, gap.square() / 2, gap - 0.5).mean()
    logits = logits_of(name, state, table)
    return (logits.exp().sum(-1).log() - logits.gather(-1, target.unsqueeze(-1)).squeeze(-1)).mean()


def make_target(name: str, rows: int, parts: int, seed: int = 5) -> Tensor:
    if name in VECTORS:
        return normal(rows, parts, WIDTH if name == "euclidean" else WORDS, seed=seed)
    return torch.randint(0, WORDS, (rows, parts), generator=seeded(seed))


class Waves(nn.Module):
    """A smooth landscape without structure: ``E = b . tanh(A e + c x)``, x the context of a row."""

    def __init__(self, rows: int, parts: int, width: int = WIDTH, seed: int = 2) -> None:
        super().__init__()
        self.mix = nn.Parameter(normal(width, 5, seed=seed, std=width**-0.5))
        self.shift = nn.Parameter(normal(rows, parts, 5, seed=seed + 1))
        self.sum = nn.Parameter(normal(5, seed=seed + 2))

    def forward(self, candidate: Tensor, step: int) -> Tensor:
        repeats = candidate.shape[0] // self.shift.shape[0]
        return torch.tanh(candidate @ self.mix + self.shift.repeat(repeats, 1, 1)) @ self.sum


class Bowl:
    """``E = curvature |y - centre|^2 / 2`` per part, with predictions that can be selected; counts the parts of every call."""

    def __init__(self, centre: Tensor, curvature: Tensor | float = 1.0, calls: list[int] | None = None) -> None:
        self.centre, self.calls = centre, [] if calls is None else calls
        self.curvature = torch.as_tensor(curvature).expand(centre.shape[:-1])

    def __call__(self, candidate: Tensor, step: int) -> Tensor:
        self.calls.append(candidate.shape[:-1].numel())
        return self.curvature * (candidate - self.centre).square().sum(-1) / 2

    def select(self, rows: Tensor, positions: Tensor | None = None) -> Bowl:
        if positions is None:
            return Bowl(self.centre[rows], self.curvature[rows], self.calls)
        return Bowl(self.centre[rows, positions].unsqueeze(1), self.curvature[rows, positions].unsqueeze(1), self.calls)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "candidate": {"conditioning": "candidate"},
    "prefix": {"conditioning": "prefix"},
    "modulation": {"conditioning": "modulation"},
    "dit": {"conditioning": "modulation", "block": "dit"},
    "bilinear": {"head": "bilinear"},
    "quadratic": {"head": "quadratic"},
    "token": {"anchor": "token", "conditioning": "prefix", "head": "bilinear"},
    "hidden": {"anchor": "hidden", "conditioning": "candidate", "head": "bilinear"},
    "grouped": {"kv_heads": 1},
}
DECODERS = tuple(VARIANTS)
ENCODERS = ("plain", "candidate", "prefix", "modulation", "dit", "bilinear", "quadratic", "grouped")  # anchors are for decoders
NETWORKS = [*(("decoder", variant) for variant in DECODERS), *(("encoder", variant) for variant in ENCODERS)]


def conditioning(variant: str) -> str:
    return VARIANTS[variant].get("conditioning", "none")


def make_network(
    kind: str, variant: str = "plain", *, head_std: float = 1.0, seed: int = 0, alpha0: float = 1.0, layers: int = 1
) -> EBTDecoder | EBTEncoder:
    """A network of width D, with a random head (``head_std`` 0: the zero head that it is made with)."""
    config = NetworkConfig(layers=layers, dim=WIDTH, heads=2, conditioned_steps=2, **VARIANTS[variant])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = (EBTDecoder if kind == "decoder" else EBTEncoder)(config, alpha0)
        if head_std:
            nn.init.normal_(network.head.projection.weight, std=head_std)
            for module in network.modules():  # gates of zero would hide everything behind them
                if isinstance(module, Modulation):
                    nn.init.normal_(module.projection.weight, std=0.5)
    return network


def slope_along(loss: Callable[[], Tensor], parameter: Tensor, along: Tensor, width: float = 1e-5) -> float:
    """Central difference of a loss as a function of a parameter, in one direction."""
    values = []
    kept = parameter.detach().clone()
    for sign in (1, -1):
        parameter.data = kept + sign * width * along
        values.append(loss().item())
    parameter.data = kept
    return (values[0] - values[1]) / (2 * width)


def assert_slopes(loss: Callable[[], Tensor], parameters: Iterable[tuple[str, Tensor]], tolerance: float = 1e-5) -> None:
    """The parameters' ``grad`` are the slopes of ``loss``, each along one random direction."""
    for i, (name, parameter) in enumerate(parameters):
        assert parameter.grad is not None, name
        along = normal(*parameter.shape, seed=100 + i)
        expected = slope_along(loss, parameter, along)
        found = (parameter.grad * along).sum().item()
        assert abs(found - expected) < tolerance * abs(expected) + 1e-8, f"{name}: {found} is not {expected}"

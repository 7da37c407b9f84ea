"""Geometries: where candidates live, what the network sees of them, and how gradients map back to their coordinates.

Shapes: N rows (candidates x contexts), P parts of a row (tokens, cells, frames), V vocabulary size, D width, K size of a state.
States are (N, *P, K). The embedding table ``W`` is (V, D). The network sees logits ``l`` as ``e = W^T p`` with
``p = softmax(l)``, and a gradient ``g = dE/de`` gives ``dE/dp = W g``. A candidate space is a geometry with an update
(``ebt.thinking.update``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ebt.thinking.fast.vocabulary import by_chunks
from ebt.thinking.noise import Source, draw_normal, precise

IGNORED = -100
"""Target of parts that do not count in the loss."""


@dataclass(frozen=True, eq=False)
class Geometry(ABC):
    """A space of candidates. A prediction may have several parts; its energy is the sum over them."""

    prediction_dims: int
    """Number of leading dimensions that index predictions: 2 for text (row, position), 1 for boards and images (row)."""

    @abstractmethod
    def start(self, parts: tuple[int, ...], std: float = 1.0, source: torch.Generator | Source | None = None) -> Tensor:
        """Draw random starting states (N, *P, K) for parts (N, *P), with ``draw_normal``."""

    @abstractmethod
    def view(self, state: Tensor) -> Tensor:
        """What the network sees of a state, (N, *P, D)."""

    @abstractmethod
    def pull_back(self, state: Tensor, gradient: Tensor) -> Tensor:
        """Map ``gradient = dE/dview`` (N, *P, D) to the coordinates of the state, (N, *P, K)."""

    @abstractmethod
    def loss(self, state: Tensor, target: Tensor) -> Tensor:
        """Default loss per part (N, *P). It is zero where the target is ignored."""

    @abstractmethod
    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """Distance between the predictions of two states, one value per prediction."""

    def mistakes(self, state: Tensor, target: Tensor) -> Tensor:
        """Size of the mistake of each part (N, *P), to compare energies by (``Recipe.ranking``). Default: the loss."""
        return self.loss(state, target)

    def jacobian(self, state: Tensor, dual: Tensor) -> Tensor:
        """Map the output of ``pull_back`` to the derivative with respect to the state. Default: the identity."""
        return dual

    def potential(self, state: Tensor) -> Tensor:
        """The function per part that ``Restart`` adds to the energy, times alpha: ``|y|^2 / 2`` or ``-H(p)``."""
        return precise(state).square().sum(-1) / 2

    def weights(self) -> list[Tensor]:
        """Tensors of the geometry that may be trained."""
        return []

    def decide(self, state: Tensor) -> Tensor:
        """Discrete answers of states. Raises ``ValueError`` if the geometry has none."""
        raise ValueError(f"{type(self).__name__} has no discrete answers: choose a rule that needs none")

    def decided(self, state: Tensor) -> Tensor:
        """The view (N, *P, D) of the discrete answers. Raises ``ValueError`` if the geometry has none."""
        raise ValueError(f"{type(self).__name__} has no discrete answers: choose a rule that needs none")

    def scored(self, target: Tensor) -> Tensor:
        """Mask of the parts that count in a mean loss, broadcastable to the loss."""
        return torch.ones((), dtype=torch.bool, device=target.device)

    def look(self, state: Tensor, std: Tensor | None, draw: Source) -> tuple[Tensor, Tensor]:
        """Add Langevin noise of standard deviation ``std`` (None: no noise); return the state and its view."""
        state = state if std is None else state + std * draw(state)
        return state, self.view(state)

    def per_prediction(self, parts: Tensor) -> Tensor:
        """Sum values per part (N, *P) over the parts of each prediction."""
        return parts.flatten(self.prediction_dims).sum(-1) if parts.dim() > self.prediction_dims else parts


@dataclass(frozen=True, eq=False)
class Euclidean(Geometry):
    """Vectors, images or frames. A state is (N, ..., *shape), where ``shape`` is the shape of one part."""

    shape: tuple[int, ...]
    beta: float = 1.0
    """Threshold at which the smooth L1 loss turns from quadratic to linear."""
    like: Tensor | None = None
    """A tensor that gives the device of starts and the dtype of views. Default: those of torch."""

    def start(self, parts: tuple[int, ...], std: float = 1.0, source: torch.Generator | Source | None = None) -> Tensor:
        return std * draw_normal((*parts, *self.shape), torch.empty(0) if self.like is None else self.like, source)

    def view(self, state: Tensor) -> Tensor:
        return state if self.like is None else state.to(self.like.dtype)

    def pull_back(self, state: Tensor, gradient: Tensor) -> Tensor:
        return gradient

    def loss(self, state: Tensor, target: Tensor) -> Tensor:
        """Smooth L1, averaged over the elements of a part."""
        loss = F.smooth_l1_loss(state, target, beta=self.beta, reduction="none")
        return loss.flatten(loss.dim() - len(self.shape)).mean(-1) if self.shape else loss

    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """Root mean square difference, in units of the data."""
        square = (after - before).square()
        return square.flatten(self.prediction_dims).mean(-1).sqrt() if square.dim() > self.prediction_dims else square.sqrt()


@dataclass(frozen=True, eq=False)
class Projected(Euclidean):
    """Vectors that the network sees through a linear map ``e = P y + b``."""

    weight: Tensor | None = None
    """``P`` (D, E). None is the identity."""
    bias: Tensor | None = None
    noise_in: Literal["state", "view"] = "state"
    """Whether Langevin noise is added to the state, or only to the view (published video models)."""

    def weights(self) -> list[Tensor]:
        return [tensor for tensor in (self.weight, self.bias) if tensor is not None]

    def view(self, state: Tensor) -> Tensor:
        return super().view(state) if self.weight is None else F.linear(state.to(self.weight.dtype), self.weight, self.bias)

    def pull_back(self, state: Tensor, gradient: Tensor) -> Tensor:
        return gradient if self.weight is None else gradient @ self.weight

    def look(self, state: Tensor, std: Tensor | None, draw: Source) -> tuple[Tensor, Tensor]:
        if self.noise_in == "state":
            return super().look(state, std, draw)
        view = self.view(state)
        return state, view if std is None else view + std * draw(view)


@dataclass(frozen=True, eq=False)
class Simplex(Geometry):
    """Probabilities over a vocabulary. The state is V logits per part."""

    table: Tensor
    """Embedding table ``W`` (V, D) of candidates."""
    input_gradient: bool = True
    """Whether gradients reach the table through views too, or only through losses and directions."""

    def weights(self) -> list[Tensor]:
        return [self.table]

    @property
    def seen(self) -> Tensor:
        """The table used in views."""
        return self.table if self.input_gradient else self.table.detach()

    @property
    def width(self) -> int:
        """Size K of the state of one part."""
        return self.table.shape[0]

    def logits(self, state: Tensor) -> Tensor:
        """Logits (N, *P, V) of a state."""
        return state

    def spread(self, std: float) -> Tensor | float:
        """Standard deviation of a starting state for which its logits have standard deviation ``std``."""
        return std

    def start(self, parts: tuple[int, ...], std: float = 1.0, source: torch.Generator | Source | None = None) -> Tensor:
        return self.spread(std) * draw_normal((*parts, self.width), self.table, source)

    def view(self, state: Tensor) -> Tensor:
        return self.logits(state).softmax(-1).to(self.table.dtype) @ self.seen

    def pull_back(self, state: Tensor, gradient: Tensor) -> Tensor:
        return gradient @ self.table.T

    def jacobian(self, state: Tensor, dual: Tensor) -> Tensor:
        """``J(l) dual`` with ``J = diag p - p p^T``."""
        p = self.logits(state).softmax(-1)
        return p * (dual - (p * dual).sum(-1, keepdim=True))

    def loss(self, state: Tensor, target: Tensor) -> Tensor:
        """Cross entropy in nats."""
        logits = precise(self.logits(state)).flatten(0, -2)
        return F.cross_entropy(logits, target.flatten(), ignore_index=IGNORED, reduction="none").view_as(target)

    def mistakes(self, state: Tensor, target: Tensor) -> Tensor:
        """1 where the most probable entry is wrong, else 0."""
        return (self.decide(state) != target).to(state.dtype)

    def scored(self, target: Tensor) -> Tensor:
        return target != IGNORED

    def entropy(self, state: Tensor) -> Tensor:
        """Entropy H(p) per part, in nats."""
        log_p = precise(self.logits(state)).log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def potential(self, state: Tensor) -> Tensor:
        return -self.entropy(state)

    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """Total variation distance of the probabilities, in [0, 1]. The maximum over the parts of a prediction."""
        gap = by_chunks(lambda a, b: (self._p(b) - self._p(a)).abs().sum(-1) / 2, len(self.table), before, after)
        return gap.flatten(self.prediction_dims).amax(-1) if gap.dim() > self.prediction_dims else gap

    def decide(self, state: Tensor) -> Tensor:
        """Index of the most probable entry per part (N, *P)."""
        return by_chunks(lambda part: self.logits(part).argmax(-1), len(self.table), state)

    def decided(self, state: Tensor) -> Tensor:
        """Embedding of the most probable entry per part (N, *P, D), without the others."""
        return self.seen[self.decide(state)]

    def _p(self, state: Tensor) -> Tensor:
        return precise(self.logits(state)).softmax(-1)


@dataclass(frozen=True, eq=False)
class FreeVector(Simplex):
    """Logits without a softmax: the network sees ``e = W^T l`` (published code without ``normalize_initial_condition``)."""

    def view(self, state: Tensor) -> Tensor:
        return state.to(self.table.dtype) @ self.seen

    def jacobian(self, state: Tensor, dual: Tensor) -> Tensor:
        return dual

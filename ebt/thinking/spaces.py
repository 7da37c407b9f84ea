"""Candidate spaces: where a candidate lives, what the network sees of it, and how a gradient moves it.

Letters: N rows (batch x candidates), P parts of a row (tokens, cells, frames), V words, D width. A state is (N, *P, K).

On a vocabulary, ``W`` (V, D) embeds the words, ``p = softmax(l)`` are the probabilities of the logits ``l``, the network sees
``e = W^T p`` and returns ``g = dE/de``, so that ``dE/dp = W g``. The spaces differ in what they keep of that:

====================  =========================  =====  ================================================
class                 next state                 size   source
====================  =========================  =====  ================================================
ReferenceSimplex      l' = p - alpha W g         V      the published code
ListingSimplex        l' = l - alpha J(l) W g    V      the paper's listing; J is the Jacobian of softmax
MirrorSimplex         l' = l - alpha W g         V      entropic mirror descent
RestartSimplex        l' = -alpha W g            V      the reference less its p
CompactMirror         u' = u - alpha g           D      mirror, with l = W u
CompactRestart        u' = -alpha g              D      restart, with l = W u
FreeVector            l' = l - alpha W g         V      mirror, seen as ``e = W^T l``: no softmax
Euclidean             y' = y - alpha g           any    images, frames, vectors (paper, equation 2)
Projected             y' = y - alpha P^T g       any    seen as ``e = P y + b``
RestartProjected      y' = -alpha P^T g          any    restart, seen likewise
====================  =========================  =====  ================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ebt.thinking import vocabulary
from ebt.thinking.precision import precise
from ebt.thinking.record import Assessment

IGNORED = -100
"""Target value of parts that are not scored."""


def draw_normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal draws of ``shape`` on the device of ``like``, with its dtype if that is precise; reproducible across
    devices of one kind."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.randn(shape, generator=generator, dtype=dtype, device=like.device)


@dataclass(frozen=True, eq=False)
class CandidateSpace(ABC):
    """A space of candidates. Adding one means writing one such class.

    ``prediction_dims`` leading dimensions of a state index independent predictions: 2 for text (row, position), 1 for a board
    or an image (row). Parts beyond them share one prediction and one energy, the sum over the parts.
    """

    prediction_dims: int

    @abstractmethod
    def start(self, parts: tuple[int, ...], std: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Draw random starting states for parts (N, *P)."""

    @abstractmethod
    def view(self, state: Tensor) -> Tensor:
        """What the network sees of a state."""

    @abstractmethod
    def direction(self, state: Tensor, gradient: Tensor) -> Tensor:
        """The descent direction in the state's own coordinates, from ``gradient = dE/dview``."""

    @abstractmethod
    def move(self, state: Tensor, direction: Tensor, step_size: Tensor | float) -> Tensor:
        """The next state."""

    @abstractmethod
    def loss(self, state: Tensor, target: Tensor) -> Tensor:
        """Loss of a state against a target, per part (N, *P); zero where the target is ignored."""

    @abstractmethod
    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """How far two states' predictions lie apart, per prediction."""

    def weights(self) -> list[Tensor]:
        """Tensors of the space that may learn."""
        return []

    def attach(self, state: Tensor, view: Tensor) -> Tensor:
        """``view(state)`` as a function of the state, where its value is known already."""
        return self.view(state)

    def assess(self, state: Tensor, target: Tensor, weight: Tensor | None, into: list[Tensor | None]) -> Assessment:
        """Losses of states as constants, with the slope of their weighted sum.

        Args:
            state, target: as for ``loss``.
            weight: of each part's loss in the sum, broadcastable to the losses; None if no slope is wanted.
            into: for each of ``weights()`` a tensor to which the gradient of the sum is added, or None.
        """
        if weight is None:
            with torch.no_grad():
                return Assessment(self.loss(state, target), None)
        with torch.enable_grad():
            leaf = state.detach().requires_grad_()
            losses = self.loss(leaf, target)
            learning = [(table, place) for table, place in zip(self.weights(), into, strict=True) if place is not None]
            inputs = [leaf, *(table for table, _ in learning)]
            slope, *gradients = torch.autograd.grad((losses * weight).sum(), inputs, allow_unused=True)
        for (_, place), gradient in zip(learning, gradients, strict=True):
            if gradient is not None:
                place.add_(gradient)
        return Assessment(losses.detach(), slope)

    def decide(self, state: Tensor) -> Tensor:
        """The discrete answer that a state stands for.

        Raises:
            ValueError: in a space whose answers cannot be counted.
        """
        raise ValueError(f"{type(self).__name__} has no discrete answers to count: choose another rule than 'majority'")

    def scored(self, target: Tensor) -> Tensor:
        """Which parts count in a mean loss, broadcastable to the loss (all of them, unless a space says otherwise)."""
        return torch.ones((), dtype=torch.bool, device=target.device)

    def objective(self, energies: Tensor, state: Tensor, step_size: Tensor | float) -> Tensor:
        """The function that the updates descend, per part, given the energies (N, *P) of a state."""
        return energies

    def perturb(self, state: Tensor, std: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Langevin noise: the state plus normal noise of standard deviation ``std``, broadcastable to it; 0 draws none."""
        return state + std * draw_normal(tuple(state.shape), state, generator) if std.any() else state

    def look(self, state: Tensor, std: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The state with Langevin noise, and what the network sees of it."""
        state = self.perturb(state, std, generator)
        return state, self.view(state)

    def per_prediction(self, parts: Tensor) -> Tensor:
        """Sum a quantity per part (N, *P) to one per prediction."""
        return parts.flatten(self.prediction_dims).sum(-1) if parts.dim() > self.prediction_dims else parts


@dataclass(frozen=True, eq=False)
class Euclidean(CandidateSpace):
    """Vectors, images, frames: ``y' = y - alpha dE/dy``. A state is (N, ..., *shape) with ``shape`` that of one part."""

    shape: tuple[int, ...]
    beta: float = 1.0
    """Where smooth L1 turns from quadratic to linear (the paper's losses use 1)."""
    like: Tensor | None = None
    """A tensor whose device the starts take, and in whose dtype the network sees candidates; torch's defaults without."""

    def start(self, parts: tuple[int, ...], std: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        like = torch.empty(0) if self.like is None else self.like
        return std * draw_normal((*parts, *self.shape), like, generator)

    def view(self, state: Tensor) -> Tensor:
        return state if self.like is None else state.to(self.like.dtype)

    def direction(self, state: Tensor, gradient: Tensor) -> Tensor:
        return gradient

    def move(self, state: Tensor, direction: Tensor, step_size: Tensor | float) -> Tensor:
        return state - step_size * direction

    def loss(self, state: Tensor, target: Tensor) -> Tensor:
        loss = F.smooth_l1_loss(state, target, beta=self.beta, reduction="none")
        return loss.flatten(loss.dim() - len(self.shape)).mean(-1) if self.shape else loss

    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """Root mean square difference, in the data's units."""
        square = (after - before).square()
        return square.flatten(self.prediction_dims).mean(-1).sqrt() if square.dim() > self.prediction_dims else square.sqrt()


@dataclass(frozen=True, eq=False)
class Projected(Euclidean):
    """Vectors that the network sees through a linear map ``e = P y + b``, as the published video models see an encoder's."""

    weight: Tensor | None = None
    """``P`` (D, E); None for the identity."""
    bias: Tensor | None = None
    """``b`` (D,)."""
    noise_in: Literal["state", "view"] = "state"
    """Whether Langevin noise moves the state, or only what the network sees of it (the published video models)."""

    def weights(self) -> list[Tensor]:
        return [tensor for tensor in (self.weight, self.bias) if tensor is not None]

    def view(self, state: Tensor) -> Tensor:
        return super().view(state) if self.weight is None else F.linear(state.to(self.weight.dtype), self.weight, self.bias)

    def direction(self, state: Tensor, gradient: Tensor) -> Tensor:
        return gradient if self.weight is None else gradient @ self.weight

    def look(self, state: Tensor, std: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        if self.noise_in == "state":
            return super().look(state, std, generator)
        return state, self.perturb(self.view(state), std, generator)


@dataclass(frozen=True, eq=False)
class RestartProjected(Projected):
    """``y' = -alpha P^T g``: nothing of a start has to be unlearned. Its fixed point is stationary for
    ``E + |y|^2 / (2 alpha)``."""

    def move(self, state: Tensor, direction: Tensor, step_size: Tensor | float) -> Tensor:
        return -step_size * direction

    def objective(self, energies: Tensor, state: Tensor, step_size: Tensor | float) -> Tensor:
        return energies + precise(state).square().sum(-1) / (2 * _per_part(step_size, state))


@dataclass(frozen=True, eq=False)
class Simplex(CandidateSpace):
    """Probabilities over a vocabulary; the state is V logits per part."""

    table: Tensor
    """``W`` (V, D), the embedding of the words as candidates."""
    input_gradient: bool = True
    """Whether the table learns from what the network sees of candidates, too, or from losses and directions alone."""

    def weights(self) -> list[Tensor]:
        return [self.table]

    @property
    def seen(self) -> Tensor:
        """The table as views use it."""
        return self.table if self.input_gradient else self.table.detach()

    def logits(self, state: Tensor) -> Tensor:
        """Logits (N, *P, V) of a state."""
        return state

    @property
    def width(self) -> int:
        """K, the size of the state of one part."""
        return self.table.shape[0]

    def spread(self, std: float) -> Tensor | float:
        """Standard deviation of a starting state's entries that gives its logits the standard deviation ``std``."""
        return std

    def start(self, parts: tuple[int, ...], std: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Normal draws (N, *P, K) whose logits have standard deviation ``std``."""
        return self.spread(std) * draw_normal((*parts, self.width), self.table, generator)

    def view(self, state: Tensor) -> Tensor:
        return self.logits(state).softmax(-1).to(self.table.dtype) @ self.seen

    def direction(self, state: Tensor, gradient: Tensor) -> Tensor:
        return gradient @ self.table.T

    def loss(self, state: Tensor, target: Tensor) -> Tensor:
        """Cross entropy in nats."""
        logits = precise(self.logits(state))
        loss = F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=IGNORED, reduction="none")
        return loss.view_as(target)

    def scored(self, target: Tensor) -> Tensor:
        return target != IGNORED

    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """Total variation distance of the probabilities, in [0, 1]; the largest of a prediction's parts."""
        first, last = before.flatten(0, -2), after.flatten(0, -2)
        gaps = [
            (precise(self.logits(last[part])).softmax(-1) - precise(self.logits(first[part])).softmax(-1)).abs().sum(-1) / 2
            for part in vocabulary.chunks(len(first), self.table.shape[0])
        ]
        gap = torch.cat(gaps).view(before.shape[:-1])
        return gap.flatten(self.prediction_dims).amax(-1) if gap.dim() > self.prediction_dims else gap

    def decide(self, state: Tensor) -> Tensor:
        """The most probable word per part (N, *P)."""
        flat = state.flatten(0, -2)
        found = [self.logits(flat[part]).argmax(-1) for part in vocabulary.chunks(len(flat), self.table.shape[0])]
        return torch.cat(found).view(state.shape[:-1])


def _entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(-1)


def _per_part(step_size: Tensor | float, state: Tensor) -> Tensor | float:
    """The step size, broadcastable to the state, as one that is broadcastable to the energies."""
    return step_size.squeeze(-1) if isinstance(step_size, Tensor) and step_size.dim() == state.dim() else step_size


@dataclass(frozen=True, eq=False)
class MirrorSimplex(Simplex):
    """Entropic mirror descent: ``l' = l - alpha W g``."""

    def move(self, state: Tensor, direction: Tensor, step_size: Tensor | float) -> Tensor:
        return state - step_size * direction


@dataclass(frozen=True, eq=False)
class FreeVector(MirrorSimplex):
    """The network sees the logits themselves, ``e = W^T l`` (the published code without ``normalize_initial_condition``)."""

    def view(self, state: Tensor) -> Tensor:
        return state.to(self.table.dtype) @ self.table


@dataclass(frozen=True, eq=False)
class ReferenceSimplex(Simplex):
    """The published code's update: ``l' = p - alpha W g``; the next logits start from the probabilities.

    Its fixed point is stationary for ``E - (H(p) + |p|^2 / 2) / alpha``.
    """

    def move(self, state: Tensor, direction: Tensor, step_size: Tensor | float) -> Tensor:
        return self.logits(state).softmax(-1) - step_size * direction

    def objective(self, energies: Tensor, state: Tensor, step_size: Tensor | float) -> Tensor:
        log_p = precise(self.logits(state)).log_softmax(-1)
        return energies - (_entropy(log_p) + log_p.exp().square().sum(-1) / 2) / _per_part(step_size, state)


@dataclass(frozen=True, eq=False)
class ListingSimplex(MirrorSimplex):
    """The paper's listing: ``l' = l - alpha J(l) W g`` with ``J = diag p - p p^T``."""

    def direction(self, state: Tensor, gradient: Tensor) -> Tensor:
        p = self.logits(state).softmax(-1)
        pull = super().direction(state, gradient)
        return p * (pull - (p * pull).sum(-1, keepdim=True))


@dataclass(frozen=True, eq=False)
class RestartSimplex(Simplex):
    """``l' = -alpha W g``. Its fixed point is stationary for ``E - H(p) / alpha``, which keeps it calibrated."""

    def move(self, state: Tensor, direction: Tensor, step_size: Tensor | float) -> Tensor:
        return -step_size * direction

    def entropy(self, state: Tensor) -> Tensor:
        """H(p) in nats, per part."""
        return _entropy(precise(self.logits(state)).log_softmax(-1))

    def objective(self, energies: Tensor, state: Tensor, step_size: Tensor | float) -> Tensor:
        return energies - self.entropy(state) / _per_part(step_size, state)


class _Compact(Simplex):
    """States of D numbers ``u`` that stand for the logits ``W u``; more than a chunk of the logits never exists."""

    def logits(self, state: Tensor) -> Tensor:
        return state.to(self.table.dtype) @ self.table.T

    @property
    def width(self) -> int:
        return self.table.shape[1]

    def spread(self, std: float) -> Tensor:
        return std / precise(self.table.detach()).square().sum(-1).mean().sqrt()

    def view(self, state: Tensor) -> Tensor:
        return self._view(state, None)

    def attach(self, state: Tensor, view: Tensor) -> Tensor:
        return self._view(state, view)

    def _view(self, state: Tensor, known: Tensor | None) -> Tensor:
        flat = None if known is None else known.flatten(0, -2)
        seen: Tensor = vocabulary.View.apply(state.flatten(0, -2), self.seen, flat)
        return seen.view(*state.shape[:-1], -1)

    def direction(self, state: Tensor, gradient: Tensor) -> Tensor:
        return gradient

    def loss(self, state: Tensor, target: Tensor) -> Tensor:
        """Cross entropy in nats."""
        words, scored = target.flatten().clamp(min=0), self.scored(target)
        losses: Tensor = vocabulary.CrossEntropy.apply(state.flatten(0, -2), self.table, words)
        return losses.view_as(target) * scored

    def assess(self, state: Tensor, target: Tensor, weight: Tensor | None, into: list[Tensor | None]) -> Assessment:
        """One pass gives everything, and the view besides."""
        if weight is None:
            return super().assess(state, target, weight, into)
        scored = self.scored(target)
        weight, words = (weight * scored).expand_as(target).flatten(), target.flatten().clamp(min=0)
        with torch.no_grad():
            found = vocabulary.assess(state.detach().flatten(0, -2), self.table.detach(), words, weight, into[0])
        losses, slope, view = (tensor.view(*state.shape[:-1], *tensor.shape[1:]) for tensor in found)
        return Assessment(losses * scored, slope, view)

    def entropy(self, state: Tensor) -> Tensor:
        """``H(p) = log sum exp(W u) - u . e``."""
        zero = torch.zeros(state.shape[:-1], dtype=torch.long, device=state.device)
        log_sum = self.loss(state, zero) + state @ self.table[0]
        return log_sum - (state * self.view(state)).sum(-1)


@dataclass(frozen=True, eq=False)
class CompactMirror(_Compact, MirrorSimplex):
    """Mirror descent on D numbers: ``u' = u - alpha g``."""


@dataclass(frozen=True, eq=False)
class CompactRestart(_Compact, RestartSimplex):
    """Restart on D numbers: ``u' = -alpha g``."""


SIMPLEX_SPACES: dict[str, type[Simplex]] = {
    "reference": ReferenceSimplex,
    "listing": ListingSimplex,
    "mirror": MirrorSimplex,
    "restart": RestartSimplex,
    "compact-mirror": CompactMirror,
    "compact-restart": CompactRestart,
    "free": FreeVector,
}
"""The spaces on a vocabulary by the names that configurations use."""

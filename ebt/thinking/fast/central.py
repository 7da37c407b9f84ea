"""Gradients of gradients by central differences: two ordinary passes at nudged candidates, with first derivatives only.

Training needs ``d <lambda, dE/de> / d theta`` for a constant ``lambda``, the gradient of the loss with respect to ``dE/de``:
a directional derivative of the energy. With ``d = h lambda / |lambda|`` and ``h = nudge |e|`` for each prediction, it is

    |lambda| / (2 h) * d [E(e + d) - E(e - d)] / d theta + O(h^2)

The same passes give ``H lambda``, the gradient with respect to the candidate. This is the centred nudge of equilibrium
propagation (Scellier and Bengio 2017; Laborieux et al. 2021). Since energies are differentiated only once, fused attention,
``torch.compile``, sharded weights and activation checkpoints can be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ebt.thinking.geometry import Geometry
from ebt.thinking.noise import broadcastable, precise

SIZES = {torch.float64: 1e-4, torch.float32: 5e-3, torch.bfloat16: 0.25, torch.float16: 0.1}
"""Nudge for each dtype, relative to the norm of a candidate. It balances truncation error against rounding error."""
LEAST = 1e-3
"""Root mean square of a candidate below which the nudge no longer shrinks."""


@dataclass(frozen=True)
class Nudge:
    """Size of the nudge of candidates."""

    size: float
    """Size relative to the norm of a candidate."""
    prediction_dims: int
    """Number of leading dimensions of a view that index predictions. All parts of a prediction are nudged together."""
    accumulates: bool = False
    """Whether passes add the gradients of weights to ``grad`` themselves, see ``accumulating``."""
    cut: tuple[tuple[Tensor, Tensor], ...] = ()
    """Leaves of the energy, each with the tensor that gets its gradient. Only if it ``accumulates``."""

    @classmethod
    def of(cls, way: str, size: float | None, geometry: Geometry, start: Tensor) -> Nudge | None:
        """The nudge of a recipe, or None for exact gradients of gradients.

        Args:
            way: ``exact``, ``central`` or ``auto``, which is exact on CPUs.
            size: Size relative to the norm of a candidate. Default: depends on the precision.
            geometry: Geometry; its weights determine the precision.
            start: A state.

        Raises:
            ValueError: If ``size`` is lost in rounding.
        """
        device = start.device.type
        if way == "exact" or (way == "auto" and device == "cpu"):
            return None
        seen = (geometry.weights() or [start])[0]
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else seen.dtype
        least = torch.finfo(dtype).eps ** 0.7
        if size is not None and size < least:
            raise ValueError(f"nudge is {size}, too small for {dtype}: give at least {least:.2g}, or null for {SIZES[dtype]}")
        return cls(SIZES[dtype] if size is None else size, geometry.prediction_dims)

    def gradient(self, energy: Any, told: int, view: Tensor, energies: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of an energy, differentiable by central differences.

        Args:
            energy: Function of a view and a step index.
            told: Step index.
            view: What the network sees of candidates (N, *P, D), with the graph of the states.
            energies: Energies at ``view``, with their graph, which is searched for leaves that require gradients.
            gradient: ``dE/dview``, detached.
        """
        learning = [leaf for leaf, _ in self.cut] if self.accumulates else leaves(energies, without=view)
        behind = [source for _, source in self.cut] if self.accumulates else learning
        anchor = torch.zeros((), requires_grad=self.accumulates)  # else nothing might ask for the passes
        found: Tensor = _Central.apply(view, gradient, energy, told, self, learning, anchor, *behind)
        return found

    def accumulating(self, leaves: Sequence[Tensor], sources: Sequence[Tensor]) -> Nudge:
        """The nudge whose passes are backward passes of their own, which add the gradients of weights to ``grad``.

        Sharded weights need this: their hooks reduce and free the gradient of a block at once.

        Args:
            leaves: Leaves of the energy, such as an encoded context, that stand for tensors with a graph.
            sources: The tensors behind ``leaves``. The sum of the gradients of all passes flows back to them.
        """
        cut = tuple((leaf, source) for leaf, source in zip(leaves, sources, strict=True) if source.requires_grad)
        return replace(self, accumulates=True, cut=cut)


def leaves(output: Tensor, without: Tensor) -> list[Tensor]:
    """Leaf tensors that require gradients in the graph of ``output``, without the graph of ``without``."""
    found: dict[int, Tensor] = {}
    stop = without.grad_fn
    seen, stack = {stop}, [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and variable is not without:
            found[id(variable)] = variable
        stack += [next_node for next_node, _ in node.next_functions]
    return list(found.values())


class _Central(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, view: Tensor, gradient: Tensor, energy: Any, told: int, nudge: Nudge, learning: Any, *behind: Tensor
    ) -> Tensor:
        ctx.energy, ctx.told, ctx.nudge, ctx.learning = energy, told, nudge, learning
        device = view.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.save_for_backward(view)
        return gradient.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (view,) = ctx.saved_tensors
        dims = ctx.nudge.prediction_dims
        size, length, numbers = _norm(slope, dims), _norm(view, dims), view.shape[dims:].numel()
        h = ctx.nudge.size * length.clamp(min=LEAST * numbers**0.5)
        step = broadcastable(h / size.clamp(min=torch.finfo(size.dtype).tiny), view.dim()) * precise(slope)
        # backward passes run outside the autocast of the forward pass, on accelerators in threads of their own
        with torch.enable_grad(), torch.autocast(*ctx.autocast):
            leaf = view.detach().requires_grad_()
            ends = [leaf + sign * step.to(view.dtype) for sign in (1, -1)]
            if ctx.nudge.cut:  # landscapes that can be cut take several candidates for each context
                above, below = precise(ctx.energy(torch.cat(ends), ctx.told)).chunk(2)
            else:
                above, below = (precise(ctx.energy(end, ctx.told)) for end in ends)
            difference = ((above - below) * broadcastable(size / (2 * h), above.dim())).sum()
            wanted = (leaf, *ctx.learning)
            if ctx.nudge.accumulates:
                difference.backward(retain_graph=True)
                gradients = tuple(map(_take, wanted))
            else:
                gradients = torch.autograd.grad(difference, wanted, retain_graph=True, allow_unused=True)
        return gradients[0], None, None, None, None, None, None, *gradients[1:]


def _take(leaf: Tensor) -> Tensor | None:
    """The accumulated gradient of a leaf, which is removed."""
    gradient, leaf.grad = leaf.grad, None
    return gradient


def _norm(tensor: Tensor, dims: int) -> Tensor:
    """Norm over all elements of a prediction, (N, *predictions)."""
    return torch.linalg.vector_norm(precise(tensor).flatten(dims), dim=-1)

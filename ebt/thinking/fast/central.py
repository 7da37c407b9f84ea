"""Gradients of gradients by central differences: two ordinary passes at nudged candidates, with first derivatives only.

Training needs ``d <lambda, dE/de> / d theta`` for a constant ``lambda``, the gradient of the loss with respect to ``dE/de``:
a directional derivative of the energy. With ``d = h lambda / |lambda|`` and ``h = nudge |e|`` for each prediction, it is

    |lambda| / (2 h) * d [E(e + d) - E(e - d)] / d theta + O(h^2)

The same passes give ``H lambda``, the gradient with respect to the candidate. This is the centred nudge of equilibrium
propagation (Scellier and Bengio 2017; Laborieux et al. 2021). Since energies are differentiated only once, fused attention,
``torch.compile``, sharded weights and activation checkpoints can be used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states

from ebt.thinking.geometry import Geometry
from ebt.thinking.noise import broadcastable, precise

SIZES = {torch.float64: 1e-4, torch.float32: 5e-3, torch.bfloat16: 0.25, torch.float16: 0.1}
"""Nudge for each dtype, relative to the norm of a candidate. It balances truncation error against rounding error."""
TF32 = 0.1
"""Nudge for float32 where matrix products round their inputs to 10 bits (``torch.set_float32_matmul_precision``)."""
LEAST = 1e-3
"""Root mean square of a candidate below which the nudge no longer shrinks."""


Way = Literal["auto", "exact", "central"]
"""How gradients of gradients are computed. exact: double backward. central: central differences of first derivatives. auto:
exact on CPUs, central elsewhere."""


def way_on(device: str, way: Way) -> Literal["exact", "central"]:
    """The way on a type of device, with ``auto`` resolved."""
    return way if way != "auto" else "exact" if device == "cpu" else "central"


def least_nudge(dtype: torch.dtype) -> float:
    """Smallest nudge that is not lost in rounding."""
    return float(torch.finfo(dtype).eps ** 0.7)


def nudge_size(size: float | None, dtype: torch.dtype, device: str = "cpu") -> float:
    """Size of a nudge relative to the norm of a candidate. Default: that of the precision, ``SIZES`` or ``TF32``.

    Raises:
        ValueError: If ``size`` is lost in rounding.
    """
    rounded = device == "cuda" and dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    own = TF32 if rounded else SIZES[dtype]
    if size is not None and size < (least := least_nudge(dtype)):
        raise ValueError(f"nudge is {size}, too small for {dtype}: give at least {least:.2g}, or null for {own}")
    return own if size is None else size


@dataclass(frozen=True)
class Nudge:
    """Size of the nudge of candidates."""

    size: float
    """Size relative to the norm of a candidate."""
    prediction_dims: int
    """Number of leading dimensions of a view that index predictions. All parts of a prediction are nudged together."""
    learning: tuple[Tensor, ...] | None = None
    """Tensors that energies depend on and that get gradients. None: found in the graph of the energies."""
    accumulates: bool = False
    """Whether passes add the gradients of weights to ``grad`` themselves, see ``accumulating``."""
    cut: tuple[tuple[Tensor, Tensor], ...] = ()
    """Leaves of the energy, each with the tensor that gets its gradient. Only if it ``accumulates``."""
    take: Callable[[Sequence[Tensor | None]], None] | None = None
    """Receives the gradients of ``learning`` from each pass. None: autograd returns their sums."""

    @classmethod
    def of(cls, way: Way, size: float | None, geometry: Geometry, start: Tensor) -> Nudge | None:
        """The nudge of a recipe, or None for exact gradients of gradients.

        Args:
            way: See ``Way``.
            size: Size relative to the norm of a candidate. Default: depends on the precision.
            geometry: Geometry; its weights determine the precision.
            start: A state.

        Raises:
            ValueError: If ``size`` is lost in rounding.
        """
        device = start.device.type
        if way_on(device, way) == "exact":
            return None
        seen = (geometry.weights() or [start])[0]
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else seen.dtype
        return cls(nudge_size(size, dtype, device), geometry.prediction_dims)

    def gradient(self, energy: Any, told: int, view: Tensor, energies: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of an energy, differentiable by central differences.

        Args:
            energy: Function of a view and a step index, as returned by ``repeatable``.
            told: Step index.
            view: What the network sees of candidates (N, *P, D), with the graph of the states.
            energies: Energies at ``view``, with their graph, which is searched for leaves that require gradients.
            gradient: ``dE/dview``, detached.
        """
        known = self.known(energy)
        learning = tuple(leaves(energies, without=view)) if known is None else known
        behind = tuple(source for _, source in self.cut) if self.accumulates else learning
        anchor = torch.zeros((), requires_grad=self.accumulates)  # else nothing might ask for the passes
        # the parts of a row may see each other in an energy of one's own, so they are nudged together
        nudge = replace(self, prediction_dims=1) if isinstance(energy, Repeated) else self
        shared = known is None or (self.accumulates and not self.cut)  # passes go through a graph that they did not make
        return _Central.apply(view, gradient, energy, told, nudge, learning, shared, anchor, *behind)

    def known(self, energy: Any) -> tuple[Tensor, ...] | None:
        """``learning``, by default that of the energy."""
        if self.accumulates:
            return tuple(leaf for leaf, _ in self.cut)
        return getattr(energy, "learning", None) if self.learning is None else self.learning

    def accumulating(self, leaves: Sequence[Tensor], sources: Sequence[Tensor]) -> Nudge:
        """The nudge whose passes are backward passes of their own, which add the gradients of weights to ``grad``.

        Sharded weights need this: their hooks reduce and free the gradient of a block at once.

        Args:
            leaves: Leaves of the energy, such as an encoded context, that stand for tensors with a graph.
            sources: The tensors behind ``leaves``. The sum of the gradients of all passes flows back to them.
        """
        cut = tuple((leaf, source) for leaf, source in zip(leaves, sources, strict=True) if source.requires_grad)
        return replace(self, accumulates=True, cut=cut)


class Repeated:
    """An energy of one's own, which draws the same random numbers in each evaluation, for example for dropout."""

    def __init__(self, energy: Any, view: Tensor) -> None:
        self.energy, self.state, self.device = energy, torch.get_rng_state(), view.device.type
        self.devices, self.states = get_device_states(view)

    def __call__(self, view: Tensor, told: int) -> Tensor:
        with torch.random.fork_rng(self.devices, device_type="cuda" if self.device == "cpu" else self.device):
            torch.set_rng_state(self.state)
            set_device_states(self.devices, self.states, device_type=self.device)
            found: Tensor = self.energy(view, told)
        return found


def repeatable(energy: Any, view: Tensor) -> Any:
    """The energy, or for one of one's own the same that can be evaluated again. Landscapes of ``ebt.nn`` draw nothing."""
    return energy if hasattr(energy, "once") else Repeated(energy, view)


class Passes(Protocol):
    """What descents evaluate with central differences, for example compiled. An energy may have it as its ``passes``."""

    def first(self, energy: Any, told: int, view: Tensor) -> tuple[Tensor, Tensor]:
        """Energies at a view and their gradient, both detached."""
        ...

    def ends(
        self, energy: Any, told: int, view: Tensor, step: Tensor, factor: Tensor, learning: tuple[Tensor, ...], shared: bool
    ) -> list[Tensor | None]:
        """Gradients of ``factor (E(view + step) - E(view - step))`` with respect to the view and ``learning``. ``factor`` has
        one value per prediction. The graph behind the energy stays if it is ``shared`` with others."""
        ...

    def hidden(self, network: Any, *inputs: Any) -> Tensor:
        """``network.hidden`` for blocks that do not see the candidates."""
        ...


def first(energy: Any, told: int, view: Tensor) -> tuple[Tensor, Tensor]:
    """See ``Passes``."""
    with torch.enable_grad():
        leaf = view.detach().requires_grad_()
        energies = energy(leaf, told)
        (gradient,) = torch.autograd.grad(energies.sum(), leaf)
    return energies.detach(), gradient


def ends(
    energy: Any, told: int, view: Tensor, step: Tensor, factor: Tensor, learning: tuple[Tensor, ...], shared: bool
) -> list[Tensor | None]:
    """See ``Passes``. The ends are evaluated one after the other, so that one graph is in memory."""
    pairs = zip(*(_end(energy, told, view, step, factor, learning, shared, end) for end in (1, -1)), strict=True)
    return [_sum(one, two) for one, two in pairs]


def _end(
    energy: Any, told: int, view: Tensor, step: Tensor, factor: Tensor, learning: tuple[Tensor, ...], shared: bool, end: int
) -> tuple[Tensor | None, ...]:
    """Gradients of ``end factor E(view + end step)``, see ``Passes.ends``."""
    with torch.enable_grad():
        leaf = view.detach().requires_grad_()
        energies = precise(energy(leaf.add(step, alpha=end), told))
        slope = broadcastable(end * factor, energies.dim()).expand_as(energies)
        return torch.autograd.grad(energies, (leaf, *learning), slope, retain_graph=shared, allow_unused=True)


def _sum(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    return one if two is None else two if one is None else one + two


def _taken(
    take: Callable[[Sequence[Tensor | None]], None],
    energy: Any,
    told: int,
    view: Tensor,
    step: Tensor,
    factor: Tensor,
    learning: tuple[Tensor, ...],
    shared: bool,
) -> list[Tensor | None]:
    """The same as ``ends`` for the view alone. The gradients of ``learning`` are given away after each end."""

    def pull(end: int) -> Tensor | None:  # returns before the next end, so that no gradient stays alive
        found, *others = _end(energy, told, view, step, factor, learning, shared, end)
        take(others)
        return found

    return [_sum(pull(1), pull(-1)), *[None] * len(learning)]


def passes_of(energy: Any, nudge: Nudge | None) -> Passes | None:
    """The ``passes`` of an energy, if it has them and the tensors that learn are known."""
    unknown = nudge is None or nudge.accumulates or nudge.known(energy) is None
    return None if unknown else getattr(energy, "passes", None)


def _accumulated(
    energy: Any, told: int, view: Tensor, step: Tensor, factor: Tensor, learning: tuple[Tensor, ...], shared: bool
) -> list[Tensor | None]:
    """The same as ``ends``, by a backward pass that adds the gradients of weights to ``grad``."""
    with torch.enable_grad():
        leaf = view.detach().requires_grad_()
        if learning:  # landscapes that can be cut take several candidates for each context
            above, below = precise(energy(torch.cat((leaf + step, leaf - step)), told)).chunk(2)
        else:
            above, below = (precise(energy(leaf + end * step, told)) for end in (1, -1))
        ((above - below) * broadcastable(factor, above.dim())).sum().backward(retain_graph=shared)
    return [_take(one) for one in (leaf, *learning)]


def _take(leaf: Tensor) -> Tensor | None:
    """The accumulated gradient of a leaf, which is removed."""
    gradient, leaf.grad = leaf.grad, None
    return gradient


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
        ctx: Any,
        view: Tensor,
        gradient: Tensor,
        energy: Any,
        told: int,
        nudge: Nudge,
        learning: Any,
        shared: bool,
        *behind: Tensor,
    ) -> Tensor:
        ctx.energy, ctx.told, ctx.nudge, ctx.learning, ctx.shared = energy, told, nudge, learning, shared
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
        factor = size / (2 * h)
        passes = passes_of(ctx.energy, ctx.nudge)
        # backward passes run outside the autocast of the forward pass, on accelerators in threads of their own
        with torch.autocast(*ctx.autocast):
            pull = _accumulated if ctx.nudge.accumulates else ends if passes is None else passes.ends
            if pull is ends and ctx.nudge.take is not None:
                pull = partial(_taken, ctx.nudge.take)
            gradients = pull(ctx.energy, ctx.told, view, step.to(view.dtype), factor, ctx.learning, ctx.shared)
        return gradients[0], None, None, None, None, None, None, None, *gradients[1:]


def _norm(tensor: Tensor, dims: int) -> Tensor:
    """Norm over all elements of a prediction, (N, *predictions)."""
    return torch.linalg.vector_norm(precise(tensor).flatten(dims), dim=-1)

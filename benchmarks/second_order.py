"""Compare the speed of several ways to compute the second-order term of a thinking step.

    python benchmarks/second_order.py --quick --json second_order.json
    python benchmarks/second_order.py --boards           # bidirectional with 81 cells, not causal with 256 tokens

A step moves a candidate against ``g = dE/dview``. Training needs the gradient of ``v . g`` with respect to all weights and the
context, where ``v`` is the slope of a loss. With N weights in the blocks, the energy takes 2 N operations per prediction and
``g`` another 2 N. Differentiating ``g`` takes 8 N; a directional derivative ``dE(view + t v)/dt`` 4 N, and its gradient 8 N.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from torch.func import functional_call, grad, jvp, vjp
from torch.fx.experimental.proxy_tensor import make_fx

sys.path.insert(0, str(Path(__file__).parent))  # benchmarks import each other
from race import Contestant, Turn, options, race, seconds, write

from ebt.cli.terminal import plain_table, print_table
from ebt.nn import EBTDecoder, EBTEncoder, NetworkConfig
from ebt.nn.blocks import Groups
from ebt.thinking.fast.central import SIZES

Leaves = tuple[Tensor, ...]
CONTEXT, BOARD = 256, 9


def causal(config: NetworkConfig, rows: int) -> tuple[EBTDecoder, Callable[..., Tensor], list[Tensor], int]:
    """A network, its energy as a function of a view and context tensors, those tensors, and the predictions per row."""
    network = EBTDecoder(config)
    context = network.context(torch.randn(rows, CONTEXT, config.dim), None, None, 0, CONTEXT)
    return network, lambda view, tensors: network.energy(view, context.on(tensors), 0), list(context.tensors()), CONTEXT


def bidirectional(config: NetworkConfig, rows: int) -> tuple[EBTEncoder, Callable[..., Tensor], list[Tensor], int]:
    """The same for boards: all cells see each other, and relations tell which cells share a row."""
    cells = BOARD**2
    network = EBTEncoder(config, relations=Groups(config, (torch.arange(cells) // BOARD).unsqueeze(0)))
    return network, lambda view, tensors: network.energy(tensors[0], view, 0), [torch.randn(rows, cells, config.dim)], cells


def problem(layers: int, dim: int, rows: int, boards: bool) -> tuple[Callable[..., Tensor], Leaves, Tensor, Tensor]:
    """The energy as a function of (weights and context, view), its weights and context, a view, and a slope."""
    torch.manual_seed(0)
    make = bidirectional if boards else causal
    network, of_view, context, length = make(NetworkConfig(layers=layers, dim=dim, heads=4 if boards else dim // 64), rows)
    torch.nn.init.normal_(network.head.projection.weight)
    names = list(dict(network.named_parameters()))
    known = [tensor.detach().requires_grad_() for tensor in context]

    class Energy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, view: Tensor, tensors: list[Tensor]) -> Tensor:
            return of_view(view, tensors).sum()

    def energy(leaves: Leaves, view: Tensor) -> Tensor:
        weights = {f"network.{name}": leaf for name, leaf in zip(names, leaves, strict=False)}
        found: Tensor = functional_call(Energy(), weights, (view, list(leaves[len(names) :])))
        return found

    leaves = (*(weight.detach().requires_grad_() for weight in network.parameters()), *known)
    return energy, leaves, torch.randn(rows, length, dim), torch.randn(rows, length, dim)


def twice(energy: Any, leaves: Leaves, view: Tensor, slope: Tensor) -> Sequence[Tensor]:
    """Differentiate by double backward."""
    view = view.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(leaves, view), view, create_graph=True)
    return (gradient.detach(), *torch.autograd.grad(gradient, leaves, slope))


def along(energy: Any, leaves: Leaves, view: Tensor, slope: Tensor) -> Sequence[Tensor]:
    """Differentiate by one backward pass, then a directional derivative and its backward pass."""
    view = view.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(leaves, view), view)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(view.detach(), slope)
        change = torch.autograd.forward_ad.unpack_dual(energy(leaves, dual)).tangent
    return (gradient, *torch.autograd.grad(change, leaves))


def central(energy: Any, leaves: Leaves, view: Tensor, slope: Tensor) -> Sequence[Tensor]:
    """Differentiate by one backward pass, then two ordinary passes at nudged candidates (``ebt.thinking.fast.central``)."""
    view = view.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(leaves, view), view)
    h = SIZES[view.dtype] * view.detach().norm() / slope.norm()
    change = (energy(leaves, view.detach() + h * slope) - energy(leaves, view.detach() - h * slope)) / (2 * h)
    return (gradient, *torch.autograd.grad(change, leaves))


def twice_functional(energy: Any, leaves: Leaves, view: Tensor, slope: Tensor) -> Sequence[Tensor]:
    gradient, pull = vjp(lambda weights: grad(energy, 1)(weights, view), leaves)
    return (gradient, *pull(slope)[0])


def along_functional(energy: Any, leaves: Leaves, view: Tensor, slope: Tensor) -> Sequence[Tensor]:
    gradient = grad(energy, 1)(leaves, view)
    return (gradient, *grad(lambda weights: jvp(partial(energy, weights), (view,), (slope,))[1])(leaves))


def plain() -> AbstractContextManager[Any]:
    """Replace norm, SwiGLU and attention of candidates by plain formulas."""

    def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, horizon: int) -> Tensor:
        hidden = torch.ones(q.shape[2], keys.shape[2], dtype=torch.bool).triu(horizon)
        scores = (q @ keys.transpose(-1, -2)).masked_fill(hidden, float("-inf"))
        scores = torch.cat(((q * k).sum(-1, keepdim=True), scores), -1) * q.shape[-1] ** -0.5
        weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()  # softmax has no gradient of its forward mode
        weights = weights / weights.sum(-1, keepdim=True)
        return weights[..., 1:] @ values + weights[..., :1] * v

    def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight

    def rotate(x: Tensor, rotary: Tensor) -> Tensor:  # the compiler does not support complex numbers
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = rotary.real, rotary.imag
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    def attend_to_all(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
        weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
        return (weights / weights.sum(-1, keepdim=True)) @ v

    stack = ExitStack()
    stack.enter_context(patch("ebt.nn.encoder.attend", attend_to_all))
    stack.enter_context(patch("ebt.nn.decoder.attend_causally", attend))
    stack.enter_context(patch("ebt.nn.blocks.rms_norm", rms))
    stack.enter_context(patch("ebt.nn.blocks.swiglu", lambda a, b: F.silu(a) * b))
    stack.enter_context(patch("ebt.nn.blocks.rotate", rotate))
    return stack


WAYS: dict[str, tuple[Any, bool, str]] = {
    "double backward, written out": (twice, False, "eager"),
    "double backward": (twice, True, "eager"),
    "directional derivative": (along, True, "eager"),
    "central differences, written out": (central, False, "eager"),
    "central differences": (central, True, "eager"),
    "double backward, traced": (twice_functional, True, "traced"),
    "double backward, traced and compiled": (twice_functional, True, "compiled"),
    "directional derivative, traced": (along_functional, True, "traced"),
}
"""By name: a function, whether it uses plain formulas, and how it runs."""


def prepared(name: str, sizes: tuple[int, int, int, bool]) -> tuple[Callable[[], Sequence[Tensor]], Any]:
    """A call of one way, and the context manager it must run in."""
    function, is_plain, how = WAYS[name]
    energy, *tensors = problem(*sizes)
    call = partial(function, energy)
    with plain() if is_plain else ExitStack():
        if how != "eager":
            call = make_fx(call)(*tensors)
        if how == "compiled":
            call = torch.compile(call)
            call(*tensors)
    return partial(call, *tensors), plain if is_plain else ExitStack


def make(name: str, sizes: tuple[int, int, int, bool], folder: Path) -> tuple[Turn, Turn]:
    """The turn of one way; the first saves all gradients of weights and context, since tracing again takes seconds."""
    call, context = prepared(name, sizes)

    def turn() -> None:
        with context():
            call()

    def first() -> None:
        with context():
            torch.save(torch.cat([gradient.detach().flatten() for gradient in call()[1:]]), folder / name)

    return first, turn


@dataclass(frozen=True)
class Result:
    """Speed and memory of one way."""

    name: str
    seconds: float
    memory: float | None
    """Peak above the memory in use before, in MB."""
    times_first: float
    """Time over that of the library's own way, the first."""
    error: float
    """Relative difference of all gradients from those of the first."""
    cosine: float
    """Cosine of the angle between both."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("--boards", action="store_true", help="a bidirectional network on boards of 81 cells")
    args, console = parser.parse_args(argv), Console()
    layers, dim, rows = (1, 64, 1) if args.quick else (4, 64, 32) if args.boards else (2, 256, 3)
    names = [name for name in WAYS if not ((args.quick or args.boards) and "compiled" in name)]  # it takes minutes to compile
    sizes = (layers, dim, rows, args.boards)
    with TemporaryDirectory() as saved:
        contestants = [Contestant(name, partial(make, name, sizes, Path(saved))) for name in names]
        found = race(contestants, args.rounds or 5, args.threads)
        gradients = {name: torch.load(Path(saved) / name).double() for name in names}
    first = seconds(found[names[0]], args.clock)
    exact, results = gradients[names[0]], []
    for name, one in found.items():
        taken, other = seconds(one, args.clock), gradients[name]
        error, cosine = ((other - exact).norm() / exact.norm()).item(), F.cosine_similarity(other, exact, dim=0).item()
        results.append(Result(name, taken, one.memory, taken / first, error, cosine))
    table = plain_table()
    for column in ("way", "seconds", "ratio", "MB", "error"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for one in results:
        memory = "" if one.memory is None else f"{one.memory:.0f}"
        table.add_row(one.name, f"{one.seconds:.3f}", f"{one.times_first:.2f}", memory, f"{one.error:.1e}")
    print_table(console, f"{layers} layers of {dim}, {rows} x {BOARD**2 if args.boards else CONTEXT} predictions", table)
    write(args.json, args, results, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())

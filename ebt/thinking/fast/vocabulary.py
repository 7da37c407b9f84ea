"""Views and losses over a vocabulary, computed in chunks so that tensors of N x P x V elements never exist.

Shapes: N states (all parts of all rows), V vocabulary size, D width. ``W`` (V, D) is the embedding table, ``u`` (N, D) a
compact state that represents the logits ``W u``, ``p`` their softmax, and ``e = W^T p`` the view.

The cross entropy for index y is ``log sum exp(W u) - w_y . u``, and its gradient with respect to ``u`` is ``e - w_y``. One pass
over the vocabulary gives a loss, its gradients and the next view with three V x D products, as many as an output head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebt.thinking.noise import precise

CHUNK = 2**24
"""Number of logits computed at once."""
TILE = 2048
"""Number of words computed at once on CPUs, so that logits stay in the processor caches."""


class Views(NamedTuple):
    """Views ``e`` (N, D) of states, with ``log sum exp(W u)`` (N, 1) in at least float32."""

    view: Tensor
    log_sum: Tensor


def chunks(rows: int, words: int) -> Iterator[slice]:
    """Slices of ``rows`` states, of equal size, with at most ``CHUNK`` logits but at least one state each."""
    size = max(1, -(-rows // max(1, -(-rows * words // CHUNK))))
    return (slice(first, first + size) for first in range(0, rows, size))


def by_chunks(function: Callable[..., Tensor], words: int, *states: Tensor) -> Tensor:
    """Apply a function, which returns one value per part, to states (N, *P, K) in chunks."""
    flat = [state.flatten(0, -2) for state in states]
    found = [function(*(one[part] for one in flat)) for part in chunks(len(flat[0]), words)]
    return torch.cat(found).view(states[0].shape[:-1])


def _parts(u: Tensor, table: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Iterate over chunks with their logits (V, n).

    CPUs write all chunks to the same memory, so a chunk is only valid until the next one. With V = 50,277 and D = 384 this is
    1.6 times as fast as ``u @ W.T``.
    """
    table, room = table.detach(), None
    for part in chunks(len(u), len(table)):
        states = u[part].detach().to(table.dtype)
        if u.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            yield part, table @ states.T
            continue
        if room is None or room.shape[1] != len(states):
            room = table.new_empty(len(table), len(states))
        yield part, torch.mm(table, states.T, out=room)


def _exponentials(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``exp(W u - max)`` (V, n), their sums (n,) and ``log sum exp(W u)`` (n,), in at least float32."""
    logits = precise(logits)
    top = logits.amax(0)
    weights = logits.sub_(top).exp_()
    total = weights.sum(0)
    return weights, total, total.log().add_(top)


def _mean(weights: Tensor, total: Tensor, table: Tensor) -> Tensor:
    """Average of the table's rows (n, D) under weights (V, n) with sums ``total``."""
    return (weights.T.to(table.dtype) @ table.detach()).to(weights.dtype) / total.unsqueeze(-1)


def _tiles(states: Tensor, table: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Iterate over tiles of the table with their logits (n, T) in at least float32. A tile is only valid until the next one."""
    size, room = len(table), None
    if states.device.type == "cpu":
        size = min(TILE, size)
        room = None if torch.is_autocast_enabled("cpu") else table.new_empty(len(states) * size)
    for first in range(0, len(table), size):
        tile = table[first : first + size]
        out = None if room is None else room[: len(states) * len(tile)].view(len(states), len(tile))
        yield slice(first, first + size), precise(states @ tile.T if out is None else torch.mm(states, tile.T, out=out))


def views(u: Tensor, table: Tensor) -> Views:
    """Views of states (N, D), without gradients. The softmax is rescaled from tile to tile."""
    table, seen, log_sums = table.detach(), [], []
    for part in chunks(len(u), len(table)):
        states = u[part].detach().to(table.dtype)
        total, mean = (precise(states).new_zeros(len(states), width) for width in (1, table.shape[1]))
        top = torch.full_like(total, float("-inf"))
        for words, logits in _tiles(states, table):
            highest = torch.maximum(top, logits.amax(-1, keepdim=True))
            weights, shrink = logits.sub_(highest).exp_(), top.sub_(highest).exp_()
            total.mul_(shrink).add_(weights.sum(-1, keepdim=True))
            mean.mul_(shrink).add_(weights.to(table.dtype) @ table[words])
            top = highest
        seen.append(mean.div_(total))
        log_sums.append(total.log_().add_(top))
    return Views(torch.cat(seen), torch.cat(log_sums))


def losses(u: Tensor, table: Tensor, target: Tensor) -> Tensor:
    """Cross entropy (N,) of states for target indices (N,), in at least float32, without gradients."""
    return torch.cat([_exponentials(logits)[2] for _, logits in _parts(u, table)]) - _own(u, table, target)


def _own(u: Tensor, table: Tensor, target: Tensor) -> Tensor:
    """Logits of the targets, (N,)."""
    return precise(u * table[target]).sum(-1)


def assess(u: Tensor, table: Tensor, target: Tensor, weight: Tensor, into: Tensor | None) -> tuple[Tensor, Tensor, Views]:
    """Losses of states, the gradient of their weighted sum, and the views, in one pass.

    Args:
        u: States (N, D).
        table: Embedding table (V, D).
        target: Target indices (N,).
        weight: Weight of each loss in the sum, (N,).
        into: Buffer (V, D) to which the gradient with respect to the table is added. None: not computed.

    Returns:
        Losses (N,), gradient with respect to the states (N, D), and views.
    """
    seen = views(u, table) if into is None else _views_and_gradient(u, table, weight, into)
    if into is not None:
        into.index_add_(0, target, (-weight.unsqueeze(-1) * u).to(into.dtype))
    slope = weight.unsqueeze(-1) * (seen.view - table[target])
    return seen.log_sum.squeeze(-1) - _own(u, table, target), slope.to(u.dtype), seen


def _views_and_gradient(u: Tensor, table: Tensor, weight: Tensor, into: Tensor) -> Views:
    """Views, and the gradient of the weighted ``log sum exp(W u)`` with respect to the table, which needs whole chunks."""
    seen, log_sums = [], []
    for part, logits in _parts(u, table):
        weights, total, log_sum = _exponentials(logits)
        log_sums.append(log_sum.unsqueeze(-1))
        seen.append(_mean(weights, total, table))
        into.addmm_(weights.to(into.dtype), (u[part] * (weight[part] / total).unsqueeze(-1)).to(into.dtype))
    return Views(torch.cat(seen), torch.cat(log_sums))


def pull_back(
    u: Tensor, table: Tensor, known: Views, gradient: Tensor, into: Tensor | None, wanted: bool = True
) -> Tensor | None:
    """Map the gradient with respect to views to the gradient with respect to states, ``W^T (diag p - p p^T) W gradient``.

    Args:
        u: States (N, D).
        table: Embedding table (V, D).
        known: Views of the states.
        gradient: Gradient with respect to the views (N, D).
        into: Buffer (V, D) to which the gradient with respect to the table is added. None: not computed.
        wanted: Whether to compute the gradient with respect to the states.
    """
    table, pulled = table.detach(), []
    for part in chunks(len(u), len(table)):
        states, slopes, view = u[part].detach(), gradient[part], known.view[part]
        both, mean = torch.cat((states, slopes)).to(table.dtype), (precise(slopes) * view).sum(-1, keepdim=True)
        factors = torch.cat((slopes, states)).to(table.dtype if into is None else into.dtype)
        found = torch.zeros_like(precise(states))
        for words, logits in _tiles(both, table):
            weights, push = logits.chunk(2)
            weights.sub_(known.log_sum[part]).exp_()
            push.sub_(mean).mul_(weights)
            if wanted:
                found += push.to(table.dtype) @ table[words]
            if into is not None:
                into[words].addmm_(logits.T.to(into.dtype), factors)
        pulled.append(found)
    return torch.cat(pulled).to(u.dtype) if wanted else None


class View(torch.autograd.Function):
    """Views ``e`` (N, D) of states (N, D), differentiable once. The backward pass recomputes the softmax."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, table: Tensor, known: Views | None) -> Tensor:
        seen = views(u, table) if known is None else known
        view = seen.view.to(table.dtype, copy=known is not None)
        ctx.save_for_backward(u, table, view, seen.log_sum)
        return view

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, table, *known = ctx.saved_tensors
        into = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        return pull_back(u, table, Views(*known), gradient, into, ctx.needs_input_grad[0]), into, None


class CrossEntropy(torch.autograd.Function):
    """Cross entropy (N,) of states (N, D) for target indices (N,), differentiable once."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, table: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(u, table, target)
        return losses(u, table, target)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, table, target = ctx.saved_tensors
        into = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        return assess(u, table, target, gradient, into)[1], into, None

"""Work on a vocabulary in chunks, so that N x P x V numbers never exist at once.

Letters: N states (all parts of all rows), V words, D width. ``W`` (V, D) is the table, ``u`` (N, D) a compact state that stands
for the logits ``W u``, ``p`` their softmax, ``e = W^T p`` what the network sees.

The cross entropy of word y is ``log sum exp(W u) - w_y . u``; its slope with respect to ``u`` is ``e - w_y``. So one pass over
the vocabulary gives a loss, its gradients and the next view: three V x D products, as many as an output head needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ebt.thinking.noise import precise

CHUNK = 2**24
"""Logits that exist at once."""


def chunks(rows: int, words: int) -> Iterator[slice]:
    """Slices of ``rows`` states whose logits are at most ``CHUNK`` numbers (but of one state at least), of even size."""
    size = max(1, -(-rows // max(1, -(-rows * words // CHUNK))))
    return (slice(first, first + size) for first in range(0, rows, size))


def by_chunks(function: Callable[..., Tensor], words: int, *states: Tensor) -> Tensor:
    """A function of the logits of states (N, *P, K), one number a part, where the logits do not exist all at once."""
    flat = [state.flatten(0, -2) for state in states]
    found = [function(*(one[part] for one in flat)) for part in chunks(len(flat[0]), words)]
    return torch.cat(found).view(states[0].shape[:-1])


def _parts(u: Tensor, table: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The chunks, each with its logits (V, n).

    Words come first, and CPUs write all chunks to the same memory, for speed: with 50,277 words of 384 numbers that is 1.6
    times as fast as ``u @ W.T``, which is written to fresh pages. So a chunk must not outlive the next one.
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
    """``exp(W u - m)`` (V, n) with m the largest logits, their sums (n,), and ``log sum exp(W u)`` (n,); 32 bits at least."""
    logits = precise(logits)
    top = logits.amax(0)
    weights = logits.sub_(top).exp_()
    total = weights.sum(0)
    return weights, total, total.log().add_(top)


def _mean(weights: Tensor, total: Tensor, table: Tensor) -> Tensor:
    """The rows of the table, averaged by weights (V, n) with sums ``total``, (n, D)."""
    return (weights.T.to(table.dtype) @ table.detach()).to(weights.dtype) / total.unsqueeze(-1)


def views(u: Tensor, table: Tensor) -> Tensor:
    """``e`` (N, D) of states (N, D); no gradients."""
    return torch.cat([_mean(*_exponentials(logits)[:2], table) for _, logits in _parts(u, table)])


def losses(u: Tensor, table: Tensor, target: Tensor) -> Tensor:
    """Cross entropies (N,) of states with words (N,), at least in 32 bits; no gradients."""
    return torch.cat([_exponentials(logits)[2] for _, logits in _parts(u, table)]) - _own(u, table, target)


def _own(u: Tensor, table: Tensor, target: Tensor) -> Tensor:
    """The target's logits (N,)."""
    return precise(u * table[target]).sum(-1)


def assess(u: Tensor, table: Tensor, target: Tensor, weight: Tensor, into: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of states, the slope of their weighted sum, and the views, in one pass.

    Args:
        u: states (N, D).
        table: embeddings of the words (V, D).
        target: words (N,).
        weight: (N,), of each loss in the sum.
        into: (V, D), to which the sum's gradient with respect to the table is added, if it is wanted.

    Returns:
        losses (N,), the slope (N, D) with respect to the states, and views (N, D).
    """
    found, seen = [], []
    for part, logits in _parts(u, table):
        weights, total, log_sum = _exponentials(logits)
        found.append(log_sum)
        seen.append(_mean(weights, total, table))
        if into is not None:
            into.addmm_(weights.to(into.dtype), (u[part] * (weight[part] / total).unsqueeze(-1)).to(into.dtype))
    if into is not None:
        into.index_add_(0, target, (-weight.unsqueeze(-1) * u).to(into.dtype))
    view = torch.cat(seen)
    slope = weight.unsqueeze(-1) * (view - table[target])
    return torch.cat(found) - _own(u, table, target), slope.to(u.dtype), view


def pull_back(
    u: Tensor, table: Tensor, view: Tensor, gradient: Tensor, into: Tensor | None, wanted: bool = True
) -> Tensor | None:
    """From the gradient (N, D) with respect to views to that with respect to states: ``W^T (diag p - p p^T) W`` times it.

    Args:
        u: states (N, D).
        table: embeddings of the words (V, D).
        view: what is seen of the states, (N, D).
        gradient: (N, D).
        into: (V, D), to which the gradient with respect to the table is added, if it is wanted.
        wanted: whether that with respect to the states is.
    """
    pulled = []
    for (part, logits), (_, push) in zip(_parts(u, table), _parts(gradient, table), strict=True):
        weights, total, _ = _exponentials(logits)
        push = push.to(weights.dtype).sub_((gradient[part] * view[part]).sum(-1)).mul_(weights)
        if wanted:
            pulled.append(_mean(push, total, table))
        if into is not None:
            into.addmm_(weights.to(into.dtype), (gradient[part] / total.unsqueeze(-1)).to(into.dtype))
            into.addmm_(push.to(into.dtype), (u[part] / total.unsqueeze(-1)).to(into.dtype))
    return torch.cat(pulled).to(u.dtype) if wanted else None


class View(torch.autograd.Function):
    """``e`` (N, D) of states (N, D), differentiable once; what the softmax was is found again when it is asked for."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, table: Tensor, known: Tensor | None) -> Tensor:
        view = views(u, table) if known is None else known
        view = view.to(table.dtype, copy=view is known)
        ctx.save_for_backward(u, table, view)
        return view

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, table, view = ctx.saved_tensors
        into = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        return pull_back(u, table, view, gradient, into, ctx.needs_input_grad[0]), into, None


class CrossEntropy(torch.autograd.Function):
    """Cross entropies (N,) of states (N, D) with words (N,), differentiable once."""

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

"""Work on a vocabulary in chunks, so that N x P x V numbers never exist at once.

Letters: N states (all parts of all rows), V words, D width. ``W`` (V, D) is the table, ``u`` (N, D) a compact state that stands
for the logits ``W u``, ``p`` their softmax, ``e = W^T p`` what the network sees.

The cross entropy of word y is ``log sum exp(W u) - w_y . u``; its slope with respect to ``u`` is ``e - w_y``. So one pass over
the vocabulary gives a loss, its gradients and the next view: three V x D products, as many as an output head needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ebt.thinking.precision import precise

CHUNK = 2**23
"""Logits that exist at once."""


def chunks(rows: int, words: int) -> Iterator[slice]:
    """Slices of ``rows`` states whose logits are at most ``CHUNK`` numbers (but of one state at least), of even size."""
    count = max(1, -(-rows * words // CHUNK))
    size = max(1, -(-rows // count))
    return (slice(first, first + size) for first in range(0, rows, size))


def _exponentials(u: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``exp(W u - m)`` (n, V) with m the largest logit, their sum (n, 1), and ``log sum exp(W u)`` (n, 1); 32 bits at least."""
    logits = precise(u.to(table.dtype) @ table.T)
    top = logits.amax(-1, keepdim=True)
    weights = logits.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    return weights, total, total.log().add_(top)


def _mean(weights: Tensor, total: Tensor, table: Tensor) -> Tensor:
    """The rows of the table, averaged by weights (n, V) with sums ``total``."""
    return (weights.to(table.dtype) @ table).to(weights.dtype) / total


def views(u: Tensor, table: Tensor) -> Tensor:
    """``e`` (N, D) of states (N, D); no gradients."""
    parts = [_mean(*_exponentials(u[part], table)[:2], table) for part in chunks(len(u), len(table))]
    return torch.cat(parts)


def losses(u: Tensor, table: Tensor, target: Tensor) -> Tensor:
    """Cross entropies (N,) of states with words (N,), at least in 32 bits; no gradients."""
    found = [_exponentials(u[part], table)[2].squeeze(-1) for part in chunks(len(u), len(table))]
    return torch.cat(found) - _own(u, table, target)


def _own(u: Tensor, table: Tensor, target: Tensor) -> Tensor:
    """The target's logits (N,)."""
    return precise(u * table[target]).sum(-1)


def assess(u: Tensor, table: Tensor, target: Tensor, weight: Tensor, into: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of states, the slope of their weighted sum, and the views, in one pass.

    Args:
        u: states (N, D).
        target: words (N,).
        weight: (N,), of each loss in the sum.
        into: (V, D), to which the sum's gradient with respect to the table is added, if it is wanted.

    Returns:
        losses (N,), the slope (N, D) with respect to the states, and views (N, D).
    """
    found, seen = [], []
    for part in chunks(len(u), len(table)):
        weights, total, log_sum = _exponentials(u[part], table)
        found.append(log_sum.squeeze(-1))
        seen.append(_mean(weights, total, table))
        if into is not None:
            into.addmm_(weights.T.to(into.dtype), (u[part] * (weight[part].unsqueeze(-1) / total)).to(into.dtype))
    if into is not None:
        into.index_add_(0, target, (-weight.unsqueeze(-1) * u).to(into.dtype))
    view = torch.cat(seen)
    slope = weight.unsqueeze(-1) * (view - table[target])
    return torch.cat(found) - _own(u, table, target), slope.to(u.dtype), view


def pull_back(u: Tensor, table: Tensor, view: Tensor, gradient: Tensor, into: Tensor | None) -> Tensor:
    """From the gradient (N, D) with respect to views to that with respect to states: ``W^T (diag p - p p^T) W`` times it.

    Args:
        u, view: states and what is seen of them, (N, D).
        gradient: (N, D).
        into: (V, D), to which the gradient with respect to the table is added, if it is wanted.
    """
    pulled = []
    for part in chunks(len(u), len(table)):
        weights, total, _ = _exponentials(u[part], table)
        push = gradient[part] @ table.T
        push = push.to(weights.dtype).sub_((gradient[part] * view[part]).sum(-1, keepdim=True)).mul_(weights)
        pulled.append(_mean(push, total, table))
        if into is not None:
            into.addmm_(weights.T.to(into.dtype), (gradient[part] / total).to(into.dtype))
            into.addmm_(push.T.to(into.dtype), (u[part] / total).to(into.dtype))
    return torch.cat(pulled).to(u.dtype)


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
        return pull_back(u, table, view, gradient, into), into, None


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

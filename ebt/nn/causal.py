"""Attention of candidates to the observed tokens before them and to themselves, with its second derivatives written out.

Letters: G rows x heads, S candidates, K observed positions, d head width. Candidate i sees the first ``horizon + i`` observed
positions, so a block of neighbouring candidates needs a part of the keys only, and its scores are masked at their edge alone.

With scores ``s = q K^T``, and ``s_o = q . k`` of the candidate itself, ``P = softmax(s_o, s)`` and ``O = P V + P_o v``. From a
gradient ``g`` with respect to O follow ``dP = g V^T``, ``dS = P (dP - g . O)``, ``dq = dS K + dS_o k``, ``dk = dS_o q`` and
``dv = P_o g``. Given slopes (a, b, c) with respect to (dq, dk, dv), the second derivatives follow from ``U = a K^T`` (``U_o =
a . k + b . q``) less its mean under P, and ``T = dS U - P x`` with ``x = sum dS U + P_o c . g`` (``T_o``: ``P_o c . g`` more).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebt.nn.second_order import without_autocast
from ebt.thinking.noise import precise

BLOCK = 64
"""Candidates whose scores are computed together."""


def attend_causally(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, horizon: int) -> Tensor:
    """Each of S candidates attends to the first ``horizon + i`` observed positions and to itself; twice differentiable.

    Args:
        q: queries (N, H, S, d) of the candidates.
        k: their keys (N, H, S, d).
        v: their values (N, H, S, d).
        keys: (N, H, K, d) of the observed positions.
        values: (N, H, K, d) of the observed positions.
        horizon: how many of them the first candidate sees.

    Scores, and what is made of them, have 32 bits at least.
    """
    shape, dtype, weights = q.shape, v.dtype, list[Tensor]()
    parts = (q * shape[-1] ** -0.5, k, v, keys, values)
    q, k, v, keys, values = (precise(part).reshape(-1, *part.shape[2:]) for part in parts)
    attended: Tensor = _Attend.apply(q, k, v, keys, values, horizon, weights)
    if torch.is_grad_enabled() and (keys.requires_grad or values.requires_grad):
        constants = (q.detach(), attended.detach())
        attended = attended + _Observed.apply(keys, values, *constants, horizon, weights)
    return attended.view(shape).to(dtype)


def _blocks(candidates: int, observed: int, horizon: int) -> Iterator[tuple[slice, slice]]:
    """Slices of the candidates, each with that of the observed positions that its last one sees."""
    for first in range(0, candidates, BLOCK):
        last = min(first + BLOCK, candidates)
        yield slice(first, last), slice(0, min(observed, horizon + last - 1))


def _softmax(q: Tensor, k: Tensor, keys: Tensor, seen_by_all: int) -> Tensor:
    """Weights (G, n, 1 + K) of a block, the candidate itself first."""
    scores = q @ keys.transpose(-1, -2)
    edge = scores[..., seen_by_all:]
    edge.masked_fill_(torch.ones(edge.shape[-2:], dtype=torch.bool, device=q.device).triu(), float("-inf"))
    return torch.cat((_dot(q, k), scores), -1).softmax(-1)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def _score_slopes(gradient: Tensor, v: Tensor, values: Tensor, attended: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """``dS`` (G, n, K) and ``dS_o`` (G, n, 1) of a block."""
    mean = _dot(gradient, attended)
    own = (_dot(gradient, v) - mean) * weights[..., :1]
    return (gradient @ values.transpose(-1, -2)).sub_(mean).mul_(weights[..., 1:]), own


class _Attend(torch.autograd.Function):
    """``O``; gradients with respect to keys and values, which thinking does not ask for at first, come from ``_Observed``."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, horizon: int, weights: list[Tensor]
    ) -> Tensor:
        attended = torch.empty_like(q)
        for rows, seen in _blocks(q.shape[1], keys.shape[1], horizon):
            weights.append(_softmax(q[:, rows], k[:, rows], keys[:, seen], horizon + rows.start))
            own, others = weights[-1][..., :1], weights[-1][..., 1:]
            attended[:, rows] = (others @ values[:, seen]).addcmul_(own, v[:, rows])
        ctx.save_for_backward(q, k, v, keys, values, attended)
        ctx.horizon, ctx.weights = horizon, weights
        return attended

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, attended = ctx.saved_tensors
        slopes = _Slope.apply(gradient, *tensors, attended.detach(), ctx.horizon, ctx.weights)
        return *slopes, None, None, None, None


class _Slope(torch.autograd.Function):
    """``dq, dk, dv``."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        gradient: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        keys: Tensor,
        values: Tensor,
        attended: Tensor,
        horizon: int,
        weights: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = torch.empty_like(q), torch.empty_like(q), torch.empty_like(q)
        ctx.slopes = []
        for (rows, seen), weight in zip(_blocks(q.shape[1], keys.shape[1], horizon), weights, strict=True):
            slope, own = _score_slopes(gradient[:, rows], v[:, rows], values[:, seen], attended[:, rows], weight)
            dq[:, rows] = (slope @ keys[:, seen]).addcmul_(own, k[:, rows])
            dk[:, rows], dv[:, rows] = own * q[:, rows], weight[..., :1] * gradient[:, rows]
            ctx.slopes.append((slope, own))
        ctx.save_for_backward(gradient, q, k, v, keys, values)
        ctx.horizon, ctx.weights = horizon, weights
        return dq, dk, dv

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        g, q, k, v, keys, values = ctx.saved_tensors
        to_g, to_q, to_k, to_v = (torch.empty_like(q) for _ in range(4))
        to_keys, to_values = torch.zeros_like(keys), torch.zeros_like(values)
        blocks = zip(_blocks(q.shape[1], keys.shape[1], ctx.horizon), ctx.weights, ctx.slopes, strict=True)
        for (rows, seen), weight, (slope, own_slope) in blocks:
            slopes, inputs = (a[:, rows], b[:, rows], c[:, rows]), (g[:, rows], q[:, rows], k[:, rows], v[:, rows])
            found = _second(slopes, inputs, (keys[:, seen], values[:, seen]), weight, (slope, own_slope))
            to_g[:, rows], to_q[:, rows], to_k[:, rows], to_v[:, rows] = found[:4]
            to_keys[:, seen] += found[4]
            to_values[:, seen] += found[5]
        return to_g, to_q, to_k, to_v, to_keys, to_values, None, None, None


def _second(
    slopes: tuple[Tensor, Tensor, Tensor],
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    observed: tuple[Tensor, Tensor],
    weight: Tensor,
    score_slopes: tuple[Tensor, Tensor],
) -> tuple[Tensor, ...]:
    """The second derivatives of one block, with respect to (g, q, k, v, keys, values); letters as above."""
    (a, b, c), (g, q, k, v), (keys, values), (slope, own_slope) = slopes, inputs, observed, score_slopes
    own, others = weight[..., :1], weight[..., 1:]
    push, own_push = a @ keys.transpose(-1, -2), _dot(a, k) + _dot(b, q)
    mean = (others * push).sum(-1, keepdim=True).addcmul_(own, own_push)
    push, own_push = push.sub_(mean), own_push - mean
    tangent, own_tangent = others * push, own * own_push
    turned = push.mul_(slope)
    extra = own * _dot(c, g)
    total = turned.sum(-1, keepdim=True) + own_slope * own_push + extra
    turned.addcmul_(others, total, value=-1)
    own_turned = own_slope * own_push + extra - own * total
    to_g = (tangent @ values).addcmul_(own_tangent, v).addcmul_(own, c)
    to_q = (turned @ keys).addcmul_(own_turned, k).addcmul_(own_slope, b)
    to_k = (own_turned * q).addcmul_(own_slope, a)
    to_keys = torch.cat((turned, slope), 1).transpose(-1, -2) @ torch.cat((q, a), 1)
    return to_g, to_q, to_k, own_tangent * g, to_keys, tangent.transpose(-1, -2) @ g


class _Observed(torch.autograd.Function):
    """Zero, with the gradients of ``O`` with respect to keys and values: a branch that thinking itself leaves out."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, keys: Tensor, values: Tensor, q: Tensor, attended: Tensor, horizon: int, weights: list[Tensor]
    ) -> Tensor:
        ctx.save_for_backward(values, q, attended)
        ctx.horizon, ctx.weights, ctx.keys_shape = horizon, weights, keys.shape
        return q.new_zeros(()).expand_as(q)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, q, attended = ctx.saved_tensors
        to_keys, to_values = torch.zeros_like(values), torch.zeros_like(values)
        for (rows, seen), weight in zip(_blocks(q.shape[1], values.shape[1], ctx.horizon), ctx.weights, strict=True):
            g = gradient[:, rows]
            slope = (g @ values[:, seen].transpose(-1, -2)).sub_(_dot(g, attended[:, rows])).mul_(weight[..., 1:])
            to_keys[:, seen] += slope.transpose(-1, -2) @ q[:, rows]
            to_values[:, seen] += weight[..., 1:].transpose(-1, -2) @ g
        return to_keys, to_values, None, None, None, None

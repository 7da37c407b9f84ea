"""Attention of candidates to earlier observed tokens and to themselves, with explicit second derivatives.

Shapes: G rows x heads, S candidates, K observed positions, d head width. Candidate i sees the first ``horizon + i`` observed
positions. A block of neighbouring candidates therefore uses only part of the keys, and only the edge of its scores is masked.

With scores ``s = q K^T`` and ``s_o = q . k`` for the candidate itself, ``P = softmax(s_o, s)`` and ``O = P V + P_o v``. For a
gradient ``g`` with respect to O, ``dP = g V^T``, ``dS = P (dP - g . O)``, ``dq = dS K + dS_o k``, ``dk = dS_o q`` and
``dv = P_o g``. For gradients (a, b, c) with respect to (dq, dk, dv), the second derivatives use ``U = a K^T`` (``U_o = a . k +
b . q``) minus its mean under P, and ``T = dS U - P x`` with ``x = sum dS U + P_o c . g`` (``T_o`` adds ``P_o c . g``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebt.nn.second_order import dot, without_autocast
from ebt.thinking.noise import precise

BLOCK = 64
"""Number of candidates in a block."""
Parts = list[tuple[slice, slice, Tensor]]
"""For each block: its candidates, the observed positions that it uses, and its attention weights (G, n, 1 + K), with the weight
of the candidate itself first."""


def attend_causally(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, horizon: int) -> Tensor:
    """Attention (N, H, S, d) of candidate i to the first ``horizon + i`` observed positions and to itself.

    Twice differentiable. Computed in at least float32.

    Args:
        q: Queries of the candidates (N, H, S, d).
        k: Keys of the candidates (N, H, S, d).
        v: Values of the candidates (N, H, S, d).
        keys: Keys of the observed positions (N, H, K, d).
        values: Values of the observed positions (N, H, K, d).
        horizon: Number of observed positions that the first candidate sees.
    """
    shape, dtype, parts = q.shape, v.dtype, Parts()
    inputs = (q * shape[-1] ** -0.5, k, v, keys, values)
    q, k, v, keys, values = (precise(tensor).reshape(-1, *tensor.shape[2:]) for tensor in inputs)
    attended: Tensor = _Attend.apply(q, k, v, keys, values, horizon, parts)
    if torch.is_grad_enabled() and (keys.requires_grad or values.requires_grad):
        attended = attended + _Observed.apply(keys, values, q.detach(), attended.detach(), parts)
    return attended.view(shape).to(dtype)


def _softmax(q: Tensor, k: Tensor, keys: Tensor, seen_by_all: int) -> Tensor:
    """Attention weights of a block."""
    scores = q @ keys.transpose(-1, -2)
    edge = scores[..., seen_by_all:]
    edge.masked_fill_(torch.ones(edge.shape[-2:], dtype=torch.bool, device=q.device).triu(), float("-inf"))
    return torch.cat((dot(q, k), scores), -1).softmax(-1)


class _Attend(torch.autograd.Function):
    """``O``. Gradients of keys and values, which the inner backward pass does not need, come from ``_Observed``."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, horizon: int, parts: Parts) -> Tensor:
        attended = torch.empty_like(q)
        for first in range(0, q.shape[1], BLOCK):
            last = min(first + BLOCK, q.shape[1])
            rows, seen = slice(first, last), slice(0, min(keys.shape[1], horizon + last - 1))
            weight = _softmax(q[:, rows], k[:, rows], keys[:, seen], horizon + first)
            attended[:, rows] = (weight[..., 1:] @ values[:, seen]).addcmul_(weight[..., :1], v[:, rows])
            parts.append((rows, seen, weight))
        ctx.save_for_backward(q, k, v, keys, values, attended)
        ctx.parts = parts
        return attended

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, attended = ctx.saved_tensors
        return *_Slope.apply(gradient, *tensors, attended.detach(), ctx.parts), None, None, None, None


class _Slope(torch.autograd.Function):
    """``dq, dk, dv``."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, gradient: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, keys, values, attended, parts = inputs
        dq, dk, dv = torch.empty_like(q), torch.empty_like(q), torch.empty_like(q)
        ctx.slopes = []
        for rows, seen, weight in parts:
            mean = dot(gradient[:, rows], attended[:, rows])
            own = (dot(gradient[:, rows], v[:, rows]) - mean) * weight[..., :1]
            slope = (gradient[:, rows] @ values[:, seen].transpose(-1, -2)).sub_(mean).mul_(weight[..., 1:])
            dq[:, rows] = (slope @ keys[:, seen]).addcmul_(own, k[:, rows])
            dk[:, rows], dv[:, rows] = own * q[:, rows], weight[..., :1] * gradient[:, rows]
            ctx.slopes.append((slope, own))
        ctx.save_for_backward(gradient, q, k, v, keys, values)
        ctx.parts = parts
        return dq, dk, dv

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, keys, values = ctx.saved_tensors
        found = tuple(torch.empty_like(tensor) for tensor in inputs)
        to_keys, to_values = torch.zeros_like(keys), torch.zeros_like(values)
        for (rows, seen, weight), score_slopes in zip(ctx.parts, ctx.slopes, strict=True):
            ours = [tensor[:, rows] for tensor in (*slopes, *inputs)]
            *block, for_keys, for_values = _second(*ours, keys[:, seen], values[:, seen], weight, *score_slopes)
            for whole, part in zip(found, block, strict=True):
                whole[:, rows] = part
            to_keys[:, seen] += for_keys
            to_values[:, seen] += for_values
        return *found, to_keys, to_values, None, None


def _second(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Second derivatives of one block with respect to (g, q, k, v, keys, values). Notation as above."""
    a, b, c, g, q, k, v, keys, values, weight, slope, own_slope = tensors
    own, others = weight[..., :1], weight[..., 1:]
    push, own_push = a @ keys.transpose(-1, -2), dot(a, k) + dot(b, q)
    mean = (others * push).sum(-1, keepdim=True).addcmul_(own, own_push)
    push, own_push = push.sub_(mean), own_push - mean
    tangent, own_tangent = others * push, own * own_push
    turned = push.mul_(slope)
    extra = own * dot(c, g)
    total = turned.sum(-1, keepdim=True) + own_slope * own_push + extra
    turned.addcmul_(others, total, value=-1)
    own_turned = own_slope * own_push + extra - own * total
    to_g = (tangent @ values).addcmul_(own_tangent, v).addcmul_(own, c)
    to_q = (turned @ keys).addcmul_(own_turned, k).addcmul_(own_slope, b)
    to_k = (own_turned * q).addcmul_(own_slope, a)
    to_keys = torch.cat((turned, slope), 1).transpose(-1, -2) @ torch.cat((q, a), 1)
    return to_g, to_q, to_k, own_tangent * g, to_keys, tangent.transpose(-1, -2) @ g


class _Observed(torch.autograd.Function):
    """Zero, with the gradients of ``O`` with respect to keys and values. The inner backward pass skips this branch."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, keys: Tensor, values: Tensor, q: Tensor, attended: Tensor, parts: Parts) -> Tensor:
        ctx.save_for_backward(values, q, attended)
        ctx.parts = parts
        return q.new_zeros(()).expand_as(q)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, q, attended = ctx.saved_tensors
        to_keys, to_values = torch.zeros_like(values), torch.zeros_like(values)
        for rows, seen, weight in ctx.parts:
            g = gradient[:, rows]
            slope = (g @ values[:, seen].transpose(-1, -2)).sub_(dot(g, attended[:, rows])).mul_(weight[..., 1:])
            to_keys[:, seen] += slope.transpose(-1, -2) @ q[:, rows]
            to_values[:, seen] += weight[..., 1:].transpose(-1, -2) @ g
        return to_keys, to_values, None, None, None

"""Attention of candidates by PyTorch's fused kernels, for energies that are differentiated once.

A candidate attends to the context and to itself in one softmax. A fused kernel attends to the context, and returns its output
``o`` and the log-sum-exp ``L_c`` of its scores. With the candidate's own score ``s = q . k / sqrt(d)``,

    L = log(e^L_c + e^s),   w = e^(s - L),   O = (1 - w) o + w v

The backward pass of the kernel, called with the merged O and L, returns the context's part of the gradients, since it computes
``P = e^(scores - L)`` and ``dS = P (g V^T - g . O)``. The candidate's own part is ``ds = w (g . v - g . O)``, which adds
``ds k / sqrt(d)`` to ``dq``, and ``dk = ds q / sqrt(d)``, ``dv = w g``.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ebt.nn.second_order import dot
from ebt.thinking.noise import precise

_ATEN = torch.ops.aten
_CPU = "_scaled_dot_product_flash_attention_for_cpu"
_HALF = (torch.float16, torch.bfloat16)


class KernelWarning(UserWarning):
    """A device has no fused attention, and a plain formula with the same result takes its place."""


def kernel(device: torch.device, dtype: torch.dtype, masked: bool, width: int) -> str | None:
    """Name of the fused kernel for a device and precision, or None.

    Args:
        device: The device.
        dtype: Precision of the queries.
        masked: Whether another mask than the causal one is needed.
        width: Width of a head.
    """
    if device.type == "cpu":
        return _CPU if hasattr(_ATEN, _CPU) else None
    if device.type != "cuda" or dtype == torch.float64:
        return None
    flash = dtype in _HALF and not masked and width <= 256 and torch.cuda.get_device_capability(device) >= (8, 0)
    return "_scaled_dot_product_flash_attention" if flash else "_scaled_dot_product_efficient_attention"


def aligned(visible: Tensor, like: Tensor) -> Tensor:
    """Mask (.., S, K) as numbers to add to scores. Rows start at multiples of 8 numbers, as kernels for CUDA need."""
    length = visible.shape[-1]
    room = like.new_empty(*visible.shape[:-1], length + -length % 8)[..., :length]
    return room.fill_(0.0).masked_fill_(~visible, float("-inf"))


def attend_once(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None, causal: bool
) -> Tensor | None:
    """Attention (N, H, S, d) of each candidate to the visible context and to itself. Differentiable once.

    Args:
        q: See ``ebt.nn.blocks.attend_context_and_self``, as for the next arguments.
        k: Keys of the candidates.
        v: Values of the candidates.
        keys: Keys of the context.
        values: Values of the context.
        visible: Mask of the context positions that each candidate sees.
        causal: Whether candidate i sees the first i + 1 of S context positions, so that no mask is needed.

    Returns:
        None, after a warning, if the device has no fused kernel.
    """
    masked = visible is not None and not causal
    name = kernel(q.device, q.dtype, masked, q.shape[-1])
    if name is None:
        told = f"no fused attention for {q.dtype} on {q.device.type}: candidates use a plain formula, with the same result"
        warnings.warn(told, KernelWarning, stacklevel=2)
        return None
    mask = None
    if masked and visible is not None:
        mask = aligned(visible, q)
        mask = mask.expand(len(keys), q.shape[1], -1, -1) if name != _CPU else mask
    width, rows = q.shape[-1], len(keys)
    tensors = [q, k, v, keys, values]
    if name != _CPU and width % 8:  # kernels for CUDA need aligned heads
        tensors = [F.pad(tensor, (0, -width % 8)) for tensor in tensors]
    *own, keys, values = tensors
    groups = zip(*(tensor.split(rows) for tensor in own), strict=True)
    attended = [_Attend.apply(*group, keys, values, mask, causal, width**-0.5, name) for group in groups]
    return (attended[0] if len(attended) == 1 else torch.cat(attended))[..., :width]


class _Attend(torch.autograd.Function):
    """``O`` for tensors (B, H, S, d) and (B, H, K, d)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
        name: str,
    ) -> Tensor:
        seen, total, *rest = _forward(name, q, keys, values, mask, causal, scale)
        length = q.shape[2]
        observed = total[..., :length].unsqueeze(-1)
        own = dot(precise(q), precise(k)) * scale
        merged = torch.logaddexp(observed, own.to(observed.dtype))
        weight = (own - merged).exp()
        attended = torch.lerp(precise(seen), precise(v), weight).to(v.dtype)
        total = F.pad(merged.squeeze(-1), (0, total.shape[-1] - length), value=float("inf"))  # kernels may pad it
        ctx.save_for_backward(q, k, v, keys, values, mask, attended, total, weight, *rest)
        ctx.settings = name, causal, scale
        return attended

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, keys, values, mask, attended, total, weight, *rest = ctx.saved_tensors
        name, causal, scale = ctx.settings
        found = _backward(name, gradient, q, keys, values, mask, attended, total, causal, scale, rest)
        wide = precise(gradient)
        slope = weight * (dot(wide, precise(v)) - dot(wide, precise(attended))) * scale
        to_q = torch.addcmul(precise(found[0]), slope, precise(k)).to(q.dtype)
        return to_q, (slope * q).to(k.dtype), (weight * wide).to(v.dtype), *found[1:], None, None, None, None


def _forward(name: str, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool, scale: float) -> list[Any]:
    """Output and log-sum-exp of a kernel, and what its backward pass needs besides."""
    if name == _CPU:
        return list(
            _ATEN._scaled_dot_product_flash_attention_for_cpu(q, keys, values, 0.0, causal, attn_mask=mask, scale=scale)
        )
    if name == "_scaled_dot_product_flash_attention":
        seen, total, *_, state, unused, _ = _ATEN._scaled_dot_product_flash_attention(q, keys, values, 0.0, causal, scale=scale)
        return [seen, total, state, unused]
    return list(_ATEN._scaled_dot_product_efficient_attention(q, keys, values, mask, True, 0.0, causal, scale=scale))


def _backward(
    name: str,
    gradient: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    attended: Tensor,
    total: Tensor,
    causal: bool,
    scale: float,
    rest: list[Tensor],
) -> tuple[Tensor, ...]:
    """Gradients of queries, keys and values by the backward pass of a kernel."""
    if name == _CPU:
        backward = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward
        return backward(gradient, q, keys, values, attended, total, 0.0, causal, attn_mask=mask, scale=scale)[:3]
    if name == "_scaled_dot_product_flash_attention":
        backward, lengths = _ATEN._scaled_dot_product_flash_attention_backward, (q.shape[2], keys.shape[2])
        return backward(gradient, q, keys, values, attended, total, None, None, *lengths, 0.0, causal, *rest, scale=scale)[:3]
    backward, wanted = _ATEN._scaled_dot_product_efficient_attention_backward, [True, True, True, False]
    return backward(gradient, q, keys, values, mask, attended, total, *rest, 0.0, wanted, causal, scale=scale)[:3]

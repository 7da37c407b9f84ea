"""Attention of candidates by PyTorch's fused kernels, for energies that are differentiated once.

A candidate attends to the context and to itself in one softmax. A fused kernel attends to the context, and returns its output
``o`` and the log-sum-exp ``L_c`` of its scores. With the candidate's own score ``s = q . k / sqrt(d)``,

    L = log(e^L_c + e^s),   w = e^(s - L),   O = (1 - w) o + w v

The backward pass of the kernel, called with the merged O and L, returns the context's part of the gradients, since it computes
``P = e^(scores - L)`` and ``dS = P (g V^T - g . O)``. The candidate's own part is ``ds = w (g . v - g . O)``, which adds
``ds k / sqrt(d)`` to ``dq``, and ``dk = ds q / sqrt(d)``, ``dv = w g``.

Candidates of one position, as in generation, need no fused kernel. Their numbers are few, so that a graph takes longer than its
operations: the derivative of a whole block is written out.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebt.nn.blocks import Attention, Block, RMSNorm, rotate
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


def written_out(block: Block) -> bool:
    """Whether ``run_once`` computes what a block does: a Llama block without hooks, adapters, quantised or sharded weights."""
    if (
        block.gate is None
        or block.modulation is not None
        or block.attention.key.weight.shape != block.attention.query.weight.shape
    ):
        return False
    for part in block.modules():
        state = vars(part)
        weight = state["_parameters"].get("weight")
        if type(part) not in _PLAIN or "forward" in state or any(state[name] for name in _HOOKS):
            return False
        if weight is not None and (type(weight) is not nn.Parameter or weight.dtype not in (torch.float32, torch.float64)):
            return False
    return True


_PLAIN = (Block, Attention, nn.Linear, RMSNorm)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def run_once(block: Any, x: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None, rotary: Tensor) -> Tensor:
    """Output (N, 1, D) of a block for candidates of one position. Only the candidates get a gradient.

    Args:
        block: A block that is ``written_out``.
        x: Candidates (N, 1, D), N = M x B.
        keys: See ``attend_once``, as for the next two arguments.
        values: Values of the context.
        visible: Mask (B, 1, 1, K) of the context positions that each candidate sees. None: all.
        rotary: Rotations of queries and keys, see ``ebt.nn.blocks.rotation``.
    """
    attention, norms = block.attention, (block.attention_norm, block.ffn_norm)
    layers = attention.query, attention.key, attention.value, attention.output, block.gate, block.up, block.down
    weights = tuple(layer.weight for layer in (*norms, *layers))
    return _RunOnce.apply(x, keys, values, visible, rotary, norms[0].eps, weights)


class _RunOnce(torch.autograd.Function):
    """``run_once``. Notation as above, with all attention weights P (N, H, 1, 1 + K) in one tensor and ``w`` first."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        visible: Tensor | None,
        rotary: Tensor,
        eps: float,
        weights: tuple[Tensor, ...],
    ) -> Tensor:
        first, second, query, key, value, output, gate, up, down = weights
        flat, (_, heads, _, width) = x.squeeze(1), keys.shape
        norm = _normalise(flat, eps)
        seen = norm[0] * first
        both = torch.cat((F.linear(seen, query), F.linear(seen, key)), -1).view(-1, 2 * heads, 1, width)
        q, k = rotate(both, rotary).chunk(2, 1)
        v = F.linear(seen, value).view(q.shape)
        scores = _product(q, keys.transpose(-1, -2))
        if visible is not None:
            scores = scores.masked_fill(~visible.repeat(len(x) // len(keys), 1, 1, 1), float("-inf"))
        shares = torch.cat((dot(q, k), scores), -1).mul_(width**-0.5).softmax(-1)
        attended = torch.addcmul(_product(shares[..., 1:], values), shares[..., :1], v)
        middle = flat + F.linear(attended.flatten(1), output)
        norm_again = _normalise(middle, eps)
        seen = norm_again[0] * second
        opening, content = F.linear(seen, gate), F.linear(seen, up)
        opened = F.silu(opening)
        ctx.saved = weights, rotary, norm, (q, k, v, keys, values, shares, attended), norm_again, (opening, content, opened)
        return (middle + F.linear(opened * content, down)).unsqueeze(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, rotary, norm, (q, k, v, keys, values, shares, attended), norm_again, (opening, content, opened) = ctx.saved
        first, second, query, key, value, output, gate, up, down = weights
        gradient = gradient.squeeze(1)
        inner = gradient @ down
        slope = torch.addmm(inner * opened @ up, torch.ops.aten.silu_backward(inner * content, opening), gate)
        gradient = gradient + _normalise_back(slope * second, *norm_again)
        g = (gradient @ output).view(q.shape)
        pull = torch.cat((dot(g, v), _product(g, values.transpose(-1, -2))), -1)
        slopes = (pull - dot(g, attended)).mul_(shares).mul_(q.shape[-1] ** -0.5)
        own = slopes[..., :1]
        turned = torch.cat((torch.addcmul(_product(slopes[..., 1:], keys), own, k), own * q), 1)
        to_q, to_k = rotate(turned, rotary.conj()).flatten(1).chunk(2, -1)
        slope = (shares[..., :1] * g).flatten(1) @ value
        slope = torch.addmm(torch.addmm(slope, to_q, query), to_k, key)
        gradient = gradient + _normalise_back(slope * first, *norm)
        return gradient.unsqueeze(1), *[None] * 6


def _product(x: Tensor, shared: Tensor) -> Tensor:
    """Product of x (N, H, 1, n) and a matrix (B, H, n, m) that the M candidates of a context share, (N, H, 1, m)."""
    if x.shape[0] == shared.shape[0]:
        return x @ shared
    together = x.unflatten(0, (-1, shared.shape[0])).squeeze(3).permute(1, 2, 0, 3) @ shared
    return together.permute(2, 0, 1, 3).flatten(0, 1).unsqueeze(2)


def _normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``n = r x`` and ``r``, see ``ebt.nn.second_order``."""
    scale = (x.square().mean(-1, keepdim=True) + eps).rsqrt_()
    return x * scale, scale


def _normalise_back(gradient: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    mean = dot(gradient, normed) / normed.shape[-1]
    return torch.addcmul(gradient, normed, mean, value=-1).mul_(scale)


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

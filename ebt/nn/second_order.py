"""Operations of a block with explicit second derivatives, which take fewer and larger kernels than autograd.

Training differentiates energies twice: first with respect to the candidate, then that gradient with respect to everything.
Each operation is an autograd function; its ``backward`` is a second one, whose ``backward`` is the second derivative. Third
derivatives raise an error. tests/nn/test_second_order.py compares everything with the plain formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebt.thinking.fast.saving import again
from ebt.thinking.noise import precise

SMALL = 2**14
"""Tensors of at most this many elements use the plain formulas, since call overhead dominates (as in generation)."""


def plainly(x: Tensor) -> bool:
    """Whether an operation on x uses the plain formula: for small tensors, and for a compiler, which fuses it."""
    return torch.compiler.is_compiling() or x.numel() <= SMALL


Method = TypeVar("Method", bound=Callable[..., Any])


def without_autocast(function: Method) -> Method:
    """Decorator that disables autocast in a method of an autograd function."""

    @wraps(function)
    def run(ctx: Any, *args: Any) -> Any:
        with torch.autocast(args[0].device.type, enabled=False):
            return function(ctx, *args)

    return cast(Method, run)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Dot product over the last dimension, which is kept."""
    return (x * y).sum(-1, keepdim=True)


class _Normalise(torch.autograd.Function):
    """``n = r x`` with ``r = 1 / sqrt(mean x^2 + eps)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        scale = (precise(x).square().mean(-1, keepdim=True) + eps).rsqrt_()
        normed = precise(x) * scale
        dtype = x.dtype
        again(x, lambda: (normed / scale).to(dtype))
        ctx.save_for_backward(x, normed, scale)
        return normed.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _NormaliseSlope.apply(gradient, *ctx.saved_tensors), None


class _NormaliseSlope(torch.autograd.Function):
    """``r (g - n mean(g n))``."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
        gradient = precise(gradient)
        mean = dot(gradient, normed) / x.shape[-1]
        ctx.save_for_backward(gradient, normed, scale, mean)
        return torch.addcmul(gradient, normed, mean, value=-1).mul_(scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, other: Tensor) -> tuple[Tensor | None, ...]:
        gradient, normed, scale, mean = ctx.saved_tensors
        dtype, other, width = other.dtype, precise(other), normed.shape[-1]
        along, cross = dot(other, normed) / width, dot(other, gradient) / width
        first = torch.addcmul(other, normed, along, value=-1).mul_(scale)
        second = (normed * (3 * mean * along - cross)).addcmul_(gradient, along, value=-1).addcmul_(other, mean, value=-1)
        return first.to(dtype), second.mul_(scale.square()).to(dtype), None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square norm of x (..., D) with weights (D,)."""
    if plainly(x):
        wide = precise(x)
        return (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype) * weight
    normed: Tensor = _Normalise.apply(x, eps)
    return again(normed * weight, lambda: normed.detach() * weight.detach())


class _SwiGLU(torch.autograd.Function):
    """``silu(a) b``."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return F.silu(a).mul_(b)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return _SwiGLUSlope.apply(gradient, *ctx.saved_tensors)


class _SwiGLUSlope(torch.autograd.Function):
    """``(g b f'(a), g f(a))`` with ``f = silu``, ``f' = s (1 + a (1 - s))``, ``f'' = s (1 - s) (2 + a (1 - 2 s))``."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(gradient, a, b)
        return torch.ops.aten.silu_backward(gradient * b, a), F.silu(a).mul_(gradient)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, za: Tensor, zb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradient, a, b = ctx.saved_tensors
        s = a.sigmoid()
        value, rest = a * s, 1 - s
        slope = torch.addcmul(s, value, rest)
        zab = za * b
        to_gradient = (zab * slope).addcmul_(zb, value)
        curve = torch.addcmul(slope, slope, s, value=-1).addcmul_(s, rest).addcmul_(value * s, rest, value=-1)
        to_a = zab.mul_(curve).addcmul_(zb, slope).mul_(gradient)
        return to_gradient, to_a, slope.mul_(za).mul_(gradient)


def swiglu(a: Tensor, b: Tensor) -> Tensor:
    """``silu(a) b``."""
    if plainly(a):
        return F.silu(a) * b
    product: Tensor = _SwiGLU.apply(a, b)
    return again(product, lambda: F.silu(a.detach()).mul_(b.detach()))


class _Attend(torch.autograd.Function):
    """``O = P v`` with ``P = softmax(q k^T + bias)``, for tensors (G, S, d) with G rows x heads, S positions, d head width."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        scores = q @ k.transpose(-1, -2)
        if bias is not None:
            scores.unflatten(0, (-1, len(bias))).add_(bias)
        weights = scores.softmax(-1)
        attended = weights @ v
        ctx.save_for_backward(q, k, v, bias, weights, attended)
        return attended

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, weights, attended = ctx.saved_tensors
        found: tuple[Tensor, ...] = _AttendSlope.apply(gradient, q, k, v, bias, weights, attended.detach())
        return found if bias is not None else (*found[:3], None)


class _AttendSlope(torch.autograd.Function):
    """``dv = P^T g``, ``dq = dS k``, ``dk = dS^T q`` with ``dS = P (g v^T - g . O)``. The sum of ``dS`` over rows is ``dbias``.

    For gradients (a, b, c) with respect to (dq, dk, dv), let ``U = a k^T + q b^T`` minus its mean under P, and
    ``T = Y - P sum Y`` with ``Y = U dS + P g c^T``. T is the gradient with respect to the scores.
    """

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, weights: Tensor, attended: Tensor
    ) -> tuple[Tensor, ...]:
        slope = (gradient @ v.transpose(-1, -2)).sub_(dot(gradient, attended)).mul_(weights)
        ctx.save_for_backward(gradient, q, k, v, weights, slope)
        ctx.heads = 0 if bias is None else len(bias)
        ctx.set_materialize_grads(False)
        found = slope @ k, slope.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ gradient
        return found if bias is None else (*found, slope.unflatten(0, (-1, ctx.heads)).sum(0))

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        g, q, k, v, weights, slope = ctx.saved_tensors
        a, b, c = (torch.zeros_like(q) if one is None else one for one in slopes[:3])
        push = torch.cat((a, q), -1) @ torch.cat((k, b), -1).transpose(-1, -2)
        if len(slopes) > 3 and slopes[3] is not None:
            push.unflatten(0, (-1, ctx.heads)).add_(slopes[3])
        tangent = weights * push
        mean = tangent.sum(-1, keepdim=True)
        tangent.addcmul_(weights, mean, value=-1)
        push.sub_(mean)
        turned = push.mul_(slope).addcmul_(weights, g @ c.transpose(-1, -2))
        turned.addcmul_(weights, turned.sum(-1, keepdim=True), value=-1)
        to_g = torch.baddbmm(weights @ c, tangent, v)
        to_q = torch.baddbmm(slope @ b, turned, k)
        to_k = torch.baddbmm(slope.transpose(-1, -2) @ a, turned.transpose(-1, -2), q)
        to_v = tangent.transpose(-1, -2) @ g
        to_bias = turned.unflatten(0, (-1, ctx.heads)).sum(0) if ctx.heads else None
        return to_g, to_q, to_k, to_v, to_bias, None, None


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Full attention (B, H, S, d), twice differentiable unlike fused kernels. Computed in at least float32.

    Args:
        q: Queries (B, H, S, d).
        k: Keys (B, H, S, d).
        v: Values (B, H, S, d).
        bias: Bias added to the scores, (H, S, S).
    """
    if plainly(q):
        scores = precise(q) @ precise(k).transpose(-1, -2) * q.shape[-1] ** -0.5
        return ((scores if bias is None else scores + bias).softmax(-1) @ precise(v)).to(v.dtype)
    parts = (precise(part).flatten(0, 1) for part in (q * q.shape[-1] ** -0.5, k, v))
    attended: Tensor = _Attend.apply(*parts, None if bias is None else precise(bias))
    return attended.view(q.shape).to(v.dtype)

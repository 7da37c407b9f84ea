"""What the graphs of blocks keep: within ``saving_less``, tensors that take one elementwise operation are computed again.

Training by central differences keeps two graphs at once, that of the context and that of a pass, so it saves less. The graph
of the context waits for all passes, so it also computes its feed-forward layers again: once, where a pass is made many times.
Elsewhere one graph is kept, and the operations would take more time than the memory is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Known = dict[tuple[Any, Any], tuple[Tensor, Callable[[], Tensor]]]
"""Tensors and how to compute them again, by their place in memory. It holds the tensors, so that no other one takes a place."""
_active: ContextVar[bool] = ContextVar("active", default=False)
_waits: ContextVar[bool] = ContextVar("waits", default=False)
_known: ContextVar[Known | None] = ContextVar("known", default=None)


@contextmanager
def saving_less(active: bool, waits: bool = False) -> Iterator[None]:
    """Whether blocks save less within, and whether their graphs wait for many passes, so that they save least."""
    tokens = _active.set(active), _waits.set(waits)
    try:
        yield
    finally:
        _active.reset(tokens[0])
        _waits.reset(tokens[1])


def saves_less() -> bool:
    """Whether graphs are made within ``saving_less``."""
    return not torch.compiler.is_compiling() and _active.get() and torch.is_grad_enabled()


@contextmanager
def block() -> Iterator[None]:
    """The graph made within does not keep the tensors that are ``again``."""
    known: Known = {}

    def pack(tensor: Tensor) -> Any:
        value, compute = known.get(_place(tensor), (None, None))
        same = value is not None and value.numel() == tensor.numel() and value.dtype == tensor.dtype
        return (compute, tensor.shape) if same and tensor.is_contiguous() else tensor

    token = _known.set(known)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            yield
    finally:
        known.clear()
        _known.reset(token)


def _unpack(packed: Any) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    compute, shape = packed
    return compute().view(shape)


def _place(tensor: Tensor) -> tuple[Any, Any]:
    return tensor.untyped_storage()._cdata, tensor.storage_offset()


def again(value: Tensor, compute: Callable[[], Tensor]) -> Tensor:
    """Return a tensor. The graph of a ``block`` computes it again, detached, instead of keeping it, if it is contiguous."""
    if (known := _known.get()) is not None and value.is_contiguous():
        known[_place(value)] = value, compute
    return value


def input_alone(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function. The graph of a ``block`` that waits keeps only the input, and applies the function again."""
    if torch.compiler.is_compiling() or _known.get() is None or not _waits.get():
        return function(x)
    return checkpoint(function, x, use_reentrant=False)

"""One update rehearsed on tensors without numbers: what it keeps in memory and computes, at any size, in seconds."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


@dataclass(frozen=True)
class Rehearsal:
    """What one update takes: bytes, and operations (two for each multiplication with its addition)."""

    weights: int
    gradients: int
    optimiser: int
    peak: int
    """The most bytes alive at once in an update that is not the first: ``gradients``, ``optimiser`` and all that is temporary,
    without ``weights``."""
    operations: int
    """Those of matrix products and attention, as torch's counter has them; 0 if they were not counted."""

    @property
    def activations(self) -> int:
        """Bytes of what an update keeps for its backward passes, and of anything else that is temporary."""
        return self.peak - self.gradients - self.optimiser


def extended(before: Rehearsal, after: Rehearsal, times: float) -> Rehearsal:
    """The rehearsal of something of which ``after`` has one more than ``before``, and which comes ``times`` more than that:
    each takes as much as the last."""
    pairs = zip(astuple(before), astuple(after), strict=True)
    return Rehearsal(*(round(last + times * (last - first)) for first, last in pairs))


@dataclass(frozen=True)
class Update:
    """What is rehearsed: a module, its optimiser, and the loss of one batch."""

    module: nn.Module
    optimiser: Optimizer
    loss: Callable[[], Tensor]
    clip: float | None = None


def rehearse(make: Callable[[], Update], precision: AbstractContextManager[Any], count: bool) -> Rehearsal:
    """Run an update that is not the first, without numbers.

    The real code runs, on tensors that have shapes and no storage, so that the result follows whatever the training step is.
    Assumptions: the kernels are those of the CPU; what a kernel takes for itself, and the gaps of an allocator, are not seen;
    questions about numbers, such as whether a loss is finite, are answered with yes.

    Args:
        make: builds module, optimiser and batch; called where tensors have no numbers.
        precision: the context in which the loss is computed, such as autocast.
        count: whether to count operations, too, which takes longer.
    """
    with FakeTensorMode(), FlopCounterMode(display=False, custom_mapping=_FUSED) if count else nullcontext() as counter:
        update = make()
        parameters = list(update.module.parameters())
        with _Alive() as alive:
            for parameter in parameters:  # what a first update leaves behind
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
            update.optimiser.step()
            alive.peak = alive.now
            with precision:
                loss = update.loss()
            update.optimiser.zero_grad()  # as the trainer does: the last gradients go when the loss is there
            loss.backward()
            if update.clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, update.clip)
            update.optimiser.step()
    states = [value for state in update.optimiser.state.values() for value in state.values() if isinstance(value, Tensor)]
    return Rehearsal(
        weights=_bytes([*parameters, *update.module.buffers()]),
        gradients=_bytes(parameter.grad for parameter in parameters if parameter.grad is not None),
        optimiser=_bytes(states),
        peak=alive.peak,
        operations=0 if counter is None else counter.get_total_flops(),
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


class _Alive(TorchDispatchMode):
    """Counts the bytes of all storages made inside that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            result = func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            return 1
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def forget(_: Any) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)


_ATEN = torch.ops.aten
_FUSED: dict[Any, Callable[..., int]] = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: lambda *all, **_: sdpa_flop_count(*all[:3]),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda *all, **_: sdpa_backward_flop_count(*all[:4]),
}
"""Attention of the CPU, which torch's counter does not know."""

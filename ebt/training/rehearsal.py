"""Rehearsal of one update on fake tensors. It measures memory and operations at any size in seconds."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count


@dataclass(frozen=True)
class Rehearsal:
    """Memory (bytes) and operations (two per multiply-add) of one update."""

    weights: int
    gradients: int
    optimiser: int
    peak: int
    """Peak memory of an update after the first: ``gradients``, ``optimiser`` and temporary tensors, without ``weights``."""
    operations: int
    """Operations of matrix products and attention, by the formulas of PyTorch's counter."""

    @property
    def activations(self) -> int:
        """Bytes of activations and other temporary tensors."""
        return self.peak - self.gradients - self.optimiser


def extended(before: Rehearsal, after: Rehearsal, times: float) -> Rehearsal:
    """Extrapolate linearly by ``times`` more units, where ``after`` has one unit more than ``before``."""
    pairs = zip(astuple(before), astuple(after), strict=True)
    return Rehearsal(*(round(last + times * (last - first)) for first, last in pairs))


@dataclass(frozen=True)
class Update:
    """The update to rehearse: a module, its optimiser, the loss of one batch and the clipping norm."""

    module: nn.Module
    optimiser: Optimizer
    loss: Callable[[], Tensor]
    clip: float | None = None


def rehearse(make: Callable[[], Update], precision: AbstractContextManager[Any]) -> Rehearsal:
    """Run an update after the first on fake tensors, which have shapes but no storage.

    The actual training code runs. Assumptions: kernels are those of the CPU; workspace of kernels and fragmentation are not
    included; checks of values, for example for a finite loss, succeed.

    Args:
        make: Builds module, optimiser and batch. Called in fake tensor mode.
        precision: Context in which the loss is computed, for example autocast.
    """
    with FakeTensorMode():
        update = make()
        parameters = list(update.module.parameters())
        with _Count(tensor.untyped_storage() for tensor in (*parameters, *update.module.buffers())) as counted:
            for parameter in parameters:  # the state after a first update
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
            update.optimiser.step()
            counted.peak = counted.now
            with precision:
                loss = update.loss()
            update.optimiser.zero_grad()  # the trainer, too, frees the old gradients after the forward pass
            loss.backward()
            if update.clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, update.clip)
            update.optimiser.step()
    states = [value for state in update.optimiser.state.values() for value in state.values() if isinstance(value, Tensor)]
    return Rehearsal(
        weights=_bytes([*parameters, *update.module.buffers()]),
        gradients=_bytes(parameter.grad for parameter in parameters if parameter.grad is not None),
        optimiser=_bytes(states),
        peak=counted.peak,
        operations=counted.operations,
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


class _Count(TorchDispatchMode):
    """Counts operations, and the bytes of all live storages created inside the mode. Views of ``others`` create none."""

    def __init__(self, others: Iterable[torch.UntypedStorage]) -> None:
        super().__init__()
        self.now = self.peak = self.operations = 0
        self._others = {id(storage): storage for storage in others}
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # more than half of all calls; answering them here saves a sixth of the time
        kwargs = kwargs or {}
        try:
            result = func(*args, **kwargs)
        except DataDependentOutputException:
            return 1
        if (formula := _FORMULAS.get(func._overloadpacket)) is not None:
            self.operations += formula(*args, **kwargs, out_val=result)
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known or key in self._others:
            return

        def forget(_: Any) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)


_ATEN = torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: lambda *all, **_: sdpa_flop_count(*(one.shape for one in all[:3])),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda *all, **_: sdpa_backward_flop_count(
        *(one.shape for one in all[:4])
    ),
}
"""The formulas of PyTorch's counter, and those of CPU attention, which it lacks."""

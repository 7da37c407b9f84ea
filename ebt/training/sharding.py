"""Sharded weights: each process keeps a part of every weight, its gradient and its optimiser state.

Gradients of gradients do not work with hooks that gather sharded weights layer by layer. So an update gathers all weights once
before thinking, and the descent, the adjoint and second derivatives see plain tensors. One backward pass through the gathering
averages the gradients over all processes and shards them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from ebt.errors import InputError

_NAMES = ("fsdp", "model_parallel")
_REFUSED = ("fsdp", "model_parallel", "modelparallel", "deepspeed", "xla")


class Sharded(DDPStrategy):
    """A strategy that keeps 1/n of the weights, gradients and optimiser state in each of n processes between updates.

    During an update, an evaluation or sampling, each process holds all weights; during an update, also all gradients.
    Checkpoints have the format of ``ddp``, one file with full tensors. After training, the module has its full weights again.
    """

    def configure_ddp(self) -> None:
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for buffer in self.model.buffers():
            dist.broadcast(buffer, 0)
        shard(self.model, mesh)
        for callback in self.model.trainer.callbacks:
            if isinstance(callback, WeightAveraging):
                shard(callback._average_model, mesh)

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
            keys = chain.from_iterable(group["params"] for group in saved["param_groups"])
            for parameter, key in zip(parameters, keys, strict=True):
                state = saved["state"].get(key, {})
                for name, value in state.items():
                    if name != "step" and getattr(value, "shape", None) == parameter.shape:
                        state[name] = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        super().load_optimizer_state_dict(checkpoint)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        def gather(tensor: DTensor) -> Tensor | None:
            whole = tensor.full_tensor()
            return whole.cpu() if self.is_global_zero else None  # the first process writes the file

        super().save_checkpoint(apply_to_collection(checkpoint, DTensor, gather), filepath, storage_options)

    def on_train_end(self) -> None:
        _replace(self.model, lambda parameter: nn.Parameter(parameter.full_tensor(), parameter.requires_grad))


def supported(strategy: Any) -> Any:
    """Return the strategy to train with for a requested strategy, a name or an object.

    Raises:
        InputError: The strategy shards weights in a way that breaks gradients of gradients.
    """
    if strategy in _NAMES:
        return Sharded()
    if type(strategy) is ModelParallelStrategy and strategy._tensor_parallel_size == 1:
        return Sharded(process_group_backend=strategy.process_group_backend, timeout=strategy._timeout)
    refuse_sharding(strategy)
    return strategy


def refuse_sharding(strategy: Any) -> None:
    """Refuse strategies other than ``Sharded`` that shard weights.

    Raises:
        InputError: The strategy is one of them.
    """
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if not isinstance(strategy, Sharded) and any(part in name.lower() for part in _REFUSED):
        raise InputError(
            f"trainer.strategy is {name}: gradients of gradients fail, or are silently missing, with its sharded weights. "
            "Use fsdp (in Python strategy=ebt.training.sharding.Sharded()), or a ModelParallelStrategy with "
            "tensor_parallel_size: 1."
        )


def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the parameters of the first process along their first dimension, in place. Scalars are replicated."""

    def part(parameter: nn.Parameter) -> nn.Parameter:
        placement = Shard(0) if parameter.dim() else Replicate()
        return nn.Parameter(distribute_tensor(parameter.data, mesh, [placement]), parameter.requires_grad)

    _replace(module, part)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Replace sharded parameters by full tensors inside the context, which all processes must enter.

    The sharded parameters get the mean gradient of all processes. Without sharded parameters, the context does nothing.
    """
    places = [place for place in _places(module) if isinstance(place[-1], DTensor)]
    sharded = {id(parameter): parameter for *_, parameter in places}
    found = dict(zip(sharded, _Gather.apply(*sharded.values()) if sharded else (), strict=True))
    try:
        for part, name, parameter in places:
            part._parameters[name] = found[id(parameter)]  # a plain tensor, which the public API does not accept
        del found
        yield
    finally:
        for part, name, parameter in places:
            part.register_parameter(name, parameter)


def full(tree: Any) -> Any:
    """Replace sharded tensors in nested containers by full ones. All processes must call it."""
    return apply_to_collection(tree, DTensor, lambda tensor: tensor.full_tensor())


class _Gather(torch.autograd.Function):
    """Gathers sharded tensors; its backward pass averages and shards the gradients. There is a single node for all tensors, so
    that processes communicate in the same order, including for weights that one of them did not use."""

    @staticmethod
    def forward(ctx: Any, *tensors: DTensor) -> tuple[Tensor, ...]:
        ctx.layouts = [(tensor.device_mesh, tensor.placements) for tensor in tensors]
        whole = tuple(tensor.full_tensor() for tensor in tensors)
        ctx.mark_non_differentiable(*(one for one, needed in zip(whole, ctx.needs_input_grad, strict=True) if not needed))
        return whole

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(
            DTensor.from_local(gradient / mesh.size(), mesh, [Partial()]).redistribute(mesh, placements) if needed else None
            for gradient, (mesh, placements), needed in zip(gradients, ctx.layouts, ctx.needs_input_grad, strict=True)
        )


def _places(module: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    """Return all places (module, name, parameter) of the parameters, including shared ones."""
    return [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False)
    ]


def _replace(module: nn.Module, make: Callable[[Any], nn.Parameter]) -> None:
    """Replace each parameter by ``make(parameter)`` in all its places."""
    places = _places(module)
    made = {key: make(parameter) for key, parameter in {id(place[-1]): place[-1] for place in places}.items()}
    for part, name, parameter in places:
        part.register_parameter(name, made[id(parameter)])

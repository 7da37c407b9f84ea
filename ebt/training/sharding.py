"""Sharded weights: each process keeps a part of every weight, of its gradient and of the optimiser's state.

Gradients of gradients do not pass the hooks that usually gather sharded weights layer by layer. So an update gathers all
weights once, before it thinks: thinking, the adjoint and second derivatives see plain tensors; and one ordinary backward pass
through the gathering hands the mean of the gradients over all processes, in parts again, to the sharded weights.
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
    """Between updates, each of n processes holds 1/n of the weights, the gradients and the optimiser's state.

    During an update, an evaluation or a sample it holds all weights, and an update all their gradients, too. Checkpoints are
    those of ``ddp``: one file with whole tensors. After training the module has its whole weights again.
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
            return whole.cpu() if self.is_global_zero else None  # which writes the file

        super().save_checkpoint(apply_to_collection(checkpoint, DTensor, gather), filepath, storage_options)

    def on_train_end(self) -> None:
        _replace(self.model, lambda parameter: nn.Parameter(parameter.full_tensor(), parameter.requires_grad))


def supported(strategy: Any) -> Any:
    """The strategy to train with where ``strategy``, a name or an object, is asked for.

    Raises:
        InputError: it shards weights in a way in which gradients of gradients are wrong.
    """
    if strategy in _NAMES:
        return Sharded()
    if type(strategy) is ModelParallelStrategy and strategy._tensor_parallel_size == 1:
        return Sharded(process_group_backend=strategy.process_group_backend, timeout=strategy._timeout)
    refuse_sharding(strategy)
    return strategy


def refuse_sharding(strategy: Any) -> None:
    """Other strategies that shard weights are refused.

    Raises:
        InputError: it is one.
    """
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if not isinstance(strategy, Sharded) and any(part in name.lower() for part in _REFUSED):
        raise InputError(
            f"trainer.strategy is {name}: gradients of gradients fail, or are left out silently, with its sharded weights. "
            "Use fsdp (in Python strategy=ebt.training.sharding.Sharded()), or a ModelParallelStrategy with "
            "tensor_parallel_size: 1."
        )


def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Replace the parameters by parts of the first process's, along their first dimension; numbers are replicated."""

    def part(parameter: nn.Parameter) -> nn.Parameter:
        placement = Shard(0) if parameter.dim() else Replicate()
        return nn.Parameter(distribute_tensor(parameter.data, mesh, [placement]), parameter.requires_grad)

    _replace(module, part)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Plain tensors in the place of sharded parameters, which get the mean of all processes' gradients. All processes must
    enter. Without sharded parameters nothing happens."""
    places = [place for place in _places(module) if isinstance(place[-1], DTensor)]
    sharded = {id(parameter): parameter for *_, parameter in places}
    found = dict(zip(sharded, _Gather.apply(*sharded.values()) if sharded else (), strict=True))
    try:
        for part, name, parameter in places:
            part._parameters[name] = found[id(parameter)]  # a tensor that is no parameter, which no public name accepts
        del found
        yield
    finally:
        for part, name, parameter in places:
            part.register_parameter(name, parameter)


def full(tree: Any) -> Any:
    """Whole tensors in the place of sharded ones, in a tree of containers. All processes must call it."""
    return apply_to_collection(tree, DTensor, lambda tensor: tensor.full_tensor())


class _Gather(torch.autograd.Function):
    """All sharded tensors whole; backwards the mean of the gradients, sharded. One node for all, so that processes communicate
    in the same order, and about weights, too, that one of them did not use."""

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
    """Where each parameter is, which may be in several places."""
    return [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False)
    ]


def _replace(module: nn.Module, make: Callable[[Any], nn.Parameter]) -> None:
    """Put what is made of each parameter into all its places."""
    places = _places(module)
    made = {key: make(parameter) for key, parameter in {id(place[-1]): place[-1] for place in places}.items()}
    for part, name, parameter in places:
        part.register_parameter(name, made[id(parameter)])

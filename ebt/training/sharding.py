"""Fully sharded data parallelism (FSDP2): each process keeps a part of every weight, its gradient and its optimiser state.

``fully_shard`` gathers the weights of one block at a time, forward and backward, and reduces their gradients at once. It works
for first derivatives only, so training uses central differences (``ebt.thinking.fast.central``), whose passes are ordinary
ones. Weights outside of blocks (tables, head, norms) are gathered for a whole step, since a descent uses them between passes.
Scalars, such as the step size, are replicated.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain, pairwise
from pathlib import Path
from types import MethodType
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from ebt.errors import InputError
from ebt.nn.blocks import Block
from ebt.training.sharded_checkpoints import load_shards, save_shards

_NAMES = ("fsdp", "model_parallel", "fsdp_cpu_offload")
_REFUSED = ("fsdp", "model_parallel", "modelparallel", "deepspeed", "xla")


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, applied to any ``ThinkingTask``: ``--trainer.strategy fsdp``.

    Checkpoints with the optimiser's state are folders to which each process writes its part (``torch.distributed.checkpoint``).
    Any number of processes can load them, and the files of ``ddp``. Checkpoints of weights only are one file.

    Args:
        cpu_offload: Whether to keep the sharded weights, gradients and optimiser state in the memory of the CPU.
        save_distributed_checkpoint: If False, checkpoints with the optimiser's state are one file, too, which the first process
            assembles.
        data_parallel_size: Number of processes. Default: all.
        process_group_backend: See ``ModelParallelStrategy``.
        timeout: See ``ModelParallelStrategy``.

    Raises:
        InputError: The installed version of torch is too old.
    """

    def __init__(
        self,
        cpu_offload: bool = False,
        save_distributed_checkpoint: bool = True,
        data_parallel_size: Literal["auto"] | int = "auto",
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        if "ignored_params" not in inspect.signature(fully_shard).parameters:
            raise InputError(f"sharded weights need torch 2.7 or later, and this is {torch.__version__}: upgrade torch.")
        super().__init__(data_parallel_size, 1, save_distributed_checkpoint, process_group_backend, timeout)
        self.cpu_offload, self.data_parallel_size = cpu_offload, data_parallel_size
        self.distributed_checkpoint = save_distributed_checkpoint

    def setup_environment(self) -> None:
        if self.data_parallel_size == "auto":
            self._data_parallel_size: Any = self.num_nodes * self.num_processes  # Lightning's default is one per machine
        if self.cpu_offload and self.process_group_backend is None and self.root_device.type == "cuda":
            self._process_group_backend = "cpu:gloo,cuda:nccl"  # norms of gradients on the CPU are reduced there
        super().setup_environment()

    def model_to_device(self) -> None:
        assert self.lightning_module is not None
        precision = self.lightning_module.trainer.precision
        averages = [one._average_model for one in self.lightning_module.trainer.callbacks if isinstance(one, WeightAveraging)]
        for module in (self.lightning_module, *(average.module for average in averages if average is not None)):
            if not isinstance(module, FSDPModule):  # from an earlier fit, validate or test
                shard(module, self.device_mesh["data_parallel"], precision, self.cpu_offload)
        if self.cpu_offload:  # fully_shard has moved all that belongs on the device
            self.lightning_module._device = self.root_device
        else:
            super().model_to_device()

    def post_backward(self, closure_loss: Tensor) -> None:
        assert self.lightning_module is not None
        finish_backward(self.lightning_module)

    # Checkpoints: state dictionaries hold sharded tensors under the names and in the layout of an unsharded training

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return getattr(optimizer, "optimizer", optimizer).state_dict()

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
            keys = chain.from_iterable(group["params"] for group in saved["param_groups"])
            for parameter, key in zip(parameters, keys, strict=True):
                state = saved["state"].get(key, {})
                state.update({name: _like(value, parameter) for name, value in state.items() if name != "step"})
            optimizer.load_state_dict(saved)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if self.distributed_checkpoint and "optimizer_states" in checkpoint:
            save_shards(checkpoint, Path(self.broadcast(filepath)))
            return
        whole = collected(checkpoint, keep=self.is_global_zero)
        if self.is_global_zero:  # the others have taken their part in gathering
            self.checkpoint_io.save_checkpoint(whole, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            checkpoint = load_shards(path, self.device_mesh["data_parallel"])
        else:
            checkpoint = self.checkpoint_io.load_checkpoint(path, weights_only=weights_only)
        assert self.lightning_module is not None
        parameters = dict(self.lightning_module.named_parameters())
        for part in ("state_dict", "current_model_state"):  # the latter of averaged weights
            for name, value in checkpoint.get(part, {}).items():
                checkpoint[part][name] = _like(value, parameters.get(name))
        return checkpoint


def supported(strategy: Any) -> Any:
    """Return the strategy to train with for a requested strategy, a name or an object.

    Raises:
        InputError: The strategy shards weights in a way that is not supported.
    """
    if strategy in _NAMES:
        return Sharded(cpu_offload=strategy == "fsdp_cpu_offload")
    if type(strategy) is ModelParallelStrategy and strategy._tensor_parallel_size == 1:
        given = strategy._save_distributed_checkpoint, strategy._data_parallel_size
        return Sharded(False, *given, process_group_backend=strategy.process_group_backend, timeout=strategy._timeout)
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
            f"trainer.strategy is {name}, which is not supported. To shard weights, use fsdp (in Python "
            "strategy=ebt.training.sharding.Sharded()), or a ModelParallelStrategy with tensor_parallel_size: 1."
        )


def shard(module: nn.Module, mesh: DeviceMesh, precision: str = "32-true", cpu_offload: bool = False) -> None:
    """Apply ``fully_shard`` to each block of a module and to the rest, in place. All processes get the weights of the first.

    Args:
        module: Module that holds all parameters. Use its weights within ``gathered``, and call ``finish_backward`` after each
            backward pass.
        mesh: One-dimensional mesh of the processes.
        precision: Precision of the trainer. With ``bf16-mixed`` the weights of blocks are gathered in bfloat16. Gradients are
            reduced in float32.
        cpu_offload: See ``Sharded``.
    """
    kind = mesh.device_type
    device = None if kind == "cpu" else torch.device(kind, torch.get_device_module(kind).current_device())
    for tensor in chain(module.parameters(), module.buffers()):
        first = tensor.detach().to(device)
        dist.broadcast(first, 0, group=mesh.get_group())
        tensor.data.copy_(first)
    scalars = {parameter for parameter in module.parameters() if not parameter.dim()}
    for scalar in scalars:
        scalar.data = scalar.data.to(device)
    offload = CPUOffloadPolicy(pin_memory=device is not None) if cpu_offload else OffloadPolicy()
    reduced = torch.float32 if precision.startswith(("bf16", "16")) else None
    settings: dict[str, Any] = {"mesh": mesh, "offload_policy": offload, "ignored_params": scalars}
    outside = MixedPrecisionPolicy(reduce_dtype=reduced, cast_forward_inputs=False)
    computed = torch.bfloat16 if precision == "bf16-mixed" else None
    inside = MixedPrecisionPolicy(computed, reduced, cast_forward_inputs=False)
    blocks: list[Any] = [part for part in module.modules() if isinstance(part, Block)]
    for block in blocks:
        fully_shard(block, mp_policy=inside, **settings)
        block.register_forward_hook(_reshard)
    for before, after in pairwise([*blocks[:1], *blocks]):  # gather the next block during the work of this one
        before.set_modules_to_forward_prefetch([after])
        after.set_modules_to_backward_prefetch([before])  # of the first, itself: nothing else is gathered in vain
    root: Any = fully_shard(module, mp_policy=outside, **settings)
    root.set_reshard_after_backward(False, recurse=False)  # the passes of a descent are backward passes, too
    root.set_requires_gradient_sync(False, recurse=False)  # until ``finish_backward``
    root.run_hooks = MethodType(_nothing, root)
    register_fsdp_forward_method(root, "run_hooks")


def _reshard(block: Any, *_: Any) -> None:
    """Free the gathered weights of a block after its forward pass. FSDP2 keeps them during a backward pass, in which the
    passes at nudged candidates run."""
    block.reshard()


def _nothing(module: nn.Module) -> Tensor:
    """A scalar that requires a gradient, if any is computed."""
    return torch.zeros((), requires_grad=True) + 0


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Gather the weights outside of blocks inside the context, which all processes must enter.

    Blocks gather their own weights in each pass. If ``module`` was not given to ``shard``, the context does nothing.
    """
    root: Any = module
    if not isinstance(module, FSDPModule):
        yield
        return
    with torch.no_grad():
        root.run_hooks()
    yield
    if not torch.is_grad_enabled():
        root.reshard()  # else ``finish_backward`` does


def finish_backward(module: nn.Module) -> None:
    """Average the gradients of the weights outside of blocks over all processes, and shard these weights again."""
    root: Any = module
    root.set_requires_gradient_sync(True, recurse=False)
    root.run_hooks().backward()
    root.set_requires_gradient_sync(False, recurse=False)
    root.reshard()
    for parameter in module.parameters():
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            parameter.grad /= dist.get_world_size()
            dist.all_reduce(parameter.grad)


def full(tree: Any) -> Any:
    """Replace sharded tensors in nested containers by full ones. All processes must call it."""
    return apply_to_collection(tree, DTensor, lambda tensor: tensor.full_tensor())


def collected(tree: Any, keep: bool) -> Any:
    """Replace sharded tensors in nested containers by full ones on the CPU, or by None unless ``keep``. All processes must call
    it."""

    def collect(tensor: DTensor) -> Tensor | None:
        whole = tensor.full_tensor()
        return whole.cpu() if keep else None

    return apply_to_collection(tree, DTensor, collect)


def total_norm(tensors: list[Tensor]) -> Tensor:
    """Norm of all tensors together, sharded or not. All processes must call it."""
    norms = [full(torch.nn.utils.get_total_norm(kind)) for kind in _kinds(tensors)]
    return torch.stack([norm.to(norms[0].device) for norm in norms]).norm()


def clip_gradients(parameters: list[nn.Parameter], bound: float, norm: Tensor) -> None:
    """Scale gradients, sharded or not, so that their total ``norm`` is at most ``bound``."""
    for kind in _kinds(parameters):
        torch.nn.utils.clip_grads_with_norm_(kind, bound, norm)


def _kinds(tensors: list[Any]) -> list[list[Any]]:
    """Sharded tensors and others, which operations on lists do not mix."""
    kinds = [[one for one in tensors if isinstance(one, DTensor) is sharded] for sharded in (True, False)]
    return [kind for kind in kinds if kind]


def _like(value: Any, parameter: Tensor | None) -> Any:
    """A loaded value, sharded as the parameter that it belongs to is."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or not isinstance(value, Tensor):
        return value
    value = value.to(parameter.to_local().device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)

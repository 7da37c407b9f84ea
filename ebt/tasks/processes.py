"""Several processes: what training by gradients of gradients allows, and means over all of them."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from ebt.errors import InputError

_SHARDING = ("fsdp", "model_parallel", "modelparallel", "deepspeed", "xla")


def refuse_sharding(strategy: str) -> None:
    """A strategy that shards weights is refused.

    Raises:
        InputError: it is one.
    """
    if any(name in strategy.lower() for name in _SHARDING):
        raise InputError(
            f"trainer.strategy is {strategy}: gradients of gradients fail, or are left out silently, if weights are sharded. "
            "Use ddp, and if the model does not fit then, see `ebt plan` for one that does."
        )


def share(own: Tensor) -> Tensor | float:
    """What a process weighs its mean over ``own`` parts with, so that the mean over processes is that over all parts."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1.0
    everyone = own.float()
    dist.all_reduce(everyone)
    return own * dist.get_world_size() / everyone.clamp(min=1)

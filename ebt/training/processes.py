"""Several processes: means over all of them."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def share(own: Tensor) -> Tensor | float:
    """What a process weighs its mean over ``own`` parts with, so that the mean over processes is that over all parts."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1.0
    everyone = own.float()
    dist.all_reduce(everyone)
    return own * dist.get_world_size() / everyone.clamp(min=1)

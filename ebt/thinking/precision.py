"""Where 32 bits are needed, whatever the precision of weights and activations."""

from __future__ import annotations

import torch
from torch import Tensor


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least, as states, energies, losses and step sizes are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

"""A cache of keys and values that does not copy all of them for every new token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class GrowingCache(DynamicCache):
    """``transformers``' own growing cache, with room behind its tokens; like it, as many layers as are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = _GrowingLayer


class _GrowingLayer(DynamicLayer):
    """Keys and values (B, H, K, d) are the beginnings of longer tensors."""

    keys: Tensor
    values: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, H, S, d) and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.rooms = [self.keys, self.values]
        if torch.is_grad_enabled() and key_states.requires_grad:  # a graph may need the tensors as they are
            return super().update(key_states, value_states)
        self.keys, self.values = (
            self._append(i, *pair) for i, pair in enumerate(((self.keys, key_states), (self.values, value_states)))
        )
        return self.keys, self.values

    def _append(self, which: int, old: Tensor, new: Tensor) -> Tensor:
        past = old.shape[-2] if old.dim() == 4 else 0
        length, room = past + new.shape[-2], self.rooms[which]
        fits = room.dim() == 4 and length <= room.shape[-2] and room.shape[0] == len(new)
        writable = torch.is_inference_mode_enabled() or not room.is_inference()
        if not (fits and writable and old.data_ptr() == room.data_ptr()):  # no room, or reordered, or selected since
            room = new.new_empty(*new.shape[:2], length + max(64, length // 4), new.shape[-1])
            if past:
                room[:, :, :past] = old
            self.rooms[which] = room
        room[:, :, past:length] = new
        return room[:, :, :length]

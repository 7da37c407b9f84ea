"""What the EBT and its feed-forward twin share as language models."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from ebt.errors import InputError
from ebt.models.base import HubModel
from ebt.problems.language.cache import GrowingCache
from ebt.thinking import IGNORED


class LanguageModel(HubModel, GenerationMixin):
    """A causal language model with an ``embedding`` of the observed tokens; no weights are tied."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    _input_embed_layer = "embedding"
    accepts_loss_kwargs = True
    """``Trainer`` gives ``forward`` the number of scored tokens in all the batches of one update."""

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Where ``transformers`` would choose, its growing cache: with room, and for as many contexts as steps have."""
        chosen = generation_config.cache_implementation is not None or model_kwargs.get("past_key_values") is not None
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        if not chosen and model_kwargs.get("past_key_values") is not None:
            model_kwargs["past_key_values"] = GrowingCache()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> None:
        """The vocabulary is fixed.

        Raises:
            InputError: always.
        """
        raise InputError("the vocabulary of this model is fixed: train one with the vocabulary you need")


def check_context(input_ids: Tensor, mask: Tensor | None, cache: Any) -> None:
    """Raises InputError unless the attention mask covers cached and new tokens, and the cache grows with them."""
    if getattr(cache, "is_compileable", False):
        raise InputError("a static cache has slots for tokens yet to come: use a DynamicCache (the default of generate())")
    rows, length = input_ids.shape[0], input_ids.shape[1] + (cache.get_seq_length() if cache is not None else 0)
    if mask is not None and tuple(mask.shape) != (rows, length):
        raise InputError(
            f"attention_mask has the shape {tuple(mask.shape)}, the tokens with those in the cache have {(rows, length)}: "
            "give a 0 or 1 for each of them"
        )


def refuse_others(others: dict[str, Any]) -> None:
    """Arguments of other models that ask for nothing are let pass.

    Raises:
        InputError: one that asks for something.
    """
    if asked := [name for name, value in others.items() if value is not None and value is not False]:
        raise InputError(f"forward() does not serve {', '.join(asked)}: leave it out, and give input_ids")


def next_token_loss(logits: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
    """Cross entropy of logits (B, S, V) with the following labels (B, S), per scored token or divided by ``num_items``."""
    target = labels[:, 1:].to(logits.device)
    precise = logits[:, :-1].flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(precise, target.flatten(), ignore_index=IGNORED, reduction="sum")
    return rescale(total / _scored(target), target, num_items)


def rescale(mean: Tensor, target: Tensor, num_items: Tensor | int | None) -> Tensor:
    """The mean loss over the scored targets, as their sum divided by ``num_items`` if that is given."""
    return mean if num_items is None else mean * _scored(target) / torch.as_tensor(num_items, device=mean.device)


def _scored(target: Tensor) -> Tensor:
    return (target != IGNORED).sum().clamp(min=1)

"""What the EBT and its feed-forward twin share as language models."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, GenerationMixin, MaxLengthCriteria
from transformers.cache_utils import DynamicLayer

from ebt.errors import InputError
from ebt.models.base import HubModel
from ebt.nn.decoder import KeyValueCache, Positions
from ebt.thinking import IGNORED


class GrowingCache(DynamicCache):
    """``transformers``' own growing cache, with room behind its tokens, so that a new token does not copy all of them."""

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
        self.keys, self.values = self._append(0, self.keys, key_states), self._append(1, self.values, value_states)
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


def _refused(message: str) -> Callable[..., Any]:
    """A method of other models that raises ``InputError``."""

    def refuse(self: LanguageModel, *args: Any, **kwargs: Any) -> Any:
        raise InputError(message)

    return refuse


class LanguageModel(HubModel, GenerationMixin):
    """A causal language model with an ``embedding`` of the observed tokens; no weights are tied."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    _input_embed_layer = "embedding"
    accepts_loss_kwargs = True
    """``Trainer`` gives ``forward`` the number of scored tokens in all the batches of one update."""

    def observed(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        mask: Tensor | None,
        cache: Any,
        others: dict[str, Any],
    ) -> Tensor:
        """What ``forward`` is given: tokens (B, S), or their embeddings (B, S, D).

        Raises:
            InputError: neither or both, a mask that does not fit, an argument of other models that asks for something, or
                weights that are sharded by blocks.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise InputError("forward() takes either input_ids or inputs_embeds: give one of them")
        if getattr(cache, "is_compileable", False):
            raise InputError("a static cache has slots for tokens yet to come: use a DynamicCache (the default of generate())")
        rows, length = given.shape[0], given.shape[1] + cached(cache)
        if mask is not None and tuple(mask.shape) != (rows, length):
            raise InputError(
                f"attention_mask has the shape {tuple(mask.shape)}, the tokens with those in the cache have {(rows, length)}: "
                "give a 0 or 1 for each of them"
            )
        if (positions := others.pop("position_ids", None)) is not None:
            counted = torch.ones(rows, length, device=given.device) if mask is None else mask
            wrong = positions.shape[-1] != given.shape[1] or positions != positions_of(given, mask, cache)
            if (wrong & counted[:, -given.shape[1] :].bool()).any():
                raise InputError(
                    "position_ids other than those that follow from attention_mask and cache are not served: leave it out"
                )
        if asked := [name for name, value in others.items() if value is not None and value is not False]:
            raise InputError(f"forward() does not serve {', '.join(asked)}: leave it out")
        if torch.distributed.is_initialized():
            check_whole(self)
        return given

    def embed(self, given: Tensor) -> Tensor:
        """Embeddings (B, S, D) of tokens (B, S), or of what is embedded already."""
        return given if given.is_floating_point() else self.embedding(given)

    def wants_states(self, asked: bool | None) -> bool:
        """Whether ``forward`` returns hidden states: the embeddings, and the observed stream after each block.

        Raises:
            InputError: each step has a context of its own.
        """
        wanted, network = self.config.output_hidden_states if asked is None else asked, self.config.network()
        if wanted and network.context_per_step:
            raise InputError(f"output_hidden_states: with conditioning {network.conditioning!r} each step has its own")
        return bool(wanted)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """What ``forward`` gets: all tokens or those behind the cache; past the trained context, the last ``context_length``.

        Raises:
            InputError: tokens past the context that are not at hand any more.
        """
        limit, length = self.config.context_length, input_ids.shape[1]
        for name in ("tokenizer", "assistant_tokenizer"):  # of stop strings, which ``transformers`` hands on
            kwargs.pop(name, None)
        if length > limit:  # positions of the window begin at 0 again, and what is cached has seen other tokens
            input_ids, past_key_values, next_sequence_length = input_ids[:, -limit:], None, None
            attention_mask = None if attention_mask is None else attention_mask[:, -limit:]
            kwargs |= {"use_cache": False, "position_ids": None}
        elif cached(past_key_values) + (next_sequence_length or length) > limit:
            raise InputError(
                f"inputs_embeds and prefill_chunk_size serve up to the context of {limit} tokens: shorten the prompt, or give "
                "input_ids at once"
            )
        prepared = (input_ids, next_sequence_length, past_key_values, attention_mask, inputs_embeds)
        return dict(super().prepare_inputs_for_generation(*prepared, **kwargs))

    def _validate_generated_length(self, generation_config: GenerationConfig, *args: Any, **kwargs: Any) -> None:
        """Warn that the context will not hold all tokens."""
        super()._validate_generated_length(generation_config, *args, **kwargs)
        if generation_config.max_length > (limit := self.config.context_length):
            warnings.warn(
                f"The model was trained on contexts of {limit} tokens: beyond them it sees the last {limit} only, a sliding "
                "window without a cache.",
                stacklevel=2,
            )

    def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> Any:
        criteria = super()._get_stopping_criteria(*args, **kwargs)
        for each in criteria:
            if isinstance(each, MaxLengthCriteria):
                each.max_position_embeddings = None  # its reminder is not true of a sliding window
        return criteria

    def _assisted_decoding(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs["generation_config"].max_length > self.config.context_length:
            raise InputError(
                f"assistant_model and prompt_lookup_num_tokens serve up to the context of {self.config.context_length} tokens, "
                f"of which the prompt has {input_ids.shape[1]}: give a smaller max_new_tokens"
            )
        return super()._assisted_decoding(input_ids, *args, **kwargs)

    def _prepare_generation_config(self, *args: Any, **kwargs: Any) -> tuple[GenerationConfig, dict[str, Any]]:
        config, model_kwargs = super()._prepare_generation_config(*args, **kwargs)
        if config.assistant_early_exit is not None:
            raise InputError("assistant_early_exit is not served: leave it out")
        return config, model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Where ``transformers`` would choose, its growing cache: with room, and for as many contexts as steps have."""
        chosen = generation_config.cache_implementation is not None or model_kwargs.get("past_key_values") is not None
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        if not chosen and model_kwargs.get("past_key_values") is not None:
            model_kwargs["past_key_values"] = GrowingCache()

    resize_token_embeddings = _refused("the vocabulary of this model is fixed: train one with the vocabulary you need")
    gradient_checkpointing_enable = _refused(
        "gradient_checkpointing is not served: use a smaller batch with gradient_accumulation_steps"
    )
    init_continuous_batching = _refused(
        "continuous batching and cache_implementation='paged' are not served: give generate() a batch"
    )

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        """Contexts use PyTorch's fused attention wherever it may; nothing is to choose."""
        if attn_implementation not in (None, "eager", "sdpa"):
            raise InputError(f"attn_implementation {attn_implementation!r} is not served: leave it out, or give sdpa")
        return attn_implementation or "sdpa"


def cached(cache: KeyValueCache | None) -> int:
    """How many tokens a cache holds."""
    return 0 if cache is None else cache.get_seq_length()


def positions_of(given: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
    """Positions (B, S) of observed tokens, padding not counted; before the cache takes them in."""
    return Positions.of(given.shape[1], cached(cache), mask, given.device).index.expand(len(given), -1)


def check_whole(model: nn.Module) -> None:
    """Whether a model's weights are whole within ``forward``: gradients of gradients go through all of it at once.

    Raises:
        InputError: a part of it is sharded by itself.
    """
    from torch.distributed.tensor import DTensor

    if name := next((name for name, weight in model.named_parameters() if isinstance(weight, DTensor)), None):
        raise InputError(
            f"{name} is sharded by itself (FSDP2): give fully_shard the whole model alone, with "
            "ignored_params={model.step_size.log_scale}, or train with `ebt fit --trainer.strategy fsdp`"
        )


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

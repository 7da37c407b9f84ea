"""Code shared by the language models: the EBT and its feed-forward twin."""

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
    """A ``DynamicCache`` with spare capacity, so that appending a token does not copy the others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = _GrowingLayer


class _GrowingLayer(DynamicLayer):
    """Keys and values (B, H, K, d) are views of the beginning of larger tensors."""

    keys: Tensor
    values: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, H, S, d) and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.rooms = [self.keys, self.values]
        if torch.is_grad_enabled() and key_states.requires_grad:  # the graph may need the tensors unchanged
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
    """Return a method that raises ``InputError``, for unsupported methods of ``transformers`` models."""

    def refuse(self: LanguageModel, *args: Any, **kwargs: Any) -> Any:
        raise InputError(message)

    return refuse


class LanguageModel(HubModel, GenerationMixin):
    """Base class of causal language models with an ``embedding`` of the observed tokens. No weights are tied."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    _input_embed_layer = "embedding"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    """``Trainer`` passes ``forward`` the number of scored tokens in all batches of an optimiser update."""

    def observed(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, mask: Tensor | None, cache: Any, others: dict[str, Any]
    ) -> Tensor:
        """Check the inputs of ``forward`` and return the tokens (B, S), or their embeddings (B, S, D).

        Raises:
            InputError: If neither or both are given, the mask does not match, or an argument is not supported.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise InputError("forward() takes either input_ids or inputs_embeds: give exactly one of them")
        given = tokens(given, "input_ids" if inputs_embeds is None else "inputs_embeds")
        if getattr(cache, "is_compileable", False):
            raise InputError("a static cache is not supported: use a DynamicCache (the default of generate())")
        rows, length = given.shape[0], given.shape[1] + cached(cache)
        if mask is not None and tuple(mask.shape) != (rows, length):
            raise InputError(
                f"attention_mask has shape {tuple(mask.shape)}, but the tokens with the cached ones have {(rows, length)}: "
                "give a 0 or 1 for each of them"
            )
        if (positions := others.pop("position_ids", None)) is not None:
            counted = torch.ones(rows, length, device=given.device) if mask is None else mask
            wrong = positions.shape[-1] != given.shape[1] or positions != positions_of(given, mask, cache)
            if (wrong & counted[:, -given.shape[1] :].bool()).any():
                raise InputError("position_ids differ from those implied by attention_mask and the cache: leave them out")
        if asked := [name for name, value in others.items() if value is not None and value is not False]:
            raise InputError(f"forward() does not support {', '.join(asked)}: leave it out")
        return given

    def embed(self, given: Tensor) -> Tensor:
        """Embed tokens (B, S). Embeddings are returned unchanged."""
        if given.is_floating_point():
            return given
        try:
            return self.embedding(given)
        except IndexError as error:
            wrong, most = int(given.min() if given.min() < 0 else given.max()), len(self.embedding.weight) - 1
            raise InputError(f"token {wrong} is not in the vocabulary (0 to {most}): use the tokenizer of the model") from error

    def wants_states(self, asked: bool | None) -> bool:
        """Whether ``forward`` returns hidden states: the embeddings, and the observed stream after each block.

        Raises:
            InputError: If each step has its own context.
        """
        wanted, network = self.config.output_hidden_states if asked is None else asked, self.config.network()
        if wanted and network.context_per_step:
            raise InputError(f"output_hidden_states: conditioning {network.conditioning!r} has them per step, leave it out")
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
        """Return the inputs of ``forward``: the uncached tokens, or the last ``context_length`` ones beyond the context.

        Raises:
            InputError: If earlier tokens beyond the context are no longer available.
        """
        limit, length = self.config.context_length, input_ids.shape[1]
        for name in ("tokenizer", "assistant_tokenizer"):  # passed on by ``transformers`` with stop strings
            kwargs.pop(name, None)
        if length > limit:  # positions restart at 0, and cached states have attended to other tokens
            input_ids, past_key_values, next_sequence_length = input_ids[:, -limit:], None, None
            attention_mask = None if attention_mask is None else attention_mask[:, -limit:]
            kwargs |= {"use_cache": False, "position_ids": None}
        elif cached(past_key_values) + (next_sequence_length or length) > limit:
            raise InputError(
                f"inputs_embeds and prefill_chunk_size work up to the context of {limit} tokens: shorten the prompt, or give "
                "input_ids at once"
            )
        prepared = (input_ids, next_sequence_length, past_key_values, attention_mask, inputs_embeds)
        return dict(super().prepare_inputs_for_generation(*prepared, **kwargs))

    def _validate_generated_length(self, generation_config: GenerationConfig, *args: Any, **kwargs: Any) -> None:
        """Warn if the sequence will exceed the context."""
        super()._validate_generated_length(generation_config, *args, **kwargs)
        if generation_config.max_length > (limit := self.config.context_length):
            warnings.warn(
                f"The model was trained on contexts of {limit} tokens. Beyond them it sees only the last {limit} tokens, "
                "in a sliding window without a cache.",
                stacklevel=2,
            )

    def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> Any:
        criteria = super()._get_stopping_criteria(*args, **kwargs)
        for each in criteria:
            if isinstance(each, MaxLengthCriteria):
                each.max_position_embeddings = None  # its warning does not apply to a sliding window
        return criteria

    def _assisted_decoding(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs["generation_config"].max_length > self.config.context_length:
            raise InputError(
                f"assistant_model and prompt_lookup_num_tokens work up to the context of {self.config.context_length} tokens, "
                f"and the prompt has {input_ids.shape[1]}: give a smaller max_new_tokens"
            )
        return super()._assisted_decoding(input_ids, *args, **kwargs)

    def _prepare_generation_config(self, *args: Any, **kwargs: Any) -> tuple[GenerationConfig, dict[str, Any]]:
        config, model_kwargs = super()._prepare_generation_config(*args, **kwargs)
        if config.assistant_early_exit is not None:
            raise InputError("assistant_early_exit is not supported: leave it out")
        return config, model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Replace the default cache by a ``GrowingCache``, which also has room for one context per step."""
        chosen = generation_config.cache_implementation is not None or model_kwargs.get("past_key_values") is not None
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        if not chosen and model_kwargs.get("past_key_values") is not None:
            model_kwargs["past_key_values"] = GrowingCache()

    resize_token_embeddings = _refused("the vocabulary of this model is fixed: train a model with the vocabulary you need")
    init_continuous_batching = _refused(
        "continuous batching and cache_implementation='paged' are not supported: pass generate() a batch"
    )

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        """Contexts always use PyTorch's fused attention where possible."""
        if attn_implementation not in (None, "eager", "sdpa"):
            raise InputError(f"attn_implementation {attn_implementation!r} is not supported: leave it out, or give sdpa")
        return attn_implementation or "sdpa"


def cached(cache: KeyValueCache | None) -> int:
    """Number of tokens in a cache."""
    return 0 if cache is None else cache.get_seq_length()


def tokens(given: Any, name: str = "context") -> Tensor:
    """Tokens (B, S), or their embeddings (B, S, D).

    Raises:
        InputError: If they are something else, or none.
    """
    if isinstance(given, Tensor) and given.dim() == 2 + given.is_floating_point() and given.numel():
        return given
    found = f"a {given.dtype} tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
    raise InputError(f"{name} is {found}: give whole numbers (B, S) or embeddings (B, S, D), at least one token")


def check_kept(kept: Any, labels: Tensor | None, given: Tensor) -> None:
    """Raise ``InputError`` if ``logits_to_keep`` is no number of positions, or labels do not match the tokens."""
    if not isinstance(kept, int | None) or not 0 <= (kept or 0) <= given.shape[1]:
        raise InputError(f"logits_to_keep is {kept}: give the number of last positions, from 0 (all) to {given.shape[1]}")
    if labels is not None and labels.shape != given.shape[:2]:
        raise InputError(
            f"labels have shape {tuple(labels.shape)}, but the tokens have {tuple(given.shape[:2])}: give one label per token"
        )


def positions_of(given: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
    """Positions (B, S) of the observed tokens, not counting padding. Call it before the cache is extended."""
    return Positions.of(given.shape[1], cached(cache), mask, given.device).index.expand(len(given), -1)


def check_whole(model: nn.Module) -> None:
    """Check that no weights are sharded by block within a ``forward`` that trains through thinking.

    Raises:
        InputError: If a weight is sharded.
    """
    if not torch.distributed.is_initialized():
        return
    from torch.distributed.tensor import DTensor

    if name := next((name for name, weight in model.named_parameters() if isinstance(weight, DTensor)), None):
        raise InputError(
            f"{name} is sharded separately (FSDP2), and forward() computes gradients of gradients: train with "
            "`ebt fit --trainer.strategy fsdp`, or apply fully_shard to the whole model only, with "
            "ignored_params={model.step_size.log_scale}"
        )


def next_token_loss(logits: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
    """Cross entropy of logits (B, S, V) with the next labels (B, S): mean over scored tokens, or sum / ``num_items``."""
    target = labels[:, 1:].to(logits.device)
    precise = logits[:, :-1].flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(precise, target.flatten(), ignore_index=IGNORED, reduction="sum")
    return rescale(total / _scored(target), target, num_items)


def rescale(mean: Tensor, target: Tensor, num_items: Tensor | int | None) -> Tensor:
    """Convert a mean over the scored targets into their sum divided by ``num_items``, if that is given."""
    return mean if num_items is None else mean * _scored(target) / torch.as_tensor(num_items, device=mean.device)


def _scored(target: Tensor) -> Tensor:
    return (target != IGNORED).sum().clamp(min=1)

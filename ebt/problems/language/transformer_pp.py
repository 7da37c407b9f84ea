"""Transformer++ for Hugging Face: the feed-forward twin of the autoregressive EBT."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from ebt.nn import CausalTransformer
from ebt.problems.language.base import LanguageModel, check_kept, next_token_loss
from ebt.problems.language.configuration import TransformerPPConfig


class TransformerPPForCausalLM(LanguageModel):
    """Llama-2 style decoder with the blocks of the EBT and a separate output head."""

    config_class = TransformerPPConfig

    def __init__(self, config: TransformerPPConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.network = CausalTransformer(config.network())
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        for table in (self.embedding, self.head):  # a head of zeros learns far more slowly
            nn.init.normal_(table.weight, std=config.dim**-0.5)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Return the logits (B, S, V) of the next token at each position. For the arguments see ``EBTForCausalLM.forward``.

        Raises:
            InputError: If the mask does not match, or an argument is not supported.
        """
        cache = past_key_values
        given = self.observed(input_ids, inputs_embeds, attention_mask, cache, others)
        check_kept(logits_to_keep, labels, given)
        if cache is None and use_cache:
            cache = DynamicCache(config=self.config)
        embedded = self.embed(given)
        stream = self.network.stream(embedded, attention_mask, cache)
        states = (embedded, *stream) if self.wants_states(output_hidden_states) else None
        hidden = self.network.norm(stream[-1])
        logits = self.head(hidden if labels is not None else hidden[:, -(logits_to_keep or 0) :])
        loss = None if labels is None else next_token_loss(logits, labels, num_items_in_batch)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache, hidden_states=states)
        return output if return_dict is not False else output.to_tuple()

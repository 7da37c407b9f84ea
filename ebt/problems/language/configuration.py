"""Configurations of language models."""

from __future__ import annotations

from typing import Any, ClassVar

from ebt.checks import type_hints
from ebt.errors import InputError
from ebt.models.configuration import TWINS, NetworkFields, ThinkingFields, check_value
from ebt.thinking import Recipe

LARGE_VOCABULARY = 16_384
"""Vocabularies above this size train without ``input_gradient`` by default. It is worth 0.02 nats after equal updates, which
take up to 1.6 times as long with it."""


class EBTConfig(ThinkingFields):
    """Autoregressive EBT for text with ``vocab_size`` tokens, trained on contexts of ``context_length`` tokens.

    ``input_gradient``: by default, true with at most ``LARGE_VOCABULARY`` tokens. ``tied_candidates``: embed candidates with
    the table of the observed tokens instead of a separate one. ``recipe``: fields of ``ebt.thinking.Recipe`` for training
    through ``forward(labels=...)``, as ``transformers.Trainer`` does. Missing fields are those of ``Recipe()``, with starts as
    in inference.
    """

    model_type = "ebt"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["energies", "steps", "past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {**NetworkFields.attribute_map, "max_position_embeddings": "context_length"}

    def __init__(
        self,
        vocab_size: int = 257,
        context_length: int = 256,
        recipe: dict[str, Any] | None = None,
        tied_candidates: bool = False,
        anchor: str = "hidden",
        head: str = "bilinear",
        scale_inputs: bool = True,
        input_gradient: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.context_length, self.recipe = vocab_size, context_length, recipe
        self.tied_candidates = tied_candidates
        learns = vocab_size <= LARGE_VOCABULARY if input_gradient is None else input_gradient
        super().__init__(anchor=anchor, head=head, scale_inputs=scale_inputs, input_gradient=learns, **kwargs)
        self.training_recipe()

    def training_recipe(self) -> Recipe:
        """Return the recipe of ``forward(labels=...)``.

        Raises:
            InputError: If fields are unknown or contradict each other, or ask for a replay buffer or a warm start.
        """
        hints = type_hints(Recipe)
        try:
            for name, value in (self.recipe or {}).items():
                check_value(name, value, hints.get(name, Any))
            recipe = Recipe(**{"start_std": self.thinking["start_std"], **(self.recipe or {})})
        except (TypeError, ValueError) as error:
            raise InputError(f"recipe {self.recipe}: {error}") from error
        for name, remedy in (
            ("warm_start", "a model on its own does not know the progress of training. Set it to 0"),
            ("replay_size", "a model on its own has no replay buffer. Set replay_size and replay_fraction to 0"),
        ):
            if value := getattr(recipe, name):
                raise InputError(f"recipe has {name} {value}: {remedy}, or train with `ebt fit`.")
        self.check_rows(recipe)
        return recipe


class TransformerPPConfig(NetworkFields):
    """Transformer++, the feed-forward twin of ``EBTConfig``."""

    model_type = "ebt_transformer_pp"
    unused = TWINS
    attribute_map = EBTConfig.attribute_map

    def __init__(self, vocab_size: int = 257, context_length: int = 256, **kwargs: Any) -> None:
        self.vocab_size, self.context_length = vocab_size, context_length
        super().__init__(**kwargs)

"""The autoregressive EBT for Hugging Face: a language model that thinks about each token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationConfig
from transformers.modeling_outputs import ModelOutput

from ebt.errors import InputError
from ebt.models.base import ThinkingModel
from ebt.models.configuration import THINKING
from ebt.models.thinking import Thinking, think
from ebt.nn import DecoderLandscape, EBTDecoder, KeyValueCache
from ebt.problems.language.base import LanguageModel, check_kept, check_whole, next_token_loss, positions_of, rescale, tokens
from ebt.problems.language.configuration import EBTConfig
from ebt.thinking import Geometry, Simplex, StepSize, Thought, mean, supervise
from ebt.thinking.descent import leave_inference_mode

THINKING_OPTIONS = (*THINKING, "thinking", "generator")
"""Arguments of ``forward`` that ``generate()`` and ``generation_config`` also accept."""


@dataclass
class EBTOutput(ModelOutput):
    """Output of ``EBTForCausalLM``. B rows, S positions (the last ``logits_to_keep``), T steps, V tokens of the vocabulary."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    """(B, S, V) of the winning candidates, or of the mean of all. Constants unless ``differentiable``."""
    energies: Tensor | None = None
    """(T + 1, B, S) of the winning candidates, before each step and of the final state, unless it was left out."""
    steps: Tensor | None = None
    """(B, S) number of steps taken."""
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    """On request: the embeddings and the observed stream after each block, (B, S, D) each, without candidates. Constants like
    the logits."""


class EBTForCausalLM(LanguageModel, ThinkingModel):
    """Predicts each next token by descending its energy.

    Thinking starts from random candidates. Without a ``generator`` they depend only on the seed, the position of the token and
    the index of the candidate. Results are reproducible and independent of the cache, the batch and the padding.
    """

    config_class = EBTConfig
    CONTEXT: ClassVar[tuple[str, ...]] = ("attention_mask", "cache", "predictions")

    def __init__(self, config: EBTConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.words = None if config.tied_candidates else nn.Embedding(config.vocab_size, config.dim)
        self.network = EBTDecoder(config.network(), config.energy_scale)
        self.step_size = StepSize(config.step_size, config.learn_step_size)
        for table in (self.embedding, self.words):
            if table is not None:
                nn.init.normal_(table.weight, std=config.dim**-0.5)
        self.generation_config._from_model_config = False  # otherwise thinking options saved in it are lost on loading
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """Return the energy head, which adapters and quantisation leave unchanged."""
        return self.network.head.projection

    def landscape(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        predictions: int | None = None,
        states: bool = False,
    ) -> DecoderLandscape:
        """Return the energy of candidates for the next token after each of the last ``predictions`` tokens of (B, S)."""
        return self.network.encode(self.embed(input_ids), attention_mask, cache, predictions, states)

    def prepared(self, context: Any) -> Tensor:
        """Check tokens (B, S)."""
        return tokens(context, "context")

    def geometry(self) -> Geometry:
        """One part per token, each a prediction."""
        table = self.embedding if self.words is None else self.words
        return self.config.make_geometry(2, table.weight, self.config.input_gradient)

    def parts(self, input_ids: Tensor, *, predictions: int | None = None, **_: Any) -> tuple[int, ...]:
        return len(input_ids), predictions or input_ids.shape[1]

    def positions(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        predictions: int | None = None,
    ) -> Tensor:
        """Positions (B, S) of the last observed tokens, not counting padding. Call it before the cache is extended."""
        return positions_of(input_ids, attention_mask, cache)[:, -(predictions or input_ids.shape[1]) :]

    def answer(self, input_ids: Tensor, thought: Thought, how: Thinking) -> Tensor:
        """Return the most probable next tokens (B, S)."""
        return self.logits(thought, how).argmax(-1) if how.rule == "mean" else thought.geometry.decide(thought.state)

    def logits(self, thought: Thought, how: Thinking) -> Tensor:
        """Return the logits (B, S, V) of the winners, or of the mean of all candidates."""
        geometry = thought.geometry
        assert isinstance(geometry, Simplex)
        if how.rule == "mean" and thought.candidates is not None:
            return mean(thought.candidates, how.candidates, how.mean_from)
        return geometry.logits(thought.state)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        thinking: Thinking | None = None,
        generator: torch.Generator | None = None,
        final_energy: bool = True,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        differentiable: bool | None = None,
        **options: Any,
    ) -> EBTOutput | tuple[Any, ...]:
        """Think about the next token at each position. In training mode with labels, return the loss of the recipe.

        Args:
            input_ids: Observed tokens (B, S), without the cached ones.
            attention_mask: (B, K), 0 at padding, where K includes cached tokens.
            labels: Observed tokens (B, S), -100 where not scored. They are shifted here, as in all Hugging Face models. In
                training mode the loss follows ``config.training_recipe()``, otherwise it is the cross entropy of the final
                logits.
            past_key_values: Cached keys and values of observed tokens. Candidates are never cached. With a context per step
                (conditioning 'prefix' or 'modulation'), use a ``DynamicCache()`` without a configuration, which grows to as
                many contexts.
            use_cache: Whether to return ``past_key_values``.
            logits_to_keep: Number of last positions to think about. 0 means all.
            thinking: Thinking options. The model's own by default.
            generator: Source of starts and noise, instead of the seed.
            final_energy: ``False`` skips the pass for the energies of the final states where no choice depends on them.
            num_items_in_batch: Divisor of the summed loss instead of the number of scored tokens (passed by ``Trainer``).
            return_dict: ``False`` returns a tuple.
            inputs_embeds: Embeddings (B, S, D) instead of ``input_ids``.
            output_hidden_states: Whether to return ``hidden_states``.
            differentiable: Whether the logits, and a loss computed from them, carry gradients through all steps, at the memory
                of all steps. By default in training mode without labels.
            options: Fields of ``Thinking`` for this call, for example ``steps=16, candidates=8``. With ``rule="mean"`` the
                energies are the lowest ones. Arguments of other models must be ``None`` or ``False``. ``position_ids`` must
                match the mask.

        Raises:
            InputError: If an option is unknown or out of range, a mask does not match, or weights are sharded by block in a
                training that takes second derivatives.
        """
        asked, cache = {name: options.pop(name, None) for name in THINKING}, past_key_values
        options.pop("record", None)
        given = self.observed(input_ids, inputs_embeds, attention_mask, cache, options)
        check_kept(logits_to_keep, labels, given)
        wanted = self.wants_states(output_hidden_states)
        learns = torch.is_grad_enabled() and (self.training if differentiable is None else differentiable)
        if learns:
            check_whole(self)
        if self.training and labels is not None and not differentiable:
            output = self._train(given, attention_mask, labels, num_items_in_batch, generator)
            states = self.landscape(given, attention_mask, states=True).stream() if wanted else None
        else:
            if cache is None and use_cache:
                cache = DynamicCache()
            how = self.how(thinking, **asked)
            if learns and how.stops() is not None:
                raise InputError("tolerance and stop are for inference only: set differentiable=False, or leave them out")
            context = (given, attention_mask, cache, (logits_to_keep if labels is None else 0) or None)
            with leave_inference_mode(), torch.set_grad_enabled(learns):
                positions = self.positions(*context)  # before the cache is extended
                landscape = self.landscape(*context, states=wanted)
                thought = think(
                    landscape,
                    self.geometry(),
                    self.update(),
                    self.step_size(),
                    how,
                    tuple(positions.shape),
                    positions=positions,
                    generator=generator,
                    keep_path=False,
                    final_energy=final_energy,
                    gradients="full" if learns else "none",
                )
                logits = self.logits(thought, how)
                loss = None if labels is None else next_token_loss(logits, labels, num_items_in_batch)
                states = landscape.stream() if wanted else None
            output = EBTOutput(loss, logits, thought.energies, thought.steps, cache)
        output.hidden_states = states
        return output if return_dict is not False else output.to_tuple()

    def _train(
        self,
        given: Tensor,
        attention_mask: Tensor | None,
        labels: Tensor,
        num_items: Tensor | int | None,
        generator: torch.Generator | None,
    ) -> EBTOutput:
        """Think about S - 1 positions: the token after the last one is not known."""
        recipe = torch.compiler.disable(self.config.training_recipe)()
        geometry, target = self.geometry(), labels[:, 1:]
        if self._checkpoints and recipe.second_order == "auto":
            recipe = replace(recipe, second_order="central")
        landscape = self.landscape(given[:, :-1], None if attention_mask is None else attention_mask[:, :-1])
        start = geometry.start(tuple(target.shape), recipe.start_std, generator)
        outcome = torch.compiler.disable(supervise)(
            landscape, geometry, self.update(), start, target, self.step_size, recipe, generator
        )
        with torch.no_grad():
            logits = self.logits(outcome.thought, self.thinking.but(rule="lowest"))
        return EBTOutput(rescale(outcome.loss, target, num_items), logits, outcome.thought.energies, outcome.thought.steps)

    @property
    def _checkpoints(self) -> bool:
        """Whether activations are checkpointed."""
        return any(block.gradient_checkpointing for block in self.network.blocks)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate tokens with ``transformers``' ``generate``, with all its options and the thinking options of ``forward``.

        ``model.generate(ids, steps=8, candidates=4)``. Options may also be set in ``model.generation_config``. With
        ``return_dict_in_generate=True`` the output has two more entries, tuples with one tensor per generated token like
        ``scores``: ``energies`` (T + 1, rows) of the winners, and ``steps`` (rows,), the numbers of steps taken.
        """
        record: list[tuple[Tensor, Tensor]] = []
        output = super().generate(*args, record=record, **kwargs)
        if isinstance(output, ModelOutput):
            output["energies"] = tuple(energies for energies, _ in record)
            output["steps"] = tuple(steps for _, steps in record)
        return output

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Pass thinking options of the generation config to ``forward``. Keep a record only if it is returned."""
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        if not generation_config.return_dict_in_generate:
            model_kwargs.pop("record", None)
        options = {name: getattr(generation_config, name, None) for name in THINKING_OPTIONS}
        given = {name: value for name, value in options.items() if value is not None}
        return generation_config, {**given, **model_kwargs, "final_energy": "record" in model_kwargs}

    def _get_candidate_generator(self, *args: Any, model_kwargs: dict[str, Any], **kwargs: Any) -> Any:
        """Let an assistant model think with its own configuration, if it thinks at all."""
        return super()._get_candidate_generator(*args, model_kwargs=_of_any_model(model_kwargs), **kwargs)

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        super()._validate_model_kwargs(_of_any_model(model_kwargs))

    def _update_model_kwargs_for_generation(
        self, outputs: EBTOutput, model_kwargs: dict[str, Any], is_encoder_decoder: bool = False, num_new_tokens: int = 1
    ) -> dict[str, Any]:
        """Record the energies of new tokens, first to last. Called once per round of generation."""
        if "record" in model_kwargs and outputs.energies is not None and outputs.steps is not None:
            rounds = range(num_new_tokens)
            model_kwargs["record"] += [(outputs.energies[..., i], outputs.steps[..., i]) for i in rounds]
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder, num_new_tokens)


def _of_any_model(model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Remove the arguments that models without thinking do not accept."""
    own = ("record", "final_energy", *THINKING_OPTIONS)
    return {name: value for name, value in model_kwargs.items() if name not in own}

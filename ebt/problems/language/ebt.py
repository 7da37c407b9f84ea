"""The autoregressive EBT for Hugging Face: a language model that thinks about each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationConfig
from transformers.modeling_outputs import ModelOutput

from ebt.errors import InputError
from ebt.models.base import ThinkingModel
from ebt.models.configuration import THINKING
from ebt.models.thinking import Thinking
from ebt.nn import DecoderLandscape, EBTDecoder, KeyValueCache
from ebt.problems.language.base import LanguageModel, next_token_loss, positions_of, rescale
from ebt.problems.language.configuration import EBTConfig
from ebt.thinking import Geometry, Places, Simplex, StepSize, Thought, choose, descend, mean, supervise

THINKING_OPTIONS = (*THINKING, "thinking", "generator")
"""Arguments of ``forward`` that ``generate()`` and ``generation_config`` take, too."""


@dataclass
class EBTOutput(ModelOutput):
    """Output of ``EBTForCausalLM``: B rows, S positions (the last ``logits_to_keep``), T steps, V words."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    """(B, S, V) of the winning candidates, or of the mean of all; constants, unless ``differentiable``."""
    energies: Tensor | None = None
    """(T + 1, B, S) of the winning candidates: before each step, and of the final state, unless it was left out."""
    steps: Tensor | None = None
    """(B, S) steps really taken."""
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    """On request: the embeddings, and the observed stream after each block, (B, S, D) each; no candidate is in them."""


class EBTForCausalLM(LanguageModel, ThinkingModel):
    """Predicts each next token by descending its energy.

    Thinking starts from random candidates. Unless a ``generator`` is given, these are a pure function of the seed, the token's
    position and the candidate's number, so that results are reproducible and do not depend on the cache, the batch or the
    padding.
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
        self.generation_config._from_model_config = False  # else thinking options saved in it would be lost on loading
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The energy head, which adapters and quantisation leave alone."""
        return self.network.head.projection

    def landscape(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        predictions: int | None = None,
    ) -> DecoderLandscape:
        """The energy of candidates for the tokens that follow each of the last ``predictions`` tokens of (B, S)."""
        return self.network.encode(self.embed(input_ids), attention_mask, cache, predictions)

    def geometry(self) -> Geometry:
        """One part a token, each a prediction."""
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
        """Positions (B, S) of the last observed tokens, padding not counted; before the cache takes them in."""
        return positions_of(input_ids, attention_mask, cache)[:, -(predictions or input_ids.shape[1]) :]

    def answer(self, input_ids: Tensor, thought: Thought, how: Thinking) -> Tensor:
        """The most probable next tokens (B, S)."""
        if how.rule == "mean":
            return self.logits(thought, how).argmax(-1)
        return thought.geometry.decide(thought.state)

    def logits(self, thought: Thought, how: Thinking) -> Tensor:
        """Logits (B, S, V) of the winners, or of the mean of all."""
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
        steps: int | None = None,
        candidates: int | None = None,
        rule: str | None = None,
        noise: float | None = None,
        step_size_scale: float | None = None,
        clamp: float | None = None,
        tolerance: float | None = None,
        stop: str | None = None,
        start_std: float | None = None,
        seed: int | None = None,
        mean_from: int | None = None,
        generator: torch.Generator | None = None,
        final_energy: bool = True,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        differentiable: bool | None = None,
        **others: Any,
    ) -> EBTOutput | tuple[Any, ...]:
        """Think about the token after each position; in training mode with labels, the differentiable loss of the recipe.

        Args:
            input_ids: observed tokens (B, S), without those in the cache.
            attention_mask: (B, K), 0 at padding; K counts cached tokens, too.
            labels: (B, S), the observed tokens themselves with -100 where they are not scored; shifted here, as in all
                Hugging Face models. In training mode the loss follows ``config.training_recipe()``; otherwise it is the cross
                entropy of the thought's final logits.
            past_key_values: keys and values of the observed tokens; no candidate is ever cached. Where each step has its own
                context (conditioning 'prefix' or 'modulation'), it needs a ``DynamicCache()`` without a configuration, which
                grows to as many contexts.
            use_cache: return ``past_key_values``.
            logits_to_keep: how many of the last positions to think about; 0 is all.
            thinking: how to think, see ``think``; the arguments from ``steps`` to ``mean_from`` replace its fields.
            steps: updates of each candidate.
            candidates: thought about for each token.
            rule: how they become one answer. With ``"mean"`` the logits are those of the mean of what all candidates thought
                from step ``mean_from`` on (``ebt.thinking.mean``), and the energies those of the lowest.
            noise: standard deviation of the Langevin noise.
            step_size_scale: factor on the learned step size.
            clamp: largest absolute entry of a direction.
            tolerance: stops a prediction that changes by less in one step.
            stop: another rule to stop by, by name (``ebt.models.thinking.STOPS``).
            start_std: standard deviation of the starts.
            seed: of starts and noise.
            mean_from: see ``rule``.
            generator: draws starts and noise instead.
            final_energy: False saves the pass for the energies of the final states where nothing is chosen by them.
            num_items_in_batch: divides the summed loss instead of the number of scored tokens (``Trainer`` gives it).
            return_dict: False returns a tuple.
            inputs_embeds: embeddings (B, S, D) in the place of ``input_ids``.
            output_hidden_states: return ``hidden_states``, for one more pass over the context.
            differentiable: logits, and a loss from them, carry full gradients through the thinking; by default in training
                mode without labels. It costs the memory of all steps.
            others: what other models take; refused unless it is None or False. ``position_ids`` may be those that follow from
                the mask.

        Raises:
            InputError: an option that there is not or outside its range, or a mask that does not fit.
        """
        cache = past_key_values
        given = self.observed(input_ids, inputs_embeds, attention_mask, cache, others)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states = self.stream(given, attention_mask, cache) if wanted else None
        if self.training and labels is not None and not differentiable:
            output = self._train(given, attention_mask, labels, num_items_in_batch, generator)
        else:
            if cache is None and use_cache:
                cache = DynamicCache()
            options = locals()
            how = self.how(thinking, **{name: options[name] for name in THINKING})
            learns = torch.is_grad_enabled() and (self.training if differentiable is None else differentiable)
            context: dict[str, Any] = {
                "attention_mask": attention_mask,
                "cache": cache,
                "predictions": (logits_to_keep if labels is None else 0) or None,
            }
            if learns:
                thought = self._differentiable(given, how, generator, **context)
            else:
                context |= {"keep_path": False, "final_energy": final_energy}
                thought = self.think(given, how, generator=generator, **context)
            with torch.set_grad_enabled(learns):
                logits = self.logits(thought, how)
                loss = None if labels is None else next_token_loss(logits, labels, num_items_in_batch)
            output = EBTOutput(loss, logits, thought.energies, thought.steps, cache)
        output.hidden_states = states
        return output if return_dict is not False else output.to_tuple()

    @torch.compiler.disable  # it differentiates twice
    def _differentiable(self, given: Tensor, how: Thinking, generator: torch.Generator | None, **context: Any) -> Thought:
        """What ``think`` does, with gradients through all steps."""
        if how.stops() is not None:
            raise InputError("tolerance and stop serve inference only: set differentiable=False, or think without them")
        geometry, (rows, *rest) = self.geometry(), self.parts(given, **context)
        draws = Places(how.seed, how.candidates, self.positions(given, **context))
        noise = torch.full((how.candidates, rows), float(how.noise), device=given.device)
        noise[0] = 0
        start = geometry.start((how.candidates * rows, *rest), how.start_std, draws.at(-1) if generator is None else generator)
        thought = descend(
            self.landscape(given, **context),
            start,
            steps=how.steps,
            step_size=self.step_size() * how.step_size_scale,
            geometry=geometry,
            update=self.update(),
            noise=noise.flatten(),
            clamp=how.clamp,
            gradients="full",
            generator=draws if generator is None else generator,
        )
        return choose(thought, how.candidates, how.rule)

    def _train(
        self,
        given: Tensor,
        attention_mask: Tensor | None,
        labels: Tensor,
        num_items: Tensor | int | None,
        generator: torch.Generator | None,
    ) -> EBTOutput:
        """The last token predicts nothing that is known: S - 1 positions are thought about."""
        recipe, geometry, target = self.config.training_recipe(), self.geometry(), labels[:, 1:]
        landscape = self.landscape(given[:, :-1], None if attention_mask is None else attention_mask[:, :-1])
        start = geometry.start(tuple(target.shape), recipe.start_std, generator)
        outcome = torch.compiler.disable(supervise)(
            landscape, geometry, self.update(), start, target, self.step_size, recipe, generator
        )
        with torch.no_grad():
            logits = self.logits(outcome.thought, self.thinking.but(rule="lowest"))
        return EBTOutput(rescale(outcome.loss, target, num_items), logits, outcome.thought.energies, outcome.thought.steps)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """``transformers``' own ``generate`` with all its options, and the thinking options of ``forward``.

        ``model.generate(ids, steps=8, candidates=4)``; options may also live in ``model.generation_config``. With
        ``return_dict_in_generate=True`` the output has two entries more, each a tuple with one tensor per generated token as
        ``scores`` has: ``energies`` (T + 1, rows), of the winners, and ``steps`` (rows,), those really taken.
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
        """Hand thinking options that live in the generation config to ``forward``; keep a record only if it is returned."""
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        if not generation_config.return_dict_in_generate:
            model_kwargs.pop("record", None)
        for name in THINKING_OPTIONS:
            if getattr(generation_config, name, None) is not None:
                model_kwargs.setdefault(name, getattr(generation_config, name))
        return generation_config, model_kwargs

    def _get_candidate_generator(self, *args: Any, model_kwargs: dict[str, Any], **kwargs: Any) -> Any:
        """An assistant thinks as its own configuration says, if it thinks at all."""
        own = {name: value for name, value in model_kwargs.items() if name not in ("record", *THINKING_OPTIONS)}
        return super()._get_candidate_generator(*args, model_kwargs=own, **kwargs)

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        super()._validate_model_kwargs({name: value for name, value in model_kwargs.items() if name != "record"})

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        record: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """What ``forward`` gets; the record of energies stays outside, and without one nobody sees the last energies."""
        inputs = super().prepare_inputs_for_generation(
            input_ids, next_sequence_length, past_key_values, attention_mask, inputs_embeds, **kwargs
        )
        return inputs | {"final_energy": record is not None}

    def _update_model_kwargs_for_generation(
        self, outputs: EBTOutput, model_kwargs: dict[str, Any], is_encoder_decoder: bool = False, num_new_tokens: int = 1
    ) -> dict[str, Any]:
        """Called once per round of generation: note the energies of its new tokens, which it thought about first to last."""
        record = model_kwargs.get("record")
        if record is not None and outputs.energies is not None and outputs.steps is not None:
            record += [(outputs.energies[..., i], outputs.steps[..., i]) for i in range(num_new_tokens)]
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder, num_new_tokens)

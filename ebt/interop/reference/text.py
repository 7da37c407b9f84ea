"""The published text models: EBT and Transformer++."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.interop.reference import names, settings
from ebt.interop.reference.recorded import Case, Draws, RecordedNoise, Tensors, report, rerun, think_again, training_steps
from ebt.problems.language.base import next_token_loss
from ebt.problems.language.configuration import EBTConfig, TransformerPPConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.thinking import IGNORED, Supervised, choose, descend

PAD = 0
"""The published code's padding and end-of-text token, which is never a target."""


def convert(hparams: settings.Settings, state: Mapping[str, Tensor]) -> EBTForCausalLM | TransformerPPForCausalLM:
    """A text model with the published weights, in their precision; energies, candidates and gradients are the same.

    Raises:
        InputError: naming a weight or hyper-parameter that is missing, unknown, or has no equal here.
    """
    layers = names.count_layers(state)
    ffn_dim = len(state.get("transformer.layers.0.feed_forward.w1.weight", ()))
    fields = settings.network(hparams, layers, ffn_dim) | {"vocab_size": len(state.get("embeddings.weight", ()))}
    if hparams["model_name"] == "baseline_transformer":
        twin = TransformerPPForCausalLM(TransformerPPConfig(**fields))
        names.load(twin, state, weights(twin))
        return twin
    fields |= settings.conditioning(hparams) | settings.thinking(hparams, state)
    fields["space"] = "reference" if hparams["normalize_initial_condition"] else "free"
    fields["tied_candidates"] = bool(hparams["vocab_to_embed_uses_prob_dist"])
    model = EBTForCausalLM(EBTConfig(**fields))
    names.load(model, state, weights(model), unused=[names.NOISE_STD])
    return model


def weights(model: EBTForCausalLM | TransformerPPForCausalLM) -> list[names.Weight]:
    """The names of all its weights."""
    config = model.config
    if isinstance(model, TransformerPPForCausalLM):
        return [names.words(tied=True)[0], *names.transformer_weights(config.layers)]
    return [*names.words(config.tied_candidates), *names.decoder_weights(config.layers, config.conditioning)]


def recompute(case: Case, run: str, draws: Draws, wanted: Collection[str]) -> Iterator[Tensors]:
    """All that a run recorded, by its recorded names; several times where the record leaves open how it was made."""
    if case.hparams["model_name"] == "baseline_transformer":
        yield _baseline(case)
    elif case.hparams.get("infer_ebt_advanced"):
        yield from _inference(case, draws, wanted)
    elif case.hparams["mcmc_replay_buffer"]:
        yield from _replays(case, draws)
    else:
        yield _batch(case, run, draws)


def _model(case: Case) -> Any:
    """A fresh one, with a trainable step size, as all runs were recorded."""
    return convert(case.hparams, case.cast(case.weights)).requires_grad_()


def _start(case: Case) -> Tensor:
    return case.inputs["initial_logits"].to(case.dtype)


def _baseline(case: Case) -> Tensors:
    model, ids = _model(case), case.inputs["input_ids"]
    logits = model(ids[:, :-1]).logits
    labels = torch.cat((ids[:, :1], _targets(ids)), 1)
    loss = next_token_loss(torch.cat((logits, logits[:, -1:]), 1), labels, None)
    loss.backward()
    found = {"logits": logits, "loss": loss, "perplexity": loss.exp()}
    return {**found, **_gradients(model)}


def _targets(ids: Tensor) -> Tensor:
    return ids[:, 1:].masked_fill(ids[:, 1:] == PAD, IGNORED)


def _gradients(model: Any) -> Tensors:
    return {f"grad.{name}": gradient for name, gradient in names.gradients(model, weights(model)).items()}


def _report(outcome: Supervised) -> Tensors:
    return {**report(outcome, "logits"), "perplexity": outcome.losses[-1].exp()}


def _batch(case: Case, run: str, draws: Draws) -> Tensors:
    model, ids = _model(case), case.inputs["input_ids"]
    outcome = rerun(case, run, draws, model, model.landscape(ids[:, :-1]), _start(case), _targets(ids))
    return {**_report(outcome), **_gradients(model)}


def _replays(case: Case, draws: Draws) -> Iterator[Tensors]:
    """Two batches, the second with replayed rows. Not recorded: which batch was first, and which rows were replayed."""
    batches = [case.inputs["input_ids"], case.inputs["replay_input_ids"]]
    rows = len(batches[0])
    count = min(int(case.hparams["batch_size_per_device"] * case.hparams["mcmc_replay_buffer_sample_bs_percent"]), rows)
    for first, second in (batches, batches[::-1], batches[:1] * 2):
        for chosen in permutations(range(rows), count):
            attempt = Draws(draws.draws, draws.dtype)
            yield _replay(case, first, second, list(chosen), attempt)


def _replay(case: Case, first: Tensor, second: Tensor, chosen: list[int], draws: Draws) -> Tensors:
    model, recipe = _model(case), settings.recipe_of(case.hparams, case.weights)
    found: Tensors = {}
    replayed = _start(case)[:0]
    repeats = [int(value) for value in draws.left("randint")] or [2 * case.hparams["mcmc_num_steps"]]
    ids, spare = first, len(draws.left("randn")) - (sum(repeats) if recipe.noise else 0)
    for call in (1, 2):
        model.zero_grad()
        steps = training_steps(case.hparams, draws)
        drawn = spare >= 2 or (spare == 1 and call == 2)
        start = draws.take("randn")[: len(first)] if drawn else _start(case)
        landscape, starts = model.landscape(ids[:, :-1]), torch.cat((start, replayed))
        outcome = think_again(model, landscape, starts, _targets(ids), recipe, steps, draws)
        outcome.loss.backward()
        found |= {f"call{call}.{name}": value for name, value in {**_report(outcome), **_gradients(model)}.items()}
        replayed, ids = outcome.thought.state.detach()[chosen], torch.cat((second, first[chosen]))
    return found


def _inference(case: Case, draws: Draws, wanted: Collection[str]) -> Iterator[Tensors]:
    """Rows are ordered context by context there, candidate by candidate here; and were thought of in chunks of one batch."""
    model, ids = _model(case), case.inputs["input_ids"]
    ids = ids[:, : _start(case).shape[1]]
    alpha, trained_noise = (names.number(case.weights, name) for name in (names.ALPHA, names.NOISE_STD))
    how = settings.inference(case.hparams, alpha, trained_noise)
    count, drawn = how.candidates, [value.to(case.dtype) for value in draws.left("randn")]
    first = next((i for i, value in enumerate(drawn) if count > 1 and len(value) == len(ids) * count), None)
    if first is None and count > 1:
        raise InputError(f"the initial candidates of {count} samples were not recorded: the run's random draws must hold them")
    start = _start(case) if first is None else drawn[first]
    for noise in _noises(drawn[0 if first is None else first + 1 :], len(how.schedule), count):
        recorded = RecordedNoise(Draws([("randn", value) for value in noise], case.dtype))
        with torch.no_grad():
            thought = descend(
                model.landscape(ids),
                _candidate_major(start, count),
                steps=len(how.schedule),
                step_size=how.step_size,
                geometry=model.geometry(),
                update=model.update(),
                noise=how.noise,
                clamp=model.thinking.clamp,
                generator=recorded,
                schedule=how.schedule,
            )
            chosen = choose(thought, count, how.rule)
        states = [thought.start, *thought.states] if f"state.{len(thought.states)}" in wanted else list(thought.states)
        found = {f"energy.{i}": _context_major(energy, count) for i, energy in enumerate(thought.energies)}
        found |= {f"state.{i}": _context_major(state, count) for i, state in enumerate(states)}
        yield {**found, "final_logits": chosen.state}


def _noises(drawn: list[Tensor], steps: int, count: int) -> Iterator[list[Tensor]]:
    """Noise (M x B, S, V) of every step. Not recorded: whether B rows were drawn chunk by chunk or step by step."""
    if len(drawn) <= steps:  # none, or all rows at once
        yield [_candidate_major(values, count) for values in drawn]
        return
    yield [_candidate_major(torch.cat(drawn[i::steps]), count) for i in range(steps)]
    yield [_candidate_major(torch.cat(drawn[i * count : (i + 1) * count]), count) for i in range(steps)]


def _candidate_major(rows: Tensor, count: int) -> Tensor:
    return rows.unflatten(0, (-1, count)).transpose(0, 1).flatten(0, 1)


def _context_major(rows: Tensor, count: int) -> Tensor:
    return rows.unflatten(0, (count, -1)).transpose(0, 1).flatten(0, 1)

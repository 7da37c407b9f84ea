"""``generate()``: the same with and without a cache, alone and in a batch, whatever the decoding method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hub_toys import ANCHORS, CONDITIONINGS, PAD, make_ebt, make_ids, make_twin, pad_left
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from ebt.problems.language.base import LanguageModel
from ebt.problems.language.ebt import EBTForCausalLM

NEW = 5
METHODS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 5, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "candidates": {"candidates": 4, "steps": 2},
    "mean": {"candidates": 2, "steps": 3, "rule": "mean"},
    "tolerance": {"candidates": 2, "steps": 3, "tolerance": 0.4},  # few steps: candidates that end alike tie by rounding
}
MODELS = {
    **{name: lambda config=config: make_ebt(**config) for name, config in (CONDITIONINGS | ANCHORS).items()},
    "vocabulary-sized": lambda: make_ebt(space="reference"),
    "twin": make_twin,
}
FEWER = {"twin": ("greedy", "sampling", "beams"), **dict.fromkeys(ANCHORS, ("greedy", "candidates"))}
ONCE = "mean"
"""What does not depend on the form of the model is tried with one."""
CASES = [(name, method) for name in MODELS for method in FEWER.get(name, METHODS) if method != ONCE or name == "prefix"]


def generate(model: LanguageModel, ids: Tensor, **options: Any) -> Any:
    torch.manual_seed(0)
    settings = {"max_new_tokens": NEW, "return_dict_in_generate": True, "output_logits": True, "pad_token_id": PAD}
    return model.generate(ids, **{**settings, **options})


def assert_same(one: Any, other: Any) -> None:
    assert torch.equal(one.sequences, other.sequences)
    for a, b in zip(one.logits, other.logits, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    if "energies" in one:
        for a, b in zip(one.energies + one.steps, other.energies + other.steps, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_cache_changes_nothing(name: str, method: str) -> None:
    model = MODELS[name]()
    prompts, mask = pad_left([make_ids(1)[0], make_ids(1, 4, seed=1)[0]])
    cached, uncached = (
        generate(model, prompts, attention_mask=mask, use_cache=use_cache, **METHODS[method]) for use_cache in (True, False)
    )
    assert_same(cached, uncached)
    assert uncached.get("past_key_values") is None


@pytest.mark.parametrize(("name", "method"), [case for case in CASES if case[1] in ("greedy", "beams", "candidates")])
def test_a_batch_of_unequal_prompts_generates_what_each_does_alone(name: str, method: str) -> None:
    model, prompts = MODELS[name](), [make_ids(1, length, seed=length)[0] for length in (7, 4, 2)]
    ids, mask = pad_left(prompts)
    together = generate(model, ids, attention_mask=mask, **METHODS[method]).sequences[:, 7:]
    alone = [generate(model, prompt.unsqueeze(0), **METHODS[method]).sequences[:, len(prompt) :] for prompt in prompts]
    assert torch.equal(together, torch.cat(alone))
    assert len(together.unique(dim=0)) > 1


@pytest.mark.parametrize("make", [make_ebt, make_twin])
def test_each_new_token_observes_one_position(make: Any) -> None:
    model, lengths = make(), []
    model.embedding.register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[1]))
    cached = generate(model, make_ids())
    assert lengths == [7, 1, 1, 1, 1]
    assert cached.past_key_values.get_seq_length() == 7 + NEW - 1


def rows_evaluated(model: EBTForCausalLM) -> list[tuple[int, bool]]:
    """Filled as the model runs: the rows of each pass through the network, and whether it leaves a graph (thinking's steps)."""
    passes: list[tuple[int, bool]] = []
    first = model.network.get_submodule("blocks.0.attention.key")
    first.register_forward_hook(lambda module, inputs, output: passes.append((len(output), output.requires_grad)))
    return passes


def test_candidates_share_a_context_that_is_encoded_once() -> None:
    model = make_ebt()
    passes = rows_evaluated(model)
    generate(model, make_ids(), steps=3, candidates=4)
    assert passes == [(2, False), *[(8, True)] * 3, (8, False)] * NEW  # context, steps, final energies


def test_converged_rows_are_not_evaluated_any_more() -> None:
    model, ids = make_ebt(), make_ids(3)
    model.step_size.log_scale.data.fill_(-1.0)  # small steps converge
    passes = rows_evaluated(model)
    output = generate(model, ids, steps=8, candidates=2, tolerance=0.25)
    assert len(output.energies) == NEW
    stepping = [rows for rows, graph in passes if graph]
    thought = [
        model.think(output.sequences[:, :end], predictions=1, steps=8, candidates=2, tolerance=0.25).candidates
        for end in range(7, 12)
    ]
    expected = [int((one.steps > step).sum()) for one in thought for step in range(int(one.steps.max()))]
    assert stepping[: len(expected)] == expected
    assert len(set(expected)) > 1
    assert sum(expected) < 0.9 * 6 * 8 * NEW
    assert [one.evaluations.backward * 6 for one in thought] == [float(one.steps.sum()) for one in thought]


def test_nothing_is_evaluated_that_nobody_sees() -> None:
    """Without candidates to choose from, and energies to return, the final states' energies are left out."""
    model, ids = make_ebt(), make_ids()
    expected = generate(model, ids, steps=2).sequences
    passes = rows_evaluated(model)
    assert torch.equal(generate(model, ids, steps=2, return_dict_in_generate=False), expected)
    assert passes == [(2, False), (2, True), (2, True)] * NEW
    assert model(ids, steps=2, final_energy=False).energies.shape == (2, 2, 7)
    assert model(ids, steps=2, candidates=2, final_energy=False).energies.shape == (3, 2, 7)


def test_energies_and_steps_come_with_every_token() -> None:
    model, ids = make_ebt(), make_ids()
    output = generate(model, ids, steps=4, candidates=3)
    assert [energies.shape for energies in output.energies] == [(5, 2)] * NEW
    assert [steps.tolist() for steps in output.steps] == [[4, 4]] * NEW
    whole = model(output.sequences[:, :-1], steps=4, candidates=3)
    torch.testing.assert_close(torch.stack(output.energies, -1), whole.energies[..., -NEW:])
    beams = generate(model, ids, num_beams=3)
    assert [energies.shape for energies in beams.energies] == [(4, 6)] * NEW


def test_greedy_tokens_are_the_most_probable_of_the_forward_pass() -> None:
    model, ids = make_ebt(), make_ids()
    sequences = generate(model, ids, candidates=2).sequences
    predicted = model(sequences, candidates=2).logits.argmax(-1)
    assert torch.equal(sequences[:, 7:], predicted[:, 6:-1])


def test_thinking_options_live_in_the_call_or_the_generation_config() -> None:
    model, ids = make_ebt(), make_ids()
    expected = generate(model, ids, steps=5, candidates=2, seed=3)
    model.generation_config.update(steps=1, candidates=2, allow_custom_entries=True)
    assert [energies.shape[0] for energies in generate(model, ids).energies] == [2] * NEW
    assert_same(expected, generate(model, ids, steps=5, seed=3))
    config = GenerationConfig(steps=5, seed=3, max_new_tokens=NEW, return_dict_in_generate=True, output_logits=True)
    assert_same(expected, model.generate(ids, generation_config=config, pad_token_id=PAD))


def test_misspelt_options_are_refused() -> None:
    with pytest.raises(ValueError, match="stepps"):
        generate(make_ebt(), make_ids(), stepps=3)


def test_sampling_follows_torchs_seed() -> None:
    model, ids = make_ebt(), make_ids()
    one = generate(model, ids, do_sample=True, temperature=3.0, num_return_sequences=3)
    assert len(one.sequences.unique(dim=0)) > 2
    assert_same(one, generate(model, ids, do_sample=True, temperature=3.0, num_return_sequences=3))


class Collect(BaseStreamer):
    def __init__(self) -> None:
        self.tokens: list[int] = []

    def put(self, value: Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.tokens.append(-1)


def test_streaming_and_stopping() -> None:
    model, ids, streamer = make_ebt(), make_ids(1), Collect()
    tokens = generate(model, ids, streamer=streamer).sequences[0].tolist()
    assert streamer.tokens == [*tokens, -1]
    end = tokens[9]
    stopped = generate(model, ids, eos_token_id=end)
    assert stopped.sequences[0].tolist() == tokens[: tokens.index(end, 7) + 1]
    assert len(stopped.energies) == stopped.sequences.shape[1] - 7


def test_other_decoding_methods_agree_with_greedy_decoding() -> None:
    model, ids = make_ebt(), make_ids(1, 4).repeat(1, 3)
    greedy = generate(model, ids)
    assert_same(greedy, generate(model, ids, prefill_chunk_size=5))
    assert_same(greedy, generate(model, ids, prompt_lookup_num_tokens=3))
    with torch.inference_mode():
        assert_same(greedy, generate(model, ids))
    torch.set_grad_enabled(True)
    assert_same(greedy, generate(model, ids))


def test_beams_in_inference_mode() -> None:
    model, ids = make_ebt(), make_ids()
    expected = generate(model, ids, num_beams=3)
    with torch.inference_mode():
        assert_same(expected, generate(model, ids, num_beams=3))

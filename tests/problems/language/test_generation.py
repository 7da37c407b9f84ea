"""``generate()``: the same with and without a cache, alone and in a batch, whatever the decoding method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hub_toys import ANCHORS, CONDITIONINGS, PAD, make_ebt, make_ids, make_twin, pad_left
from torch import Tensor
from transformers import CompileConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation.streamers import BaseStreamer

from ebt.errors import InputError
from ebt.problems.language.base import LanguageModel
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.tokenizers import byte_tokenizer

NEW = 4
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
    assert lengths == [7] + [1] * (NEW - 1)
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
        for end in range(7, 7 + NEW)
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


SAMPLE = {"do_sample": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "stop_strings": {"stop_strings": ["e"], "tokenizer": byte_tokenizer()},
    "token_healing": {"token_healing": True, "tokenizer": byte_tokenizer()},
    "early_stopping": {"num_beams": 2, "early_stopping": True},
    "length_penalty": {"num_beams": 2, "length_penalty": 0.5},
    "beam sampling": {"num_beams": 2, **SAMPLE},
    "guidance_scale": {"guidance_scale": 1.5},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "repetition_penalty": {"repetition_penalty": 1.2},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.2},
    "min_length": {"min_length": 9},
    "min_new_tokens": {"min_new_tokens": 3},
    "max_time": {"max_time": 60.0},
    "bad_words_ids": {"bad_words_ids": [[3]]},
    "sequence_bias": {"sequence_bias": [[[3], 1.0]]},
    "forced_bos_token_id": {"forced_bos_token_id": 3},
    "forced_eos_token_id": {"forced_eos_token_id": 3},
    "suppress_tokens": {"suppress_tokens": [3]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [3]},
    "remove_invalid_values": {"remove_invalid_values": True},
    "renormalize_logits": {"renormalize_logits": True},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (2, 1.1), "eos_token_id": 3},
    "watermarking_config": {"watermarking_config": {"bias": 2.5, "seeding_scheme": "selfhash"}},
    **{
        name: {**SAMPLE, name: value}
        for name, value in (
            *(("temperature", 0.5), ("top_k", 3), ("top_p", 0.5), ("min_p", 0.1), ("typical_p", 0.9)),
            *(("epsilon_cutoff", 1e-3), ("eta_cutoff", 1e-3), ("top_h", 0.5)),
        )
    },
    "cache_implementation": {"cache_implementation": "dynamic"},
    "output_scores": {"output_scores": True},
    "output_hidden_states": {"output_hidden_states": True},
    "compile_config": {"compile_config": CompileConfig(), "disable_compile": True},
    "position_ids": {"position_ids": torch.arange(7)[None]},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": lambda row, ids: [3, 4]},
    "logits_processor": {"logits_processor": [lambda ids, scores: scores.flip(-1)]},
    "stopping_criteria": {"stopping_criteria": [lambda ids, scores, **_: torch.ones(len(ids), dtype=torch.bool)]},
}


SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


class Scripted(LlamaForCausalLM):
    """A Llama that says what another model says: what ``generate`` makes of the same logits."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(LlamaConfig(vocab_size=len(model.embedding.weight), eos_token_id=None, **SMALL))
        self.script = [model]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
        return type(self.script[0](input_ids))(logits=self.script[0](input_ids, attention_mask).logits)


@pytest.mark.parametrize("make", [make_ebt, make_twin])
@pytest.mark.parametrize("option", OPTIONS)
def test_standard_options_do_what_they_do_to_a_llama(option: str, make: Any) -> None:
    model, ids = make(257), make_ids(1) + 96
    found = generate(model, ids, **OPTIONS[option])
    expected = generate(Scripted(model), ids, use_cache=False, **OPTIONS[option])
    assert torch.equal(found.sequences, expected.sequences)
    if option == "output_hidden_states":
        assert [states[-1].shape for states in found.hidden_states] == [(1, 7, 16)] + [(1, 1, 16)] * (NEW - 1)


@pytest.mark.parametrize("make", [make_ebt, make_twin])
@pytest.mark.parametrize(
    ("named", "options"),
    [
        ("output_attentions", {"output_attentions": True}),
        ("static cache", {"cache_implementation": "static"}),
        ("paged", {"cache_implementation": "paged"}),
        ("assistant_early_exit", {"assistant_early_exit": 1}),
        ("position_ids", {"position_ids": torch.arange(3, 10)[None]}),
        ("prompt_lookup_num_tokens", {"prompt_lookup_num_tokens": 2, "max_new_tokens": 40}),
        ("prefill_chunk_size", {"prefill_chunk_size": 8, "input_ids": make_ids(1, 40)}),
    ],
)
def test_other_options_are_refused_by_name(named: str, options: dict[str, Any], make: Any) -> None:
    with pytest.raises(InputError, match=named):
        make().generate(**{"input_ids": make_ids(1), "max_new_tokens": 3, "pad_token_id": PAD, **options})


@pytest.mark.parametrize(
    ("option", "value"), [("rule", "foo"), ("steps", 2.5), ("steps", "3"), ("candidates", 0), ("noise", -1.0), ("seed", None)]
)
def test_thinking_options_are_checked(option: str, value: Any) -> None:
    model, ids = make_ebt(), make_ids()
    if value is None:  # as the model's
        assert torch.equal(model.generate(ids, max_new_tokens=2, **{option: value}), model.generate(ids, max_new_tokens=2))
        return
    with pytest.raises(InputError, match=option):
        model.generate(ids, max_new_tokens=2, **{option: value})


@pytest.mark.parametrize("make", [make_ebt, make_twin])
def test_assistants_may_be_of_any_kind(make: Any) -> None:
    """Speculation changes nothing, and a Llama hands its position_ids to its assistant."""
    model, ids = make(), make_ids(1)
    greedy = generate(model, ids)
    for assistant in (make_ebt(seed=1), make_twin()):
        assert_same(greedy, generate(model, ids, assistant_model=assistant))
        if make is make_ebt:
            assert_same(generate(model, ids, steps=1), generate(model, ids, steps=1, assistant_model=assistant))
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=23, **SMALL)).double().eval()
    assert torch.equal(generate(llama, ids).sequences, generate(llama, ids, assistant_model=model).sequences)


@pytest.mark.parametrize("make", [make_ebt, make_twin])
def test_embeddings_may_stand_for_the_prompt(make: Any) -> None:
    model, ids = make(), make_ids()
    embedded = generate(model, None, inputs_embeds=model.embedding(ids))
    assert torch.equal(embedded.sequences, generate(model, ids).sequences[:, 7:])
    with pytest.raises(InputError, match="inputs_embeds"):
        generate(model, None, inputs_embeds=model.embedding(ids), max_new_tokens=40)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 1, **SAMPLE, "top_k": 1}], ids=str)
@pytest.mark.parametrize("make", [make_ebt, make_twin])
def test_past_the_context_a_window_slides(make: Any, options: dict[str, Any]) -> None:
    model, limit = make(), 32
    prompts, mask = pad_left([make_ids(1, 20)[0], make_ids(1, 9, seed=1)[0]])
    with pytest.warns(UserWarning, match=f"contexts of {limit} tokens"):
        output = generate(model, prompts, attention_mask=mask, max_new_tokens=20, **options)
    whole = torch.nn.functional.pad(mask, (0, 20), value=1)
    for end in range(20, 40):
        seen = slice(max(0, end - limit), end)
        logits = model(output.sequences[:, seen], whole[:, seen], logits_to_keep=1).logits[:, -1]
        assert torch.equal(output.sequences[:, end], logits.argmax(-1))


@pytest.mark.filterwarnings("ignore:The model was trained on contexts")
def test_beams_slide_too_and_long_prompts_are_cut() -> None:
    model, ids = make_ebt(), make_ids(1, 45)
    assert generate(model, ids, num_beams=2).sequences.shape == (1, 45 + NEW)
    cut = generate(model, ids).sequences
    assert torch.equal(cut[:, 45], model(ids[:, -32:], logits_to_keep=1).logits[:, -1].argmax(-1))


def test_generate_works_behind_a_wrapper_that_prepares_inputs() -> None:
    """Adapters put their own ``prepare_inputs_for_generation``, of another signature, in the place of the model's."""
    model, ids = make_ebt(), make_ids()
    expected, own = generate(model, ids, steps=2), model.prepare_inputs_for_generation
    model.prepare_inputs_for_generation = lambda *args, **kwargs: own(*args, **kwargs)
    assert_same(expected, generate(model, ids, steps=2))

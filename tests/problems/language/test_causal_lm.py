"""The EBT's forward pass: shapes, caches, padding, candidates, losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hub_toys import ANCHORS, CONDITIONINGS, FORMS, WORDS, make_ebt, make_ids, make_twin, pad_left
from torch import Tensor, nn
from transformers import StaticCache

from ebt.errors import InputError
from ebt.models.thinking import SPACES, Thinking
from ebt.problems.language.ebt import EBTForCausalLM, EBTOutput

VARIANTS = [*CONDITIONINGS.values(), *ANCHORS.values(), *({"space": space} for space in SPACES)]


def assert_same(one: EBTOutput, other: EBTOutput) -> None:
    torch.testing.assert_close(one.logits, other.logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(one.energies, other.energies, rtol=0, atol=1e-10)


def tail(output: EBTOutput, count: int) -> EBTOutput:
    """The last positions of an output."""
    assert output.logits is not None
    assert output.energies is not None
    return EBTOutput(logits=output.logits[:, -count:], energies=output.energies[..., -count:])


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_shapes_and_reproducibility(config: dict[str, Any]) -> None:
    model, ids = make_ebt(**config), make_ids()
    output = model(ids, steps=4, candidates=3)
    assert output.logits.shape == (2, 7, WORDS)
    assert output.energies.shape == (5, 2, 7)
    assert (output.steps == 4).all()
    assert output.loss is None
    assert not output.logits.requires_grad
    assert_same(output, model(ids, steps=4, candidates=3))
    assert not torch.allclose(output.logits, model(ids, steps=4, candidates=3, seed=1).logits)


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_a_prediction_depends_on_its_prefix_alone(config: dict[str, Any]) -> None:
    model, ids = make_ebt(**config), make_ids()
    whole = model(ids, candidates=2)
    assert_same(tail(whole, 3), model(ids, candidates=2, logits_to_keep=3))
    assert_same(model(ids[:1, :4], candidates=2, logits_to_keep=1), EBTOutput(
        logits=whole.logits[:1, 3:4], energies=whole.energies[:, :1, 3:4]
    ))  # fmt: skip


@pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)
def test_a_cache_changes_nothing_and_holds_observed_tokens_only(config: dict[str, Any]) -> None:
    model, ids = make_ebt(**config), make_ids()
    first = model(ids[:, :4], use_cache=True, candidates=3)
    assert first.past_key_values.get_seq_length() == 4
    second = model(ids[:, 4:], past_key_values=first.past_key_values, candidates=3)
    assert_same(tail(model(ids, candidates=3), 3), second)
    assert second.past_key_values.get_seq_length() == 7
    assert second.past_key_values.layers[0].keys.shape[0] == 2


@pytest.mark.parametrize("config", CONDITIONINGS.values(), ids=CONDITIONINGS)
def test_padding_changes_nothing(config: dict[str, Any]) -> None:
    model, (long, short) = make_ebt(**config), (make_ids(1)[0], make_ids(1, 4, seed=1)[0])
    ids, mask = pad_left([long, short])
    left = model(ids, attention_mask=mask, candidates=2)
    alone = model(short.unsqueeze(0), candidates=2)
    assert_same(EBTOutput(logits=left.logits[1:, -4:], energies=left.energies[:, 1:, -4:]), alone)
    right = model(ids.flip(1)[:, [3, 2, 1, 0, 4, 5, 6]], attention_mask=mask.flip(1), candidates=2)
    assert_same(EBTOutput(logits=right.logits[1:, :4], energies=right.energies[:, 1:, :4]), alone)


@pytest.mark.parametrize(("rule", "pick"), [("lowest", torch.argmin), ("highest", torch.argmax)])
def test_one_candidate_per_token_wins(rule: Any, pick: Any) -> None:
    model, ids = make_ebt(), make_ids()
    thought = model.think(ids, candidates=4).candidates
    energies, states = thought.energies[-1].view(4, 2, 7), thought.state.unflatten(0, (4, 2))
    output = model(ids, candidates=4, rule=rule)
    winner = pick(energies, dim=0)
    assert len(winner.unique()) > 1
    for b in range(2):
        for s in range(7):
            torch.testing.assert_close(output.energies[-1, b, s], energies[winner[b, s], b, s])
            torch.testing.assert_close(output.logits[b, s], model.geometry().logits(states[winner[b, s], b, s]))
    gain = model(ids, candidates=6, rule=rule).energies[-1] - output.energies[-1]
    assert (gain if rule == "lowest" else -gain).max() < 1e-5  # another number of rows rounds otherwise


@pytest.mark.parametrize("first", [1, 2, 9])
def test_the_mean_of_all_that_was_thought_on_request(first: int) -> None:
    model, ids = make_ebt(mean_from=first), make_ids()
    thought, output = model.think(ids, steps=3, candidates=4).candidates, model(ids, steps=3, candidates=4, rule="mean")
    counted = thought.states[first - 1 :] or thought.states[-1:]
    p = torch.stack([model.geometry().logits(state).softmax(-1).unflatten(0, (4, 2)).mean(0) for state in counted]).mean(0)
    torch.testing.assert_close(output.logits.exp(), p)
    assert torch.equal(output.energies, model(ids, steps=3, candidates=4).energies)
    explored = model.explore(ids, [3], [4], rule="mean").at(3, 4)
    assert torch.equal(explored.energy[-1], output.energies[-1])


def test_energies_are_those_of_the_states() -> None:
    model, ids = make_ebt(**CONDITIONINGS["candidate"]), make_ids()
    thought, landscape, geometry = model.think(ids, steps=3, candidates=2).candidates, model.landscape(ids), model.geometry()
    for step, state in enumerate((thought.start, *thought.states[:2])):
        torch.testing.assert_close(thought.energies[step], landscape(geometry.view(state), step).detach())
    torch.testing.assert_close(thought.energies[3], landscape(geometry.view(thought.state), 2).detach())


def test_tokens_stop_on_their_own() -> None:
    model, ids = make_ebt(), make_ids(3, 9)
    model.step_size.log_scale.data.fill_(-1.0)
    full = model(ids, steps=8, candidates=2)
    assert_same(full, model(ids, steps=8, candidates=2, tolerance=0.0))
    some = model(ids, steps=8, candidates=2, tolerance=0.1)
    assert len(some.steps.unique()) > 1
    assert some.steps.max() <= 8
    assert some.energies.shape[1:] == (3, 9)
    assert (model(ids, steps=8, tolerance=1.0).steps == 1).all()


def test_a_generator_draws_starts_and_noise() -> None:
    model, ids = make_ebt(), make_ids(1).repeat(2, 1)
    one, same, other = (
        model(ids, noise=0.1, candidates=2, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert_same(one, same)
    assert not torch.allclose(one.logits, other.logits)
    assert not torch.allclose(one.logits[0], one.logits[1])
    torch.testing.assert_close(*model(ids).logits)  # without one, rows start alike


def test_loss_is_the_cross_entropy_of_the_next_tokens() -> None:
    for model in (make_ebt(), make_twin()):
        ids = make_ids()
        labels = ids.clone()
        labels[0, :3] = -100
        output = model(ids, labels=labels)
        nats = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
        scored = labels[:, 1:].flatten() != -100
        torch.testing.assert_close(output.loss, nats[scored].mean())
        torch.testing.assert_close(model(ids, labels=labels, num_items_in_batch=5).loss, nats[scored].sum() / 5)
        assert model(ids, labels=torch.full_like(ids, -100)).loss == 0


def test_inference_mode_works() -> None:
    model, ids = make_ebt(), make_ids()
    expected = model(ids, candidates=2)
    with torch.inference_mode():
        inside = make_ids()
        mask = torch.ones(2, 9, dtype=torch.bool)
        output = model(inside, mask[:, :7], candidates=2, use_cache=True)
        output.past_key_values.reorder_cache(torch.tensor([1, 0]))
        model(inside[:, :2], mask, past_key_values=output.past_key_values)
    assert_same(expected, output)


def test_tuples_on_request() -> None:
    output = make_ebt()(make_ids(), labels=make_ids(), return_dict=False)
    assert [tensor.dim() for tensor in output] == [0, 3, 3, 2]


@pytest.mark.parametrize("config", CONDITIONINGS.values(), ids=CONDITIONINGS)
def test_fresh_models_start_flat(config: dict[str, Any]) -> None:
    model = EBTForCausalLM(make_ebt(**config).config)
    loss = model.eval()(make_ids(), labels=make_ids()).loss
    torch.testing.assert_close(loss, torch.tensor(float(WORDS)).log(), check_dtype=False)


def test_bad_input_is_named() -> None:
    model, twin, ids = make_ebt(), make_twin(), make_ids()
    with pytest.raises(InputError, match="steps is 0"):
        model(ids, steps=0)
    with pytest.raises(InputError, match="candidates is 0"):
        model.think(ids, candidates=0)
    with pytest.raises(ValueError, match="rule is 'best': choose one of"):
        model(ids, rule="best")
    with pytest.raises(InputError, match="mean_from is 0"):
        make_ebt(mean_from=0)
    for any_model in (model, twin):
        with pytest.raises(InputError, match=r"attention_mask has shape \(2, 6\).*\(2, 7\)"):
            any_model(ids, attention_mask=torch.ones(2, 6))
        with pytest.raises(InputError, match="static cache"):
            any_model(ids, past_key_values=StaticCache(config=any_model.config, max_cache_len=16))
        with pytest.raises(InputError, match="vocabulary of this model is fixed"):
            any_model.resize_token_embeddings(30)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([[1, 2]], "input_ids is list"),
        (torch.ones(2, 3), r"input_ids is a torch.float32 tensor of shape \(2, 3\)"),
        (torch.ones(3, dtype=torch.long), r"input_ids is .*\(3,\)"),
        (torch.ones(0, 3, dtype=torch.long), r"input_ids is .*\(0, 3\)"),
        (torch.ones(2, 0, dtype=torch.long), r"input_ids is .*\(2, 0\)"),
        (torch.tensor([[1, 23]]), "token 23 is not in the vocabulary"),
        (torch.tensor([[1, -100]]), "token -100 is not in the vocabulary"),
    ],
)
def test_what_is_no_text_is_named(given: Any, named: str) -> None:
    for model in (make_ebt(), make_twin()):
        with pytest.raises(InputError, match=named):
            model(given)
    with pytest.raises(InputError, match=named.replace("input_ids", "context")):
        make_ebt().think(given)


@pytest.mark.parametrize("make", [make_ebt, make_twin])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"logits_to_keep": 8}, "logits_to_keep is 8"),
        ({"logits_to_keep": -1}, "logits_to_keep is -1"),
        ({"logits_to_keep": torch.tensor([0, 2])}, "logits_to_keep is tensor"),
        ({"labels": torch.ones(2, 4, dtype=torch.long)}, r"labels have shape \(2, 4\)"),
    ],
)
def test_labels_and_kept_positions_match_the_tokens(make: Any, options: dict[str, Any], named: str) -> None:
    for model in (make(), make().train()):
        with pytest.raises(InputError, match=named):
            model(make_ids(), **options)


@pytest.mark.parametrize("thinking", [{"steps": 2}, "fast", Thinking])
def test_thinking_is_a_value_of_its_class(thinking: Any) -> None:
    model = make_ebt()
    with pytest.raises(InputError, match="thinking is"):
        model(make_ids(), thinking=thinking)
    with pytest.raises(InputError, match="thinking is"):
        model.think(make_ids(), thinking)
    with pytest.raises(InputError, match="thinking is"):
        model.thinking = thinking


def test_a_generator_is_no_seed() -> None:
    with pytest.raises(ValueError, match="generator is 0"):
        make_ebt().think(make_ids(), generator=0)


def test_embeddings_are_found_and_not_tied() -> None:
    for model in (make_ebt(), make_twin()):
        assert model.get_input_embeddings() is model.embedding
        model.tie_weights()
        storages = [parameter.data_ptr() for parameter in model.parameters()]
        assert len(set(storages)) == len(storages)


MAKERS = [make_ebt, make_twin]


@pytest.mark.parametrize("make", MAKERS)
def test_arguments_of_other_models_that_ask_for_nothing_are_let_pass(make: Any) -> None:
    """The call that adapters of PEFT make."""
    model, ids = make(), make_ids()
    nothing = dict.fromkeys(("inputs_embeds", "output_attentions", "output_hidden_states", "return_dict", "position_ids"))
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, **nothing)
    torch.testing.assert_close(output.loss, model(ids, labels=ids).loss)


class Adapted(nn.Module):
    """A linear layer with a low-rank update, as PEFT puts it in the place of the layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(2, base.out_features, bias=False, dtype=base.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("make", [*MAKERS, lambda: make_ebt(conditioning="modulation", head="linear")])
def test_every_linear_layer_but_the_output_takes_an_adapter(make: Any) -> None:
    """``target_modules="all-linear"`` leaves out the output embeddings."""
    model, ids = make(), make_ids()
    output = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not output and not isinstance(module, Adapted):
                setattr(module, name, Adapted(child))
    adapted = [module for module in model.modules() if isinstance(module, Adapted)]
    model.train()(ids, labels=ids).loss.backward()
    assert len(adapted) >= 12
    assert all(layer.up.weight.grad.any() for layer in adapted)


@pytest.mark.parametrize("make", MAKERS)
def test_embeddings_may_be_given(make: Any) -> None:
    model, ids = make(), make_ids()
    torch.testing.assert_close(model(inputs_embeds=model.embedding(ids)).logits, model(ids).logits)
    for given in ({}, {"input_ids": ids, "inputs_embeds": model.embedding(ids)}):
        with pytest.raises(InputError, match="input_ids or inputs_embeds"):
            model(**given)


@pytest.mark.parametrize("make", MAKERS)
def test_position_ids_are_those_of_the_mask(make: Any) -> None:
    model, (ids, mask) = make(), pad_left([make_ids(1)[0], make_ids(1, 4, seed=1)[0]])
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    torch.testing.assert_close(model(ids, mask, position_ids=positions).logits, model(ids, mask).logits)
    with pytest.raises(InputError, match="position_ids"):
        model(ids, mask, position_ids=positions + 1)


@pytest.mark.parametrize("make", [*MAKERS, lambda: make_ebt(**CONDITIONINGS["candidate"])])
def test_hidden_states_are_the_observed_stream(make: Any) -> None:
    model, ids = make(), make_ids()
    assert model(ids).hidden_states is None
    states = model(ids, output_hidden_states=True).hidden_states
    assert [state.shape for state in states] == [(2, 7, 16)] * 3
    torch.testing.assert_close(states[0], model.embedding(ids) * getattr(model.network, "scale", 1.0))
    if hasattr(model, "head"):
        torch.testing.assert_close(model.head(model.network.norm(states[-1])), model(ids).logits)
    else:
        anchor = model.landscape(ids)._context(0).anchor
        torch.testing.assert_close(F.rms_norm(states[-1], (16,), eps=model.config.norm_eps), anchor)
    begun = model(ids[:, :4], use_cache=True).past_key_values
    later = model(ids[:, 4:], past_key_values=begun, output_hidden_states=True).hidden_states
    for one, other in zip(later, states, strict=True):
        torch.testing.assert_close(one, other[:, 4:])
    assert begun.get_seq_length() == 7
    with pytest.raises(InputError, match="output_hidden_states"):
        make_ebt(**CONDITIONINGS["prefix"])(ids, output_hidden_states=True)


@pytest.mark.parametrize("make", MAKERS)
def test_what_cannot_be_served_is_one_clear_line(make: Any) -> None:
    model = make()
    with pytest.raises(InputError, match="output_attentions"):
        model(make_ids(), output_attentions=True)
    model.set_attn_implementation("sdpa")
    with pytest.raises(InputError, match="flash_attention_2"):
        type(model)._from_config(model.config, attn_implementation="flash_attention_2")


@pytest.mark.parametrize(
    "options", [{}, {"candidates": 3}, {"rule": "mean", "candidates": 2}, {"noise": 0.1, "candidates": 2}], ids=str
)
@pytest.mark.parametrize("space", ["compact-restart", "mirror", "restart"])
def test_logits_are_differentiable_on_request(space: str, options: dict[str, Any]) -> None:
    """Full gradients through the thinking, against finite differences."""
    std = 0.0 if space.startswith("compact") else 1.0  # compact starts are drawn to the table's scale, and are constants
    model, ids = make_ebt(space=space, start_std=std), make_ids()
    weights = torch.randn(2, 3, WORDS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value(**more: Any) -> Tensor:
        return (model(ids, logits_to_keep=3, steps=3, **options, **more).logits.softmax(-1) * weights).sum()

    torch.testing.assert_close(value(differentiable=True), value())
    value(differentiable=True).backward()
    torch.manual_seed(0)
    along = {name: torch.randn_like(p) for name, p in model.named_parameters() if p.grad is not None}
    expected = sum((p.grad * along[name]).sum() for name, p in model.named_parameters() if name in along)
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p += sign * 1e-6 * along.get(name, torch.zeros(()))
        values.append(value().item())
    assert len(along) > 10
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(expected.item(), rel=1e-4)


def test_training_mode_without_labels_is_differentiable() -> None:
    model, ids = make_ebt(), make_ids()
    assert not model(ids, labels=ids).loss.requires_grad
    assert model(ids, labels=ids, differentiable=True).loss.requires_grad
    model.train()
    assert model(ids).logits.requires_grad
    assert not model(ids, differentiable=False).logits.requires_grad
    with torch.no_grad():
        assert not model(ids).logits.requires_grad
    with pytest.raises(InputError, match="tolerance"):
        model(ids, tolerance=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_model_that_its_user_compiles_trains_and_thinks_as_before() -> None:
    model, ids = make_ebt(), make_ids()
    compiled = torch.compile(model, backend="aot_eager")

    def gradients(forward: Any, **options: Any) -> dict[str, Tensor]:
        model.zero_grad()
        output = forward(ids, **options)
        (output.logits.logsumexp(-1).sum() if output.loss is None else output.loss).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    assert_same(compiled(ids), model(ids))
    model.train()
    for options in ({"labels": ids, "generator": torch.Generator().manual_seed(0)}, {}):
        expected = gradients(model, **options)
        if "generator" in options:
            options["generator"].manual_seed(0)
        found = gradients(compiled, **options)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient)

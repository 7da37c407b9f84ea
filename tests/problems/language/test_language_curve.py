from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_models import language_ebt, language_twin, starts
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.results import Curve
from ebt.problems.language.metrics import language_curve
from ebt.thinking import descend

WORDS, LENGTH = 11, 9
STEPS, CANDIDATES = [1, 2, 5], [1, 3]
SPACES: dict[str, dict[str, Any]] = {
    "compact-restart": {},
    "mirror": {"space": "mirror"},
    "step told to the candidates": {"conditioning": "candidate", "conditioned_steps": 3},
    "step in front": {"conditioning": "prefix", "conditioned_steps": 2},
}


def batch(rows: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Random tokens; every row has another number of scored ones."""
    ids = torch.randint(0, WORDS, (rows, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    targets = ids[:, 1:].clone()
    targets[torch.arange(LENGTH) >= LENGTH - torch.arange(rows).unsqueeze(1)] = -100
    return {"input_ids": ids[:, :-1], "targets": targets}


def by_hand(model: Any, data: dict[str, Tensor], start: Tensor, steps: int) -> dict[str, float]:
    """A descent of exactly these steps; the winners, their losses and energies in plain words."""
    geometry, scored = model.geometry(), data["targets"] != -100
    how = {"geometry": geometry, "update": model.update(), "step_size": model.step_size()}
    thought = descend(model.landscape(data["input_ids"]), start, steps=steps, **how)
    rows, energies = len(data["input_ids"]), thought.energies[-1].unflatten(0, (-1, len(data["input_ids"])))
    winner = energies.argmin(0)
    row, position = torch.meshgrid(torch.arange(rows), torch.arange(LENGTH), indexing="ij")
    state = thought.state.unflatten(0, (-1, rows))[winner, row, position]
    log_p = geometry.logits(state).log_softmax(-1)
    loss = -log_p.gather(-1, data["targets"].clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return {
        "nats": loss[scored].mean().item(),
        "energy": energies.amin(0)[scored].mean().item(),
        "accuracy": (log_p.argmax(-1) == data["targets"])[scored].double().mean().item(),
        "objective": model.update().objective(geometry, energies.amin(0), state, model.step_size())[scored].mean().item(),
    }


@pytest.mark.parametrize("config", SPACES.values(), ids=SPACES)
def test_one_descent_gives_what_a_separate_one_for_each_number_of_steps_gives(config: dict[str, Any]) -> None:
    model, data = language_ebt(WORDS, **config), batch()
    model.network.head.projection.weight.data *= 0.1  # steeper energies would blow up the rounding of differently large batches
    curve = language_curve(model, [data], STEPS, CANDIDATES, seed=3)
    with torch.no_grad():
        start = starts(model, (4, LENGTH), max(CANDIDATES), 3)
        for steps in STEPS:
            for count in CANDIDATES:
                point, expected = curve.at(steps, count), by_hand(model, data, start[: count * 4], steps)
                assert {name: getattr(point, name) for name in expected} == pytest.approx(expected, rel=1e-9)
                assert point.perplexity == pytest.approx(math.exp(expected["nats"]))
    assert [(p.steps, p.candidates) for p in curve.points] == [(s, m) for s in STEPS for m in CANDIDATES]


@pytest.mark.parametrize("config", SPACES.values(), ids=SPACES)
def test_the_mean_of_all_that_was_thought(config: dict[str, Any]) -> None:
    model, data, rows = language_ebt(WORDS, mean_from=2, **config), batch(), 4
    curve, plain = (language_curve(model, [data], STEPS, CANDIDATES, rule=rule, seed=3) for rule in ("mean", "lowest"))
    geometry, scored = model.geometry(), data["targets"] != -100
    thought = model.think(data["input_ids"], steps=max(STEPS), candidates=max(CANDIDATES), seed=3).candidates
    for steps in STEPS:
        for count in CANDIDATES:
            counted = [state[: count * rows] for state in thought.states[min(1, steps - 1) : steps]]
            p = torch.stack([geometry.logits(state).softmax(-1).unflatten(0, (count, rows)).mean(0) for state in counted]).mean(
                0
            )
            loss = -p.log().gather(-1, data["targets"].clamp(min=0).unsqueeze(-1)).squeeze(-1)[scored].mean().item()
            point, other = curve.at(steps, count), plain.at(steps, count)
            assert point.nats == pytest.approx(loss, rel=1e-9)
            assert point.accuracy == pytest.approx((p.argmax(-1) == data["targets"])[scored].double().mean().item())
            assert (point.energy, point.forward, point.backward) == (other.energy, other.forward, other.backward)
    assert curve.at(1, 1).nats == pytest.approx(plain.at(1, 1).nats)
    assert curve.rule == "mean"


def test_a_batch_is_thought_about_once() -> None:
    model, encoded = language_ebt(WORDS), []
    landscape = model.landscape
    model.landscape = lambda *inputs: encoded.append(len(inputs[0])) or landscape(*inputs)  # type: ignore[method-assign]
    language_curve(model, [batch(4), batch(3)], STEPS, CANDIDATES)
    assert encoded == [4, 3]


def test_every_token_counts_alike_whatever_its_batch() -> None:
    """Not the mean of batch means: the batches hold different numbers of scored tokens."""
    model = language_ebt(WORDS, start_std=0.0)
    data, seen = batch(6), []
    parts = [{name: rows[i:j] for name, rows in data.items()} for i, j in ((0, 1), (1, 6))]
    together = language_curve(model, [data], [2])
    apart = language_curve(model, parts, [2], progress=lambda done, total: seen.append(done))
    assert apart.points[0].nats == pytest.approx(together.points[0].nats, rel=1e-9)
    assert apart.points[0].nats_error == pytest.approx(together.points[0].nats_error, rel=1e-9)
    assert (apart.rows, apart.scored, seen) == (6, int((data["targets"] != -100).sum()), [1, 6])


def test_the_standard_error_is_that_of_equal_rows() -> None:
    model = language_ebt(WORDS, start_std=0.0)
    data = batch(5)
    data["targets"] = data["input_ids"].roll(-1, 1)
    rows = [language_curve(model, [{k: v[i : i + 1] for k, v in data.items()}], [2]).points[0].nats for i in range(5)]
    error = torch.tensor(rows).double().std().item() / math.sqrt(5)
    assert language_curve(model, [data], [2]).points[0].nats_error == pytest.approx(error, rel=1e-6)


def test_the_feed_forward_twin_is_one_point() -> None:
    model, data = language_twin(WORDS), batch()
    curve = language_curve(model, [data, batch(2, seed=1)], STEPS, CANDIDATES)
    losses = []
    for each in (data, batch(2, seed=1)):
        log_p = model(input_ids=each["input_ids"]).logits.log_softmax(-1)
        losses += [-log_p[r, s, t] for r, row in enumerate(each["targets"]) for s, t in enumerate(row) if t != -100]
    (point,) = curve.points
    assert point.nats == pytest.approx(torch.stack(losses).mean().item(), rel=1e-9)
    assert (curve.kind, point.forward, point.backward, point.energy, curve.rule) == ("feed-forward", 1.0, 0.0, None, None)


def test_evaluations_are_counted_for_all_candidates() -> None:
    curve = language_curve(language_ebt(WORDS), [batch()], [4], [1, 3])
    assert [(p.forward, p.backward) for p in curve.points] == [(4, 4), (3 * (4 + 1), 3 * 4)]


def test_alarms_show_in_the_result() -> None:
    model = language_ebt(WORDS, start_std=0.0)
    torch.nn.init.zeros_(model.network.head.projection.weight)
    (alarm,) = language_curve(model, [batch()], [1, 3]).alarms
    assert "thinking changes nothing" in alarm


def test_the_seed_decides_the_starts() -> None:
    def nats(seed: int) -> float:
        return language_curve(language_ebt(WORDS), [batch()], [1], seed=seed).points[0].nats

    assert nats(1) == nats(1) != nats(2)


def test_the_best_point_has_the_fewest_nats() -> None:
    curve: Curve[Any] = language_curve(language_ebt(WORDS), [batch()], STEPS, CANDIDATES)
    assert curve.best().nats == min(point.nats for point in curve.points)


@pytest.mark.parametrize(
    ("steps", "candidates", "named"), [([], [1], "steps"), ([0, 1], [1], "steps"), ([1], [0], "candidates")]
)
def test_numbers_below_one_are_refused(steps: list[int], candidates: list[int], named: str) -> None:
    with pytest.raises(InputError, match=f"{named} is .*at least 1"):
        language_curve(language_ebt(WORDS), [batch()], steps, candidates)


def test_batches_without_a_scored_token_are_refused() -> None:
    data = batch()
    data["targets"][:] = -100
    for batches in ([], [data]):
        with pytest.raises(InputError, match="nothing to score"):
            language_curve(language_ebt(WORDS), batches, [1])

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import (
    NETWORKS,
    WIDTH,
    WORDS,
    Space,
    Waves,
    make_network,
    make_simplex,
    make_space,
    make_table,
    normal,
    seeded,
)

from ebt.models.thinking import Thinking, think
from ebt.thinking import Euclidean, Evaluations, Gradient, Rule, Thought, choose, judge, mean, revisit

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("name", ["compact-restart", "reference", "euclidean"])
@pytest.mark.parametrize(("kind", "variant"), NETWORKS)
def test_many_candidates_are_as_many_single_runs(kind: str, variant: str, name: str) -> None:
    rows, parts, candidates = 2, 4, 3
    x, extra = normal(rows, parts, WIDTH, seed=1), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])  # padding, or given parts
    landscape = make_network(kind, variant).encode(x, extra.bool())
    space = make_space(name, make_table(), 2 if kind == "decoder" else 1)
    starts = space.start((candidates * rows, parts), source=seeded(0))
    together = space.descend(landscape, starts, 1.0, 3, final_energy=True)
    for m, start in enumerate(starts.unflatten(0, (candidates, rows))):
        alone = space.descend(landscape, start, 1.0, 3, final_energy=True)
        own = slice(m * rows, (m + 1) * rows)
        torch.testing.assert_close(together.state[own], alone.state)
        torch.testing.assert_close(together.energies[:, own], alone.energies)


@st.composite
def records(draw: st.DrawFn) -> tuple[Thought, int, Space]:
    """A record with M candidates of B rows with P parts, all energies different."""
    m, b, p, t = (draw(st.integers(1, high)) for high in (5, 3, 3, 3))
    seed, dims = draw(st.integers(0, 2**20)), draw(st.sampled_from([1, 2]))
    words = draw(st.integers(2, 3))  # few, so that votes tie
    states = tuple(normal(m * b, p, words, seed=seed + i) for i in range(t))
    space = make_simplex("mirror", make_table(words=words), dims)
    thought = Thought(
        geometry=space.geometry,
        update=space.update,
        start=normal(m * b, p, words, seed=seed + 10),
        states=states,
        energies=normal(t + 1, m * b, p, seed=seed + 11),
        steps=torch.randint(1, t + 1, (m * b, p)[:dims], generator=seeded(seed)),
        step_size=draw(st.sampled_from([torch.tensor(2.0), normal(*(m * b, p)[:dims], *[1] * (3 - dims), seed=seed)])),
        evaluations=Evaluations(t + 1, t),
        final_energy=True,
        decided=normal(m * b, p, seed=seed + 12),
    )
    return thought, m, space


def plain_winner(
    rule: str,
    first: list[float],
    last: list[float],
    answers: list[tuple[int, ...]],
    moved: list[float],
    decided: list[float],
) -> int:
    """Which candidate of one prediction wins."""
    everyone = range(len(last))
    if rule == "decided":
        return min(everyone, key=lambda m: decided[m])
    if rule == "lowest":
        return min(everyone, key=lambda m: last[m])
    if rule == "highest":
        return max(everyone, key=lambda m: last[m])
    if rule == "largest_drop":
        return max(everyone, key=lambda m: first[m] - last[m])
    if rule == "settled":
        return min(everyone, key=lambda m: moved[m])
    votes = Counter(answers)
    return min(everyone, key=lambda m: (-votes[answers[m]], last[m]))


def last_move(thought: Thought, row: int, group: list[int], step: int) -> float:
    """Total variation distance of a prediction's last update, the largest of its parts."""
    after, before = thought.states[step - 1], thought.states[step - 2] if step > 1 else thought.start
    return max((after[row, p].softmax(-1) - before[row, p].softmax(-1)).abs().sum().item() / 2 for p in group)


def same(found: Tensor, expected: Tensor) -> None:
    assert torch.equal(found, expected)


@pytest.mark.parametrize("rule", ["lowest", "highest", "largest_drop", "settled", "decided", "majority"])
@given(record=records())
def test_the_winner_is_that_of_a_plain_loop(rule: str, record: tuple[Thought, int, Space]) -> None:
    thought, candidates, space = record
    rows, parts = thought.energies.shape[1] // candidates, thought.energies.shape[2]
    chosen = choose(thought, candidates, rule)
    assert chosen.winner is not None
    for b in range(rows):
        groups = [[i] for i in range(parts)] if space.prediction_dims == 2 else [list(range(parts))]
        for group in groups:
            mine = [m * rows + b for m in range(candidates)]
            first, last = (thought.energies[i][mine][:, group].sum(1).tolist() for i in (0, -1))
            answers = [tuple(thought.state[row, group].argmax(-1).tolist()) for row in mine]
            place = (b, group[0]) if space.prediction_dims == 2 else (b,)
            moved = [last_move(thought, row, group, int(thought.steps[(row, *place[1:])])) for row in mine]
            assert thought.decided is not None
            decided = thought.decided[mine][:, group].sum(1).tolist()
            winner = plain_winner(rule, first, last, answers, moved, decided)
            assert chosen.winner[place] == winner
            row = mine[winner]
            same(chosen.start[b, group], thought.start[row, group])
            for found, state in zip(chosen.states, thought.states, strict=True):
                same(found[b, group], state[row, group])
            same(chosen.energies[:, b, group], thought.energies[:, row, group])
            same(chosen.steps[place], thought.steps[(row, *place[1:])])
            if thought.step_size.dim():
                same(chosen.step_size[place], thought.step_size[(row, *place[1:])])
    assert chosen.evaluations == Evaluations(*(candidates * n for n in (len(thought.states) + 1, len(thought.states))))


@given(record=records(), first=st.integers(1, 4))
def test_the_mean_is_that_of_all_probabilities(record: tuple[Thought, int, Space], first: int) -> None:
    thought, candidates, space = record
    found = mean(thought, candidates, first)
    counted = thought.states[first - 1 :] or thought.states[-1:]
    rows = len(thought.start) // candidates
    for b in range(rows):
        plain = torch.stack([state[m * rows + b].softmax(-1) for state in counted for m in range(candidates)]).mean(0)
        torch.testing.assert_close(found[b].exp(), plain)
    target = torch.zeros(found.shape[:2], dtype=torch.long)
    losses = [space.loss(state, target.repeat(candidates, 1)).unflatten(0, (candidates, -1)).mean(0) for state in counted]
    assert (-found[..., 0] <= torch.stack(losses).mean(0) + 1e-9).all()  # Jensen's inequality


def a_thought(**settings: object) -> tuple[Thought, Space]:
    space = make_simplex("compact-restart", make_table())
    settings = {"steps": 2, "final_energy": True, **settings}
    return space.descend(Waves(2, 3), space.start((4, 3), source=seeded(0)), 1.0, **settings), space


@pytest.mark.parametrize("settings", [{}, {"steps": 1}, {"keep_path": False}])
def test_the_energy_of_the_final_state_must_be_there(settings: dict[str, object]) -> None:
    thought, _ = a_thought(**settings, final_energy=False)
    with pytest.raises(ValueError, match="energy of the final state is missing: think with final_energy=True"):
        choose(thought, 2)
    thought, _ = a_thought(**settings)
    assert choose(thought, 2).state.shape == (2, 3, WIDTH)


def test_bad_input_is_named() -> None:
    thought, _ = a_thought()
    with pytest.raises(ValueError, match="4 rows cannot be 3 candidates each"):
        choose(thought, 3)
    with pytest.raises(ValueError, match="4 rows cannot be 0 candidates each"):
        choose(thought, 0)
    with pytest.raises(
        ValueError, match="rule is 'best': choose one of lowest, highest, largest_drop, settled, decided, visited, majority"
    ):
        choose(thought, 2, "best")
    with pytest.raises(ValueError, match=r"rule is 'mean', .*: call ebt\.mean on the record"):
        choose(thought, 2, "mean")
    with pytest.raises(ValueError, match="choose a rule that needs none"):
        choose(replace(thought, geometry=Euclidean(2, (WIDTH,))), 2, "majority")
    with pytest.raises(ValueError, match="choose a rule that needs none"):
        judge(Waves(2, 3), replace(thought, geometry=Euclidean(2, (WIDTH,))))
    for rule, way in (("decided", "judge"), ("visited", "revisit")):
        with pytest.raises(ValueError, match=rf"call ebt\.thinking\.{way} on the record first"):
            choose(thought, 2, rule)
    with pytest.raises(ValueError, match="think with keep_path=True"):
        replace(thought, states=thought.states[-1:]).returned(thought.energies[1:])
    with pytest.raises(ValueError, match="think with keep_path=True"):
        choose(replace(thought, states=thought.states[-1:]), 2, "settled")


@pytest.mark.parametrize("name", ["mirror", "compact-restart"])
def test_answers_are_judged_without_their_probabilities(name: str) -> None:
    table = make_table()
    space, landscape = make_simplex(name, table), Waves(3, 4)
    thought = space.descend(landscape, space.start((2 * 3, 4), source=seeded(0)), 1.0, 2, final_energy=True)
    judged = judge(landscape, thought)
    assert judged.decided is not None
    words = space.geometry.decide(thought.state)
    torch.testing.assert_close(judged.decided, landscape(table[words], 1))
    assert judged.evaluations == replace(thought.evaluations, forward=thought.evaluations.forward + 1)
    chosen = choose(judged, 2, "decided")
    assert chosen.decided is not None
    lowest = space.geometry.per_prediction(judged.decided).unflatten(0, (2, -1)).amin(0)
    torch.testing.assert_close(space.geometry.per_prediction(chosen.decided), lowest)


@pytest.mark.parametrize("rule", ["decided", "visited", "majority"])
def test_vectors_have_no_discrete_answers(rule: Rule) -> None:
    def energy(view: Tensor) -> Tensor:
        raise AssertionError("thought before the rule was refused")

    with pytest.raises(ValueError, match=f"rule is '{rule}', but Euclidean has no discrete answers"):
        think(energy, Euclidean(1, (WIDTH,)), Gradient(), 1.0, Thinking(rule=rule), (2,))


@given(record=records())
def test_predictions_return_to_their_best_states(record: tuple[Thought, int, Space]) -> None:
    thought, _, space = record
    dims, (steps, rows, parts) = space.geometry.prediction_dims, thought.energies[1:].shape
    judged = normal(steps, rows, parts, seed=9)
    found = thought.returned(judged)
    assert found.decided is not None
    for row in range(rows):
        for group in [list(range(parts))] if dims == 1 else [[part] for part in range(parts)]:
            best = min(range(steps), key=lambda t: sum(judged[t, row, part].item() for part in group))
            where = row if dims == 1 else (row, group[0])
            assert found.steps[where] == min(best + 1, thought.steps[where])
            for part in group:
                same(found.decided[row, part], judged[best, row, part])
                for t in range(steps):
                    same(found.states[t][row, part], thought.states[min(t, best)][row, part])
                    same(found.energies[t + 1, row, part], thought.energies[min(t, best) + 1, row, part])


@pytest.mark.parametrize("name", ["mirror", "compact-restart"])
def test_all_states_on_the_way_are_judged(name: str) -> None:
    table = make_table()
    space, landscape = make_simplex(name, table), Waves(3, 4)
    thought = space.descend(landscape, space.start((2 * 3, 4), source=seeded(0)), 1.0, 3, final_energy=True)
    judged = torch.stack([landscape(table[space.geometry.decide(state)], i) for i, state in enumerate(thought.states)])
    found, expected = revisit(landscape, thought), thought.returned(judged)
    for part, other in ((found.state, expected.state), (found.decided, expected.decided), (found.steps, expected.steps)):
        torch.testing.assert_close(part, other)
    torch.testing.assert_close(found.energies[-1], landscape(space.geometry.view(found.state), 2))
    torch.testing.assert_close(found.energies[:-1], expected.energies[:-1])
    assert found.evaluations == replace(thought.evaluations, forward=thought.evaluations.forward + 3 + 1)
    chosen = choose(found, 2, "visited")
    assert chosen.decided is not None
    lowest = torch.stack([space.geometry.per_prediction(each) for each in judged]).unflatten(1, (2, -1)).amin((0, 1))
    torch.testing.assert_close(space.geometry.per_prediction(chosen.decided), lowest)
    with pytest.raises(ValueError, match="choose a rule that needs none"):
        revisit(landscape, replace(thought, geometry=Euclidean(2, (WIDTH,))))


def test_more_candidates_find_lower_energies() -> None:
    space, landscape = make_simplex("mirror", make_table()), Waves(3, 4)
    starts = space.start((8 * 3, 4), std=3.0, source=seeded(0))
    thought = space.descend(landscape, starts, 1.0, 2, final_energy=True)
    best = choose(thought, 8)
    assert (best.energies[-1] <= thought.energies[-1].unflatten(0, (8, 3))).all()
    assert best.start.shape == (3, 4, WORDS)

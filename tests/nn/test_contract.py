"""One contract for every candidate space with every network: what a task does with them, end to end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import (
    SIMPLEX,
    SPACES,
    WIDTH,
    Space,
    make_network,
    make_space,
    make_table,
    make_target,
    normal,
    seeded,
)

from ebt.evaluation.alarms import alarms
from ebt.thinking import (
    IGNORED,
    Energy,
    Recipe,
    StepSize,
    Supervised,
    Thought,
    choose,
    judge,
    revisit,
)

pytestmark = pytest.mark.usefixtures("float64")

ROWS, PARTS, STEPS, CANDIDATES = 2, 3, 2, 4
MODES: dict[str, dict[str, Any]] = {
    "detached": {"gradients": "detached"},
    "truncated": {"gradients": "truncated", "noise": 0.1, "step_size_spread": 2.0, "loss": "last"},
    "full": {"gradients": "full", "step_size_spread": 2.0},
}


@dataclass
class Pair:
    """A space with a network: the zero head, a context and a target."""

    name: str
    kind: str
    variant: str

    def __post_init__(self) -> None:
        self.network = make_network(self.kind, self.variant, head_std=0)
        self.table, self.step_size = make_table(), StepSize(1.0)
        self.x = nn.Parameter(normal(ROWS, PARTS, WIDTH, seed=1))
        self.space: Space = make_space(self.name, self.table, 2 if self.kind == "decoder" else 1)
        self.target = make_target(self.name, ROWS, PARTS)
        if self.name in SIMPLEX:
            self.target[0, 0] = IGNORED
        self.predictions = (ROWS, PARTS) if self.kind == "decoder" else (ROWS,)

    def landscape(self) -> Energy:
        return self.network.encode(self.x)

    def start(self, rows: int = ROWS, seed: int = 3) -> Tensor:
        return self.space.start((rows, PARTS), source=seeded(seed))

    def supervise(self, mode: str) -> Supervised:
        recipe = Recipe(**MODES[mode])
        return self.space.supervise(self.landscape(), self.start(), self.target, self.step_size, recipe, seeded(4), STEPS)

    def parameters(self) -> dict[str, nn.Parameter]:
        found = {**dict(self.network.named_parameters()), "x": self.x, "log_scale": self.step_size.log_scale}
        return found if self.name == "euclidean" else {**found, "table": self.table}

    def move_head(self, mode: str) -> None:
        """One optimiser step; gradients are dropped."""
        optimiser = torch.optim.AdamW(self.parameters().values(), lr=0.05)
        self.supervise(mode).loss.backward()
        assert self.network.head.projection.weight.grad is not None
        assert self.network.head.projection.weight.grad.any()
        optimiser.step()
        optimiser.zero_grad()

    def infer(self, candidates: int = 1, **settings: Any) -> Thought:
        settings = {"final_energy": True, "noise": 0.1, "generator": seeded(5), **settings}
        return self.space.descend(self.landscape(), self.start(candidates * ROWS), self.step_size(), STEPS, **settings)


# all ways of conditioning, all anchors, both heads; the other combinations are in the networks' own tests
NETWORKS = [("decoder", "plain"), ("decoder", "token"), ("decoder", "hidden")]
NETWORKS += [("encoder", "plain"), ("encoder", "candidate"), ("encoder", "prefix"), ("encoder", "bilinear")]


PAIRS = [(space, *network) for space in SPACES for network in NETWORKS]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest, float64: None) -> Pair:
    """A pair whose head has moved; not to be changed."""
    pair = Pair(*request.param)
    pair.move_head("full")
    return pair


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_training_reaches_every_parameter(names: tuple[str, str, str], mode: str) -> None:
    pair = Pair(*names)
    pair.move_head(mode)
    outcome = pair.supervise(mode)
    assert outcome.losses.shape == (STEPS,)
    assert not outcome.losses.requires_grad
    assert outcome.loss.item() == pytest.approx((outcome.losses[-1] if mode == "truncated" else outcome.losses.mean()).item())
    outcome.loss.backward()
    for name, parameter in pair.parameters().items():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_the_record_has_the_documented_shapes(pair: Pair) -> None:
    thought = pair.infer()
    width = pair.start().shape[-1]
    assert thought.start.shape == (ROWS, PARTS, width)
    assert [state.shape for state in thought.states] == [(ROWS, PARTS, width)] * STEPS
    assert thought.energies.shape == (STEPS + 1, ROWS, PARTS)
    assert thought.steps.tolist() == torch.full(pair.predictions, STEPS).tolist()
    assert thought.winner is None
    assert thought.final_energy
    assert (thought.evaluations.forward, thought.evaluations.backward) == (STEPS + 1, STEPS)
    trained = pair.supervise("full").thought
    assert trained.energies.shape == (STEPS, ROWS, PARTS)
    assert trained.step_size.shape == (*pair.predictions, *[1] * (3 - len(pair.predictions)))
    last = pair.infer(keep_path=False, final_energy=False)
    assert len(last.states) == 1
    assert torch.equal(last.state, thought.state)
    assert not last.final_energy


def test_inference_needs_no_gradients_and_follows_its_generator(pair: Pair) -> None:
    thought = pair.infer()
    with torch.no_grad():
        again = pair.infer()
    assert not thought.state.requires_grad
    for a, b in zip((*thought.states, thought.energies), (*again.states, again.energies), strict=True):
        assert torch.equal(a, b)
    other = pair.space.descend(pair.landscape(), pair.start(), 1.0, STEPS, noise=0.1, generator=seeded(6))
    assert not torch.equal(other.state, thought.state)


def test_one_of_many_candidates_is_kept(pair: Pair) -> None:
    rules = ["lowest", "highest", "largest_drop", "settled"] + (["decided", "majority"] if pair.name in SIMPLEX else [])
    thought = pair.infer(CANDIDATES)
    if pair.name in SIMPLEX:
        thought = judge(pair.landscape(), thought)
        last = choose(thought, CANDIDATES, "decided")
        best = choose(revisit(pair.landscape(), thought), CANDIDATES, "visited")
        assert last.decided is not None
        assert best.decided is not None
        pooled = thought.geometry.per_prediction
        assert (pooled(best.decided) <= pooled(last.decided)).all()
    for rule in rules:
        chosen = choose(thought, CANDIDATES, rule)
        assert chosen.winner is not None
        assert chosen.winner.shape == pair.predictions
        assert chosen.state.shape == pair.start().shape
        assert chosen.energies.shape == (STEPS + 1, ROWS, PARTS)
        assert chosen.evaluations.backward == CANDIDATES * STEPS


def test_rows_of_a_record_are_those_of_a_smaller_batch(pair: Pair) -> None:
    thought = choose(pair.infer(CANDIDATES), CANDIDATES)
    part = thought.rows(torch.tensor([1]))
    assert thought.winner is not None
    assert part.winner is not None
    assert torch.equal(part.winner, thought.winner[1:])
    assert torch.equal(part.state, thought.state[1:])
    assert torch.equal(part.energies, thought.energies[:, 1:])
    assert torch.equal(part.steps, thought.steps[1:])


def test_alarms_are_sentences(pair: Pair) -> None:
    found = alarms(pair.infer())
    assert all(isinstance(sentence, str) and sentence for sentence in found)
    assert bool(alarms(pair.infer(final_energy=False, noise=0.0), least_change=1e9))


def test_training_follows_its_generator(pair: Pair) -> None:
    first, second = (pair.supervise("truncated") for _ in range(2))
    assert torch.equal(first.losses, second.losses)
    assert torch.equal(first.thought.state, second.thought.state)

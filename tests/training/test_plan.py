"""Plans against counted parameters, counted operations and measured memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import measured
import pytest
from forked import finish, start
from hypothesis import given
from hypothesis import strategies as st

from ebt.cli.plan import SMALL, PlannedRun, Rehearsals, planned_run
from ebt.errors import InputError
from ebt.nn import SIZES, network_config
from ebt.thinking import Recipe
from ebt.training.plan import Operations, Sizes, floor, largest_batch, parse_bytes, tokens_per_day
from ebt.training.rehearsal import extended

CONFIGS = Path(__file__).parents[2] / "ebt" / "problems" / "language" / "configs"
FEW = ["--model.network.layers=1", "--model.recipe.min_steps=2", "--model.recipe.max_steps=2"]
KINDS = {"ebt": "ebt.yaml", "s1": "ebt-s1.yaml", "s2": "ebt-s2.yaml", "transformer_pp": "transformer-pp.yaml"}


def rehearsals(kind: str, vocabulary: int, *settings: str) -> Rehearsals:
    return Rehearsals(planned_run([f"--config={CONFIGS / KINDS[kind]}", *settings], vocabulary), devices=1)


@pytest.mark.parametrize(("vocabulary", "dim", "ratio"), [(512, 256, 4.86), (4096, 384, 4.39), (50277, 384, 2.73)])
def test_two_steps_cost_what_the_arithmetic_demands(vocabulary: int, dim: int, ratio: float) -> None:
    """Without attention, (30N + 12VD) / (6N + 6VD)."""
    sizes = Sizes(6 * 7 * dim * dim, 6, dim, vocabulary, context=0)
    least = floor(sizes, Recipe.s1(), 2).total
    assert least == 30 * sizes.network + 12 * sizes.words
    assert least / floor(sizes, None, 1).total == pytest.approx(ratio, abs=0.005)
    assert floor(sizes, Recipe.s2(replay_size=0, replay_fraction=0), 3).network == 26 * sizes.network
    half = floor(sizes, Recipe.s1(warm_start=0.5), 2)
    assert (half.network, half.vocabulary) == (21 * sizes.network, 9 * sizes.words)


def test_a_central_difference_costs_two_passes_more_than_it_saves() -> None:
    """16 N for a step with a gradient, not 12 N; steps without one, and the words, cost the same."""
    sizes = Sizes(1000, 6, 10, 20, context=0)
    central = floor(sizes, Recipe.s1(second_order="central"), 2)
    assert (central.network, central.vocabulary) == (38 * sizes.network, 12 * sizes.words)
    s2 = Recipe.s2(replay_size=0, replay_fraction=0, second_order="central")
    assert floor(sizes, s2, 3).network == 30 * sizes.network
    assert floor(sizes, Recipe.s1().on("cuda"), 2) == central
    assert floor(sizes, Recipe.s1().on("cpu"), 2) == floor(sizes, Recipe.s1(second_order="exact"), 2)


@pytest.mark.parametrize(
    ("accelerator", "chosen", "planned"),
    [
        ("cpu", "auto", "exact"),
        ("auto", "auto", "central"),
        ("cuda", "auto", "central"),
        ("cpu", "central", "central"),
        ("cuda", "exact", "exact"),
    ],
)
def test_the_way_of_gradients_is_that_of_the_planned_device(accelerator: str, chosen: str, planned: str) -> None:
    settings = [f"--trainer.accelerator={accelerator}", f"--model.recipe.second_order={chosen}"]
    recipe = planned_run([f"--config={CONFIGS / KINDS['s1']}", *settings], 300).recipe
    assert recipe is not None
    assert recipe.second_order == planned


@pytest.mark.slow
def test_many_layers_follow_from_two_and_three() -> None:
    planned = rehearsals("s1", 300, "--data.context_length=16")
    two, three, four = (planned.rehearsed(layers, 1, 1, 300, 2) for layers in (2, 3, 4))
    found = extended(two, three, 1)
    assert found.peak == pytest.approx(four.peak, rel=0.01)
    assert replace(found, peak=four.peak) == four


@pytest.fixture(scope="module", params=["ebt", "transformer_pp"])
def tiny(request: pytest.FixtureRequest) -> tuple[str, PlannedRun]:
    """A run of a kind, whose network has the size of a test."""
    settings = ["--data.context_length=4", "--data.batch_size=1"]
    return request.param, planned_run([f"--config={CONFIGS / KINDS[request.param]}", *settings], 1000)


@pytest.mark.parametrize("size", SIZES)
def test_parameters_are_counted_at_any_size(tiny: tuple[str, PlannedRun], size: str) -> None:
    kind, run = tiny
    run.task.network = replace(run.task.network, size=size)
    planned, config = Rehearsals(run, devices=1), network_config(size)
    block = 4 * config.dim**2 + 3 * config.dim * config.hidden + 2 * config.dim
    head = 2 * config.dim if kind == "ebt" else config.dim
    assert planned.non_embedding == config.layers * block + head
    assert planned.parameters == planned.non_embedding + 2 * 1000 * config.dim + (kind == "ebt")


@pytest.mark.slow
def test_a_burn_in_costs_its_passes() -> None:
    """Its steps have a forward and a backward pass, and the context is encoded again."""
    few = [*FEW, "--model.network.dim=32", "--model.network.heads=2", "--data.context_length=32"]
    plain, burned = (rehearsals("s1", 300, *few, f"--model.recipe.burn_in={steps}") for steps in (0, 4))
    sizes, recipe = plain.sizes(), burned.run.recipe
    least = floor(sizes, recipe, 2).total - floor(sizes, plain.run.recipe, 2).total
    assert least == 8 * (sizes.network + sizes.attention + sizes.words)
    again = 2 * (sizes.network + sizes.attention) * 4 / 5
    assert burned.operations_per_token() - plain.operations_per_token() == pytest.approx(least + again, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "way"),
    [*((kind, way) for kind in ("ebt", "s1", "s2") for way in ("exact", "central")), ("transformer_pp", None)],
)
def test_operations_against_the_counter(kind: str, way: str | None) -> None:
    """Operations grow with the vocabulary by as much for each word, so two vocabularies tell those of the network.

    A minimum does not count what central differences compute again: two of the three products of a feed-forward layer, once for
    each context.
    """
    per_token, least = [], []
    few = FEW[:1] if way is None else [*FEW, f"--model.recipe.second_order={way}"]
    run = rehearsals(kind, 1000, "--data.context_length=32", *few).run
    for vocabulary in (1000, 2000):
        planned = Rehearsals(replace(run, vocabulary=vocabulary), devices=1)
        per_token.append(planned.operations_per_token())
        least.append(floor(planned.sizes(), planned.run.recipe, planned.run.mean_steps))
    words = per_token[1] - per_token[0]
    network = per_token[0] - words
    again, recipe = 0.0, run.recipe
    if recipe is not None and way == "central":
        sizes = network_config(run.task.network.size)
        again = 4 * sizes.dim * sizes.hidden * (1 - recipe.warm_start) * (1 + recipe.replay_fraction)
    assert least[0].network + least[0].attention + again == pytest.approx(network, rel=0.03)
    assert words >= least[0].vocabulary * 0.999
    if kind == "transformer_pp":
        assert words == pytest.approx(least[0].vocabulary)


@pytest.mark.parametrize("way", ["exact", "central"])
def test_weights_of_16_bits_take_half_the_memory(way: str) -> None:
    small = ["--model.network.layers=1", "--model.network.dim=8", "--model.network.heads=2", "--data.context_length=16"]
    settings = [*small, "--model.recipe.min_steps=1", "--model.recipe.max_steps=1", f"--model.recipe.second_order={way}"]
    half, whole = (
        rehearsals("s1", SMALL, *settings, f"--trainer.precision={bits}").memory(2) for bits in ("bf16-true", "32-true")
    )
    assert half.weights == pytest.approx(whole.weights / 2, abs=4)
    assert half.gradients == pytest.approx(whole.gradients / 2, abs=4)


@pytest.mark.slow
def test_sharded_weights_are_shared_out_and_gathered() -> None:
    small = ["--model.network.layers=1", "--model.network.dim=8", "--model.network.heads=2", "--data.context_length=16"]
    run = planned_run([f"--config={CONFIGS / KINDS['ebt']}", *small, "--trainer.strategy=fsdp"], SMALL)
    sharded, plain = (Rehearsals(one, devices=8) for one in (run, replace(run, sharded=False)))
    memory, whole = sharded.memory(2), plain.memory(2)
    for part in ("weights", "gradients", "optimiser"):
        assert getattr(memory, part) == pytest.approx(getattr(whole, part) / 8, abs=1)
    assert memory.communication == pytest.approx(2 * whole.weights, abs=1)  # its only block, and the rest, with gradients
    assert sharded.peak(2) == memory.total < whole.total == plain.peak(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "vocabulary", "way"),
    [("ebt", 257, "exact"), ("s2", 4000, "exact"), ("s1", 4000, "central"), ("transformer_pp", 4000, None)],
)
def test_memory_is_what_is_measured(kind: str, vocabulary: int, way: str | None, tmp_path: Path) -> None:
    """Within 15 %, the weights with their gradients and states, and all that an update takes beside them."""
    settings = [
        "--model.network.dim=192",
        "--model.network.heads=4",
        "--data.context_length=128",
        "--model.network.layers=2",
        "--data.batch_size=8",
        "--trainer.accelerator=cpu",
        *([] if way is None else [f"--model.recipe.second_order={way}"]),
    ]
    planned = rehearsals(kind, vocabulary, *settings)
    memory = planned.memory(planned.run.batch)
    output = tmp_path / "printed.txt"
    arguments = [f"--config={CONFIGS / KINDS[kind]}", *settings]
    found = json.loads(finish(start(measured.main, arguments, vocabulary, output=output), output).splitlines()[-1])
    assert memory.weights + memory.gradients + memory.optimiser == pytest.approx(found["steady"], rel=0.15)
    assert memory.activations + memory.vocabulary == pytest.approx(found["update"], rel=0.05)


@given(st.integers(1, 1000), st.integers(1, 50), st.integers(0, 200_000))
def test_the_largest_batch_fits_and_one_more_does_not(fixed: int, each: int, room: int) -> None:
    def peak(batch: int) -> int:
        return fixed + each * batch

    found = largest_batch(peak, room)
    assert found == 0 or peak(found) <= room
    assert peak(found + 1) > room


def test_memory_that_grows_faster_later_is_checked() -> None:
    assert largest_batch(lambda batch: batch**2, 1000) in range(1, 32)


def test_days_follow_from_operations() -> None:
    assert tokens_per_day(8, 1e12, 8e6) == pytest.approx(86_400e6)
    assert Operations(1, 2, 3).total == 6


@pytest.mark.parametrize(("text", "size"), [("80GB", 80e9), ("40 GiB", 40 * 2**30), ("1.5tb", 1.5e12), ("4096 B", 4096)])
def test_sizes_are_read(text: str, size: float) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "0GB", "80", "4096", "-3GB", "80XB", "eighty", "nan", "1e400GB"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="80GB"):
        parse_bytes(text)

"""What studies measure agrees with what the library measures elsewhere, and is chosen where it may be."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import CONTEXT, language_ebt, language_folder, language_twin

from ebt.evaluation.statistics import Estimate
from ebt.lab.studies import uncertainty, verifiers, ways
from ebt.lab.studies.measure import CHOOSING, MEASURED, contexts_of, open_model
from ebt.lab.studies.models import EBTS, RECIPES
from ebt.lab.studies.page import above
from ebt.lab.studies.runs import Result, Run
from ebt.lab.studies.text import TextPlan, improvement, longer, nats_at
from ebt.problems.language.metrics import language_curve

SHAPE = {"tokenizer": "bytes", "context_length": 12, "batch_size": 4}
MANY = 3


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text("".join(f"Sentence {i} says {i * i}, and no more than that.\n\n" for i in range(1000)))
    model = language_folder(folder / "model")
    return {"train": str(folder / "text.txt"), "validation": None, "model": model, "text": str(folder / "text.txt")}


def settings(contexts: int = 4, **more: Any) -> dict[str, Any]:
    return {"model": {"text": SHAPE}, "contexts": contexts, **more}


def plan(**options: Any) -> TextPlan:
    given = {"quick": False, "out": "out", "models": "models", "train": "python-docs", "validation": None, "tokenizer": "bytes"}
    given |= {"updates": None, "seeds": 3, "contexts": None, "steps": None, "candidates": None, "candidate_noise": 0.0}
    return TextPlan.of(argparse.Namespace(**{**given, "context_length": 64, **options}))


def test_the_halves_of_the_held_out_text_share_no_context(places: dict[str, Any]) -> None:
    rows = {
        half: {
            tuple(row.tolist()) for batch in contexts_of(settings(6), {**places, "text": half}) for row in batch["input_ids"]
        }
        for half in (CHOOSING, MEASURED)
    }
    assert all(len(found) == 6 for found in rows.values())
    assert not rows[CHOOSING] & rows[MEASURED]


def test_all_of_a_context_is_scored_and_contexts_are_spread_over_the_text(places: dict[str, Any]) -> None:
    batches = contexts_of(settings(8), places)
    assert [tuple(batch["targets"].shape) for batch in batches] == [(4, 12)] * 2
    assert all((batch["targets"] >= 0).all() for batch in batches)
    text = Path(places["text"]).read_text()
    found = ["".join(map(chr, row)) for batch in batches for row in batch["input_ids"].tolist()]
    assert text.startswith(found[0])
    assert text.rindex(found[-1]) > 0.9 * len(text)


def test_the_split_does_not_depend_on_the_seed(places: dict[str, Any]) -> None:
    from ebt.lab.studies.models import training_data

    first, second = (training_data(SHAPE, places, seed) for seed in (0, 1))
    assert first.statistics() == second.statistics()
    held_out = [data.val_dataloader().dataset.tokens.tolist() for data in (first, second)]
    assert held_out[0] == held_out[1]
    batches = [next(iter(data.train_dataloader()))["input_ids"] for data in (first, second)]
    assert not torch.equal(*batches)


def test_each_ablation_differs_from_s2_in_one_part() -> None:
    full = asdict(RECIPES["ebt-s2"])
    parts = {
        kind: {name for name, value in asdict(recipe).items() if value != full[name]}
        for kind, recipe in RECIPES.items()
        if kind.startswith("s2-")
    }
    assert parts == {
        "s2-fixed-step-size": {"step_size_spread"},
        "s2-fixed-steps": {"max_steps"},
        "s2-no-noise": {"noise"},
        "s2-no-replay": {"replay_size", "replay_fraction"},
    }


def test_models_are_known_by_all_that_they_depend_on(places: dict[str, Any]) -> None:
    key = plan().model("ebt", 0).key
    assert plan(out="elsewhere", contexts=9, steps=[1, 5], models="models").model("ebt", 0).key == key
    others = [
        plan().model("ebt", 1),
        plan().model("ebt-s1", 0),
        plan(updates=7).model("ebt", 0),
        plan(train=places["train"]).model("ebt", 0),
        plan(validation=places["train"]).model("ebt", 0),
        plan(context_length=32).model("ebt", 0),
    ]
    assert len({key, *(run.key for run in others)}) == 7


def test_thinking_longer_is_chosen_above_the_lowest_trained_number() -> None:
    points = [
        {"steps": steps, "candidates": 1, "nats": nats} for steps, nats in ((1, 0.5), (2, 1.0), (3, 2.0), (4, 1.5), (6, 1.5))
    ]
    curve = Result({}, {"points": points}, 0.0, {})
    assert longer("ebt-s2", curve) == 4  # 1 and 2 are better, but not longer than 2; 6 is no better than 4
    assert longer("ebt", curve) == 2
    assert nats_at(curve, 3) == 2
    with pytest.raises(KeyError):
        nats_at(curve, 3, 5)


def test_how_to_think_elsewhere_is_chosen_at_home() -> None:
    """A mean of candidates by its price there, or by what the rival reaches; and so a temperature of the rival."""
    sets = {MEASURED: MEASURED, "brackets": "brackets"}
    study, results = ways.OodPlan(plan(seeds=1), sets), dict[str, Result]()
    text, noises = study.text, {1.0: 0.99, 2.0: 1.0, 4.0: 1.012, 8.0: 1.02}
    temperatures = {"1.0": 1.003, "1.05": 1.007, "1.08": 1.011, "1.1": 1.014} | dict.fromkeys(
        map(str, ways.TEMPERATURES[4:]), 1.05
    )

    def note(run: Run, **values: Any) -> None:
        results[run.key] = Result(run.settings, values, 0.0, {})

    for at, source in enumerate((CHOOSING, *sets.values())):
        for kind in ways.KINDS:
            every = [(steps, many) for steps in range(1, 13) for many in (1, text.candidates)]
            points = [{"steps": steps, "candidates": many, "nats": 1.0 + at} for steps, many in every]
            note(text.curve(kind, 0, source), points=points)
            for noise, nats in noises.items() if kind in EBTS else ():
                points = [{"steps": steps, "candidates": many, "nats": nats + at} for steps, many in every]
                note(text.mean_curve(kind, 0, source, noise), points=points)
        for kind in ways.SOFTENED:  # an EBT is better by 0.004 at all of them
            better = 0.004 if kind in EBTS else 0.0
            note(ways.softer_run(text, kind, 0, source), **{name: nats + at - better for name, nats in temperatures.items()})
    found = ways.nats(study, results)
    for kind in EBTS:
        assert [found[kind][way]["brackets"] for way in ("means", "bold", "matched")] == [[2.99], [3.0], [3.012]]
    assert found[ways.TRANSFORMER][ways.SOFTER] == {MEASURED: [2.011], "brackets": [3.011]}
    assert all(found[kind][ways.SOFTER]["brackets"] == pytest.approx([3.01]) for kind in EBTS)


def test_improvement_is_of_the_perplexity() -> None:
    assert improvement(math.log(10), math.log(9)) == pytest.approx(10)
    assert improvement(1.0, 1.0) == 0


def test_a_verdict_needs_the_whole_interval() -> None:
    assert above("a", "b", Estimate(1.0, 0.1, 2.0, 3)).met
    assert not above("a", "b", Estimate(1.0, -0.1, 2.0, 3)).met
    assert not above("a", "b", Estimate(1.0, None, None, 1)).met


def test_verifiers_agree_with_the_thinking_curve(places: dict[str, Any]) -> None:
    """One batch, so that both draw the same starts."""
    given = settings(4, steps=[2, 3], candidates=MANY, candidate_noise=0.0)
    found = verifiers.measure(given, places, lambda *_: None)
    model, batches = open_model(given, places), contexts_of(given, places)
    for rule, name in (
        ("lowest", "lowest energy"),
        ("majority", "majority vote"),
        ("largest_drop", "largest drop of energy"),
        ("settled", "smallest last move"),
    ):
        curve = language_curve(model, batches, [2, 3], [1, MANY], rule=rule)  # type: ignore[arg-type]
        for steps in (2, 3):
            point = curve.at(steps, MANY)
            assert found[str(steps)][name]["nats"] == pytest.approx(point.nats, rel=1e-5)
            assert found[str(steps)][name]["right"] == pytest.approx(point.accuracy)
            assert found[str(steps)]["the first"]["nats"] == pytest.approx(curve.at(steps, 1).nats, rel=1e-5)
    for at in found.values():
        rules = {name: one["nats"] for name, one in at.items() if name != "candidates"}
        assert len(rules) == 10
        assert min(rules, key=rules.__getitem__) == "best in hindsight"
        assert rules["mean of the probabilities"] < rules["at random"]  # Jensen's inequality, on the mean over candidates
        assert at["candidates"]["disagree"] > 0


def test_noise_sets_candidates_apart(places: dict[str, Any]) -> None:
    calm, noisy = (
        verifiers.measure(settings(4, steps=[3], candidates=MANY, candidate_noise=noise), places, lambda *_: None)
        for noise in (0.0, 3.0)
    )
    assert noisy["3"]["the first"]["nats"] == pytest.approx(calm["3"]["the first"]["nats"], rel=1e-5)
    assert noisy["3"]["candidates"]["spread"] > calm["3"]["candidates"]["spread"]


def test_what_is_seen_of_predictions() -> None:
    tokens = torch.randint(257, (2, CONTEXT - 3), generator=torch.Generator().manual_seed(0))
    model, twin = language_ebt(), language_twin()
    seen = uncertainty.look(model, tokens, own=2, most=4)
    thought = model.think(tokens[:, :-1], steps=2, candidates=1)
    logits = model.geometry().logits(thought.state)
    nats = F.cross_entropy(logits.mT.float(), tokens[:, 1:], reduction="none")
    torch.testing.assert_close(seen.nats, nats)
    torch.testing.assert_close(seen.scores["energy"], thought.energies[-1])
    torch.testing.assert_close(seen.scores["energy drop"], thought.energies[-1] - thought.energies[0])
    before, after = (
        model.geometry().logits(state).float().softmax(-1) for state in model.think(tokens[:, :-1], steps=2).states
    )
    torch.testing.assert_close(seen.scores["last move"].float(), (after - before).abs().sum(-1) / 2, rtol=1e-3, atol=1e-6)
    certain = F.one_hot(tokens[:, 1:], 257).double() @ model.words.weight
    torch.testing.assert_close(seen.of_token, model.landscape(tokens[:, :-1])(certain, 0))
    assert seen.energies.shape == (5, 2, CONTEXT - 4)

    plain = uncertainty.look(twin, tokens, own=1, most=1)
    p = twin(input_ids=tokens[:, :-1]).logits.softmax(-1)
    torch.testing.assert_close(
        plain.scores["entropy"].double(), torch.distributions.Categorical(p).entropy(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(plain.scores["1 - largest probability"].double(), 1 - p.amax(-1), rtol=1e-4, atol=1e-5)
    assert plain.of_token is plain.nats


def test_an_energy_that_knows_is_found_to_know() -> None:
    generator = torch.Generator().manual_seed(0)
    nats = torch.rand(40, 25, generator=generator) * 5
    wrong, blind = nats > 2.5, torch.rand(nats.shape, generator=generator)
    energies = torch.stack((blind, nats + 0.1 * blind))
    seen = uncertainty.Seen(nats, wrong, {"energy": energies[1], "entropy": blind}, nats, energies)
    found = uncertainty.errors_of(seen)
    assert found["detection"]["energy"]["auroc"] > 0.99
    assert found["detection"]["entropy"]["auroc"] == pytest.approx(0.5, abs=0.05)
    assert found["detection"]["energy"]["area"] < 0.2 < found["detection"]["entropy"]["area"]
    assert found["correlation"]["spearman"]["low"] > 0.99
    thirds = found["by_step"]
    assert thirds["easy"][1] < thirds["middle"][1] < thirds["hard"][1]
    assert thirds["easy"][0] == pytest.approx(thirds["hard"][0], abs=0.1)

    random = uncertainty.Seen(nats, wrong, {"energy": energies[1] + 9, "entropy": blind}, nats + 9, energies)
    told = uncertainty.compare_texts({"real": seen, "shuffled": seen, "random": random})
    for what in ("prediction", "token"):
        assert told[what]["auroc"] == {"shuffled": pytest.approx(0.5), "random": pytest.approx(1.0)}
        assert sum(told[what]["share"]["real"]) > 0.95

"""Error detection by energy, against Transformer++: the paper's figures 8 and B.2."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ebt.evaluation.measure import thinks
from ebt.evaluation.statistics import Estimate, auroc, correlation, over_seeds, pearson, risk_coverage, spearman
from ebt.files import finite
from ebt.lab.plots.studies import histograms, line_panels, step_lines
from ebt.lab.studies.measure import MEASURED, contexts_of, open_model
from ebt.lab.studies.models import EBTS, RECIPES, TITLES, TRANSFORMER
from ebt.lab.studies.page import Page, Table, Verdict, cases, shown
from ebt.lab.studies.pool import Report
from ebt.lab.studies.runs import Json, Run
from ebt.lab.studies.text import Results, TextPlan
from ebt.problems.folder import load_tokenizer_of
from ebt.problems.language.energies import token_energies
from ebt.problems.language.pictures import token_heat_map

KINDS = (TRANSFORMER, *EBTS)
MARGIN = 0.02
"""Maximum difference by which the AUROC of energy may be below that of Transformer++'s entropy."""
ENERGY, DROP, MOVE = "energy", "energy drop", "last move"
ENTROPY, DOUBT = "entropy", "1 - largest probability"
TEXTS = ("real", "shuffled", "random")
THIRDS = ("easy", "middle", "hard")
BINS, SAMPLE = 40, 40
"""Number of bars of a histogram, and of tokens in the picture of a text."""


def plan(args: argparse.Namespace) -> TextPlan:
    """Create the plan from the common options of text studies."""
    return TextPlan.of(args)


def stages(plan: TextPlan) -> list[list[Run]]:
    """Return the stages: models, then their measurements."""
    return [plan.models(KINDS), [_run(plan, kind, seed) for seed in range(plan.seeds) for kind in KINDS]]


def _run(plan: TextPlan, kind: str, seed: int) -> Run:
    steps = {"own": RECIPES[kind].own_steps, "most": max(plan.steps)} if kind in RECIPES else {"own": 1, "most": 1}
    return plan.measurement(measure, kind, seed, MEASURED, **steps)


@dataclass(frozen=True)
class Seen:
    """Predictions of a text with B rows of S tokens."""

    nats: Tensor
    wrong: Tensor
    scores: dict[str, Tensor]
    """Scores (B, S) that are high for doubtful predictions, by name."""
    of_token: Tensor
    """Energy or surprise (B, S) of the text's own tokens."""
    energies: Tensor
    """Energies (T + 1, B, S) before each step and after the last; empty without an energy."""


@torch.no_grad()
def look(model: Any, tokens: Tensor, own: int, most: int) -> Seen:
    """Predict each token of texts (B, S + 1) except the first, and judge the predictions after ``own`` of ``most`` steps."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    scores, energies = dict[str, Tensor](), torch.empty(0, *targets.shape)
    if thinks(model):
        thought: Any = model.think(inputs, steps=most, candidates=1)
        energies, (before, state) = thought.energies, (thought.start, *thought.states)[own - 1 : own + 1]
        logits, move = thought.geometry.logits(state), thought.geometry.change(before, state)
        scores = {ENERGY: energies[own], DROP: energies[own] - energies[0], MOVE: move}
        of_token = model.landscape(inputs)(thought.geometry.table[targets], 0)
    else:
        logits, of_token = model(input_ids=inputs).logits, None
    log_p = logits.float().log_softmax(-1)
    scores |= {ENTROPY: -(log_p.exp() * log_p).sum(-1), DOUBT: 1 - log_p.amax(-1).exp()}
    nats = F.nll_loss(log_p.mT, targets, reduction="none")
    return Seen(nats, log_p.argmax(-1) != targets, scores, nats if of_token is None else of_token, energies)


def measure(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """Measure error detection on held-out text, and the scores of shuffled and random text."""
    model, batches = open_model(settings, places), contexts_of(settings, places)
    real = torch.cat([torch.cat((batch["input_ids"][:, :1], batch["targets"]), 1) for batch in batches])
    texts = dict(_texts(real, model.config.vocab_size))
    seen: dict[str, Seen] = {}
    for i, (name, tokens) in enumerate(texts.items()):
        parts = [look(model, part, settings["own"], settings["most"]) for part in tokens.split(16)]
        seen[name] = _join(parts)
        report(i + 1, len(texts), name)
    found = errors_of(seen["real"]) | {"texts": compare_texts(seen)}
    if thinks(model):
        tokenizer = load_tokenizer_of(places["model"])
        sample = tokenizer.decode(real[0, 1 : SAMPLE + 1])
        found["sample"] = finite(token_energies(model, tokenizer, sample, min(8, settings["most"])))
    return found


def _texts(real: Tensor, words: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the text, the text shuffled within contexts, and tokens drawn uniformly from the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    yield TEXTS[0], real
    yield TEXTS[1], real.gather(1, torch.rand(real.shape, generator=generator).argsort(1))
    yield TEXTS[2], torch.randint(words - 1, real.shape, generator=generator)  # the last token is the end of a text


def _join(parts: list[Seen]) -> Seen:
    scores = {name: torch.cat([part.scores[name] for part in parts]) for name in parts[0].scores}
    nats, wrong, of_token = (torch.cat([getattr(part, name) for part in parts]) for name in ("nats", "wrong", "of_token"))
    return Seen(nats, wrong, scores, of_token, torch.cat([part.energies for part in parts], 1))


def errors_of(seen: Seen) -> dict[str, Any]:
    detection = {}
    for name, score in seen.scores.items():
        detection[name] = {"auroc": auroc(score, seen.wrong), **asdict(risk_coverage(score, seen.wrong))}
    found: dict[str, Any] = {
        "nats": seen.nats.mean().item(),
        "error": seen.wrong.double().mean().item(),
        "detection": detection,
    }
    if len(seen.energies):
        energy, nats = (tensor.double().numpy() for tensor in (seen.scores[ENERGY], seen.nats))
        found["correlation"] = {how.__name__: asdict(correlation(how, energy, nats)) for how in (spearman, pearson)}
        third = torch.bucketize(seen.nats, torch.quantile(seen.nats.flatten(), torch.tensor([1 / 3, 2 / 3])))
        found["by_step"] = {
            name: [energies[third == i].mean().item() for energies in seen.energies] for i, name in enumerate(THIRDS)
        }
    return found


def compare_texts(seen: Mapping[str, Seen]) -> dict[str, Any]:
    """Return means, histograms and the AUROC against real text, for the predictions and own tokens of each text."""
    found = {}
    for what in ("prediction", "token"):
        values = {name: _value(one, what) for name, one in seen.items()}
        ends = np.quantile(torch.cat([value.flatten() for value in values.values()]).numpy(), [0.005, 0.995])
        edges = np.linspace(ends[0], max(ends[1], ends[0] + 1e-6), BINS + 1)
        found[what] = {
            "mean": {name: value.mean().item() for name, value in values.items()},
            "auroc": {name: _told(values["real"], values[name]) for name in TEXTS[1:]},
            "auroc_of_contexts": {name: _told(values["real"].mean(1), values[name].mean(1)) for name in TEXTS[1:]},
            "edges": edges.tolist(),
            "share": {name: (np.histogram(value.numpy(), edges)[0] / value.numel()).tolist() for name, value in values.items()},
        }
    return found


def _value(seen: Seen, what: str) -> Tensor:
    return seen.of_token if what == "token" else seen.scores.get(ENERGY, seen.scores[ENTROPY])


def _told(real: Tensor, other: Tensor) -> float | None:
    both = torch.cat((real.flatten(), other.flatten()))
    return auroc(both, torch.arange(len(both)) >= real.numel())


def report(plan: TextPlan, results: Results) -> Page:
    """Create tables, verdicts and plots."""
    found = {kind: [results[_run(plan, kind, seed).key].values for seed in range(plan.seeds)] for kind in KINDS}
    pictures = _draw(plan, found)
    judged = [verdict for kind in EBTS for verdict in verdicts(found, kind)]
    return Page(
        title="Does energy know?",
        question="The paper's figures 8 and B.2: is the energy of a prediction high where the prediction is hard, or wrong? "
        "And does it tell more than what any language model has, its entropy and its largest probability?",
        setting=[
            *plan.setting(KINDS, results),
            "A prediction is wrong if its most probable token is not the text's. Each model is judged on its own errors. "
            "Energies and probabilities are those after the largest trained number of steps.",
            "AUROC: the chance that a wrong prediction has a higher score than a right one. Last move: the total variation "
            "distance by which the last step changed the probabilities. AURC: the share of wrong predictions among the surest "
            "ones that are kept, mean over all coverages.",
            "Shuffled text: the tokens of each context in random order. Random text: tokens drawn alike from the vocabulary.",
        ],
        tables=[_detection(found), _correlations(found), _told_apart(found)],
        verdicts=judged,
        answer=answer(judged),
        pictures=pictures,
        numbers={"measured": found},
    )


def answer(verdicts: Sequence[Verdict]) -> str:
    """Answer from the verdicts: energy against the model's own entropy, and against that of Transformer++."""
    own = shown(
        "energy tells more than the model's own entropy",
        cases(verdicts, after=": energy tells more than the model's own entropy"),
    )
    near = cases(verdicts, after=f": energy finds errors within {MARGIN:g} of Transformer++'s entropy")
    return f"{own} {shown(f'energy finds errors as well as the entropy of Transformer++ does, within {MARGIN:g},', near)}"


Found = Mapping[str, list[Mapping[str, Any]]]


def _over(found: Found, kind: str, *keys: str) -> Estimate | None:
    values: list[Any] = list(found[kind])
    for key in keys:
        values = [None if value is None else value.get(key) for value in values]
    return None if any(value is None for value in values) else over_seeds(values)


def _cell(value: Estimate | None, digits: int = 3) -> str:
    return "-" if value is None else value.around(digits)


def _detection(found: Found) -> Table:
    rows = [
        [f"{TITLES[kind]}: {score}", *(_cell(_over(found, kind, "detection", score, name)) for name in ("auroc", "area"))]
        for kind in KINDS
        for score in dict.fromkeys(score for one in found[kind] for score in one["detection"])
    ]
    wrong = [[f"{TITLES[kind]}: share of wrong predictions", "", _cell(_over(found, kind, "error"))] for kind in KINDS]
    note = "AUROC: higher is better. AURC: lower is better, and lower for a model with fewer errors: chance is their share."
    return Table("Finding wrong predictions", ["model: score", "AUROC", "AURC"], [*rows, *wrong], note)


def _correlations(found: Found) -> Table:
    rows = []
    for kind in EBTS:
        intervals = []
        for how in ("spearman", "pearson"):
            ones = [one["correlation"][how] for one in found[kind]]
            low, high = min(one["low"] or one["mean"] for one in ones), max(one["high"] or one["mean"] for one in ones)
            intervals.append(f"{over_seeds([one['mean'] for one in ones]).mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        rows.append([TITLES[kind], *intervals])
    note = "Mean over the seeds; the interval spans those of all seeds, each a bootstrap over contexts."
    return Table("Energy of a prediction and loss of its token", ["model", "Spearman", "Pearson"], rows, note)


def _told_apart(found: Found) -> Table:
    rows = []
    for kind in KINDS:
        for what, by in (("prediction", "energy of predictions"), ("token", "energy of the text's tokens")):
            name = by if kind in EBTS else {"prediction": "entropy", "token": "surprise"}[what]
            cells = [
                _cell(_over(found, kind, "texts", what, how, text))
                for how in ("auroc", "auroc_of_contexts")
                for text in TEXTS[1:]
            ]
            rows.append([f"{TITLES[kind]}: {name}", *cells])
    head = ["model: score", "shuffled, by token", "random, by token", "shuffled, by context", "random, by context"]
    note = "AUROC of telling shuffled or random text from held-out text, by single tokens or by the mean over a context."
    return Table("Likely against unlikely text", head, rows, note)


def verdicts(found: Found, kind: str) -> Iterator[Verdict]:
    """Compare energy with the entropy of Transformer++, and with the model's own entropy on the same errors."""
    own, rival = (_over(found, k, "detection", score, "auroc") for k, score in ((kind, ENERGY), (TRANSFORMER, ENTROPY)))
    name = f"{TITLES[kind]}: energy finds errors within {MARGIN} of Transformer++'s entropy"
    if own is None or rival is None:
        yield Verdict(name, False, "no AUROC: all predictions are right, or all wrong")
        return
    text = f"AUROC {own.around(3)} against {rival.around(3)}, each on its own model's errors (limit: {MARGIN} below)"
    yield Verdict(name, own.mean >= rival.mean - MARGIN, text)
    energies, entropies = ([one["detection"][score]["auroc"] for one in found[kind]] for score in (ENERGY, ENTROPY))
    more = over_seeds([one - other for one, other in zip(energies, entropies, strict=True)])
    yield Verdict(
        f"{TITLES[kind]}: energy tells more than the model's own entropy",
        more.low is not None and more.low > 0,
        f"AUROC of energy less that of entropy, same errors: {more.text(3, sign=True)} (limit: the whole interval above 0)",
    )


def _draw(plan: TextPlan, found: Found) -> dict[str, str]:
    out = plan.out
    panels = {
        TITLES[kind]: {
            f"{name} tokens": {
                step: asdict(over_seeds([one["by_step"][name][step] for one in found[kind]]))
                for step in range(1, len(found[kind][0]["by_step"][name]))
            }
            for name in THIRDS
        }
        for kind in EBTS
    }
    step_lines(panels, out / "steps.png", "energy of a prediction", "Energy while thinking, by the loss of the token")
    rival = found[TRANSFORMER][0]["detection"][ENTROPY]
    risks = {
        TITLES[kind]: {
            **{
                name: (found[kind][0]["detection"][name]["coverage"], found[kind][0]["detection"][name]["risk"])
                for name in (ENERGY, ENTROPY)
            },
            "Transformer++'s entropy": (rival["coverage"], rival["risk"]),
        }
        for kind in EBTS
    }
    line_panels(risks, out / "risk.png", ("share of predictions kept", "share of them wrong"), "Risk against coverage, seed 0")
    shares = {
        f"{TITLES[kind]}: {by}": (found[kind][0]["texts"][what]["edges"], found[kind][0]["texts"][what]["share"])
        for what, by in (("prediction", "of predictions"), ("token", "of the text's tokens"))
        for kind in EBTS
    }
    histograms(shares, out / "texts.png", ("energy", "share of tokens"), "Energies of real, shuffled and random text, seed 0")
    token_heat_map(found["ebt-s2"][0]["sample"], out / "tokens.png")
    return {
        "steps.png": "Energy of predictions after each step, for the easiest, middle and hardest third of the tokens by loss.",
        "risk.png": "How often predictions are wrong when only the surest are kept, by energy and by entropy.",
        "texts.png": "Energies of predictions and of the text's own tokens, in held-out, shuffled and random text.",
        "tokens.png": "Energy of every token's prediction while the EBT S2 thinks about a held-out text, seed 0.",
    }

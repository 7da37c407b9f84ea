"""Generation: tokens per second of Transformer++ and EBTs, with a cache and without, over what arithmetic demands.

    python benchmarks/generate.py --threads 1 --clock cpu --json generate.json

One row of a batch, one token after the other, by turns in one process; the published architecture with random weights, which
change no speed. Times are compared with that of one token by Transformer++ with a cache behind the same prefix.

cached, no cache: ``generate()``, which thinks about the last position alone.
everywhere: no cache; for each new token the model's own forward pass thinks about what follows each position.
plain: the same as the published code does it (benchmarks/plain.py): observed tokens and predictions as one sequence of twice
the length, anew at every step.

The floor counts operations. With L layers, V words, D width, K positions to look at, and n = N + 2 L D K for N weights of the
blocks: Transformer++ takes 2 n for each position that it encodes and 2 V D for a word. An EBT encodes for the same 2 n; each
step of each candidate takes 4 n, forward and inner backward, and 4 V D to find its logits and to see it; choosing among several
candidates 2 n and 4 V D more for each, for the final energies; the logits 2 V D. Plain takes 8 n a step, as observed tokens go
through forward and backward with the predictions. One row reads all weights for few operations, so it is slower than its
operations, and several candidates cost less than as many rows.

Three ratios have limits: generating 256 tokens after 768 plainly over doing so with the cache, a token behind 1,024 over one
behind 16, and 8 candidates over one. The long plain run is integrated over three lengths (Simpson's rule), not made; that of
``everywhere`` is shown without a limit.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # the benchmarks import each other
from plain import OneSequence
from race import options, write
from train import PUBLISHED, SMALL, Row

from ebt.cli.terminal import plain_table, print_table
from ebt.problems.language.base import GrowingCache
from ebt.problems.language.configuration import EBTConfig, TransformerPPConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.thinking import Restart, Simplex, descend

ROWS = (Row(512, 256, 4), Row(50_277, 384, 6))
Mode = Literal["cached", "no cache", "everywhere", "plain"]
ANEW: tuple[Mode, ...] = ("everywhere", "plain")
Model = EBTForCausalLM | TransformerPPForCausalLM
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Lengths:
    """What is measured: prefixes of the table, steps, tokens a turn, and the long run's prompt and new tokens."""

    prefixes: tuple[int, ...] = (16, 256, 1024)
    steps: tuple[int, ...] = (1, 2, 8)
    tokens: int = 8
    prompt: int = 768
    new: int = 256


QUICK = Lengths((4, 16, 64), (1, 2), 2, 24, 8)
LONG = "generate"
"""The whole of a long run, its prompt included."""


@dataclass(frozen=True)
class Case:
    """What a turn does; ``steps`` is 0 for Transformer++."""

    mode: Mode
    prefix: int
    steps: int = 0
    candidates: int = 1

    @property
    def model(self) -> str:
        return "EBT" if self.steps else "transformer++"


@dataclass(frozen=True)
class Result:
    """One case's time per token."""

    case: Case
    tokens_per_second: float
    times_twin: float
    """The time over that of one cached token of Transformer++ behind the same prefix."""
    floor: float
    """That ratio by arithmetic."""


@dataclass(frozen=True)
class Target:
    """A ratio of two times, and its limit."""

    what: str
    ratio: float
    limit: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.limit is None or (self.ratio >= self.limit if self.at_least else self.ratio <= self.limit)


def operations(case: Case, row: Row, weights: int) -> float:
    """Operations for one token, by the docstring's count; the token itself is the last position of its prefix."""
    reach, table = 2 * row.layers * row.dim, row.words * row.dim
    here = weights + reach * case.prefix
    whole = case.prefix * (weights + reach * (case.prefix + 1) / 2)
    encoding = 2 * (here if case.mode == "cached" else whole)
    if not case.steps:
        return encoding + 2 * table
    places, about = (case.prefix, whole) if case.mode in ANEW else (1, here)
    if case.mode == "plain":
        return case.candidates * case.steps * (8 * whole + 4 * table * places) + 2 * table * places
    thinking = case.candidates * case.steps * (4 * about + 4 * table * places)
    choosing = 0 if case.candidates == 1 else case.candidates * (2 * about + 4 * table * places)
    return encoding + thinking + choosing + 2 * table * places


def models(row: Row, positions: int) -> dict[str, Model]:
    """Both models with random weights; the energy is not flat, so that thinking moves."""
    torch.manual_seed(0)
    ebt = EBTForCausalLM(EBTConfig(row.words, positions, **PUBLISHED, **row.sizes))
    torch.nn.init.normal_(ebt.network.head.projection.weight, std=row.dim**-0.5)
    twin = TransformerPPForCausalLM(TransformerPPConfig(row.words, positions, **row.sizes))
    return {"EBT": ebt.eval(), "transformer++": twin.eval()}


def prompt_of(words: int, length: int) -> Tensor:
    return torch.randint(0, words, (1, length), generator=torch.Generator().manual_seed(1))


def generated(model: Model, ids: Tensor, tokens: int, **how: Any) -> Tensor:
    """The ids with so many greedy tokens more."""
    mask = torch.ones_like(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Tensor = model.generate(
            ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=None, **how
        )
    return found


@torch.no_grad()
def plain_logits(model: EBTForCausalLM, ids: Tensor, steps: int) -> Tensor:
    """Logits (1, S, V) after all positions, as the published code finds them, from zeros."""
    simplex = Simplex(2, model.geometry().table)
    how = {"geometry": simplex, "update": Restart(), "final_energy": False, "keep_path": False, "backend": "plain"}
    start = simplex.start(tuple(ids.shape), 0.0)
    return descend(OneSequence(model, ids), start, steps=steps, step_size=model.step_size(), **how).state


def turn_of(case: Case, model: Model, words: int, tokens: int) -> Callable[[], object]:
    """Makes so many tokens behind the prefix, or one where every position is thought about."""
    ids = prompt_of(words, case.prefix)
    how = {"steps": case.steps, "candidates": case.candidates} if case.steps else {}
    cache = GrowingCache()

    def everywhere() -> None:
        with torch.no_grad():
            model(ids, final_energy=False, **how)

    def cached() -> None:
        generated(model, ids, tokens, past_key_values=cache, **how)
        cache.crop(case.prefix - 1 - cache.get_seq_length())

    turns: dict[Mode, Callable[[], object]] = {
        "cached": cached,
        "no cache": partial(generated, model, ids, tokens, use_cache=False, **how),
        "everywhere": everywhere,
        "plain": partial(plain_logits, model, ids, case.steps),
    }
    return turns[case.mode]


def cases(lengths: Lengths) -> list[Case]:
    """Of the table."""
    found = []
    for prefix in lengths.prefixes:
        found += [Case("cached", prefix), Case("no cache", prefix)]
        found += [Case("cached", prefix, steps) for steps in lengths.steps]
        found += [Case("cached", prefix, 2, 8), *(Case(mode, prefix, 2) for mode in ("no cache", *ANEW))]
    return found


def measure(row: Row, lengths: Lengths, rounds: int, clock: str) -> tuple[dict[Case, float], float]:
    """Seconds per token of all cases, and of the long run; medians of turns that take turns."""
    ends = (lengths.prompt, lengths.prompt + lengths.new // 2, lengths.prompt + lengths.new)
    both = models(row, max(*lengths.prefixes, *ends) + lengths.tokens)
    todo = list(dict.fromkeys([*cases(lengths), *(Case(mode, length, 2) for mode in ANEW for length in ends)]))
    counts = {case: 1 if case.mode in ANEW else 2 if case.mode == "no cache" else lengths.tokens for case in todo}
    turns = {case: turn_of(case, both[case.model], row.words, counts[case]) for case in todo}
    for turn in turns.values():
        turn()
    took: dict[Case | str, list[float]] = {}
    long = partial(generated, both["EBT"], prompt_of(row.words, lengths.prompt), lengths.new, steps=2, candidates=1)
    everything: dict[Case | str, Callable[[], object]] = {**turns, LONG: long}
    for _ in range(rounds):
        for what, turn in everything.items():
            began = CLOCKS[clock]()
            turn()
            took.setdefault(what, []).append(CLOCKS[clock]() - began)
    return {case: median(took[case]) / counts[case] for case in todo}, median(took[LONG])


def results(row: Row, lengths: Lengths, seconds: dict[Case, float]) -> list[Result]:
    weights = sum(
        weight.numel() for weight in models(Row(1, row.dim, row.heads, row.layers), 1)["EBT"].network.blocks.parameters()
    )
    found = []
    for case in cases(lengths):
        base = Case("cached", case.prefix)
        floor = operations(case, row, weights) / operations(base, row, weights)
        found.append(Result(case, 1 / seconds[case], seconds[case] / seconds[base], floor))
    return found


def targets(lengths: Lengths, seconds: dict[Case, float], long: float) -> list[Target]:
    ends = (lengths.prompt, lengths.prompt + lengths.new // 2, lengths.prompt + lengths.new)
    times: dict[Mode, float] = {}
    for mode in ANEW:
        first, middle, last = (seconds[Case(mode, length, 2)] for length in ends)
        times[mode] = lengths.new * (first + 4 * middle + last) / 6 / long
    run = f"{lengths.new} tokens after {lengths.prompt}"
    short, usual, full = lengths.prefixes
    token = {prefix: seconds[Case("cached", prefix, 2)] for prefix in lengths.prefixes}
    return [
        Target(f"{run}, plain / cached", times["plain"], 50, at_least=True),
        Target(f"{run}, everywhere / cached", times["everywhere"]),
        Target(f"a token behind {full} / behind {short}", token[full] / token[short], 1.5),
        Target(f"8 candidates / 1, behind {usual}", seconds[Case("cached", usual, 2, 8)] / token[usual], 3),
    ]


def show(row: Row, found: Sequence[Result], wanted: Sequence[Target], console: Console) -> None:
    table = plain_table()
    for column in ("what", "prefix", "steps", "M", "tokens/s", "/ twin", "floor", "over it"):
        table.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    for one in found:
        case = one.case
        thinking = (str(case.steps), str(case.candidates)) if case.steps else ("", "")
        numbers = (
            f"{one.tokens_per_second:.1f}",
            f"{one.times_twin:.2f}",
            f"{one.floor:.2f}",
            f"{one.times_twin / one.floor:.2f}",
        )
        table.add_row(f"{case.model}, {case.mode}", str(case.prefix), *thinking, *numbers)
    caption = "M: candidates; / twin: time over that of transformer++ with a cache; floor: of that, by operations"
    print_table(console, f"Generation, V = {row.words}, D = {row.dim}", table, caption)
    limits = plain_table()
    for column in ("2 steps", "ratio", "limit", ""):
        limits.add_column(column, justify="left" if column in ("2 steps", "") else "right")
    for target in wanted:
        bound = "" if target.limit is None else f"{'>=' if target.at_least else '<='} {target.limit:g}"
        limits.add_row(target.what, f"{target.ratio:.2f}", bound, "" if not bound else "met" if target.met else "missed")
    print_table(console, "Limits; what has no cache is integrated over three lengths", limits)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 1 where a limit is missed."""
    parser: argparse.ArgumentParser = options(__doc__)
    parser.add_argument("--row", type=int, choices=range(len(ROWS)), default=0, help="V = 512, D = 256, or V = 50,277, D = 384")
    args, console = parser.parse_args(argv), Console()
    torch.set_num_threads(args.threads)
    row, lengths = (SMALL[0], QUICK) if args.quick else (ROWS[args.row], Lengths())
    seconds, long = measure(row, lengths, args.rounds or (2 if args.quick else 5), args.clock)
    found, wanted = results(row, lengths, seconds), targets(lengths, seconds, long)
    show(row, found, wanted, console)
    write(args.json, args, [asdict(row) | asdict(one) for one in found] + [asdict(target) for target in wanted], console)
    return 0 if args.quick or all(target.met for target in wanted) else 1


if __name__ == "__main__":
    sys.exit(main())

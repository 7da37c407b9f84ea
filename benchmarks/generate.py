"""Generation speed: tokens per second of Transformer++ and EBTs, with and without a cache, against a floor by operations.

    python benchmarks/generate.py --threads 1 --clock cpu --json generate.json

One row generates token by token, all cases by turns in one process. The models have the published architecture and random
weights, which do not affect speed. Times are relative to one token of Transformer++ with a cache after the same prefix.

cached, no cache: ``generate()``, which only thinks at the last position.
everywhere: without a cache; for each new token, the model's forward pass thinks at every position.
plain: as in the published code (benchmarks/plain.py): observed tokens and predictions form one sequence of twice the length,
recomputed at every step.

The floor counts operations, with L layers, V words, D width, K positions to attend to, and n = N + 2 L D K for N weights in the
blocks. Transformer++ takes 2 n per encoded position and 2 V D per token. An EBT takes the same 2 n to encode. Each step of each
candidate takes 4 n (forward and inner backward) and 4 V D (logits and view). With several candidates, the final energy takes
2 n and 4 V D more for each. The logits take 2 V D. Plain takes 8 n per step, because observed tokens go forward and backward
with the predictions. One row reads all weights for few operations, so it is slower than its count suggests, and several
candidates cost less than as many rows.

Three ratios have limits: 256 tokens after 768, plain over cached; a token after 1,024 over one after 16; and 8 candidates over
one. The long plain run is integrated over three lengths (Simpson's rule) instead of measured; so is that of ``everywhere``,
which has no limit.
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

sys.path.insert(0, str(Path(__file__).parent))  # benchmarks import each other
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
    """Prefixes and steps of the table, tokens per turn, and prompt and new tokens of the long run."""

    prefixes: tuple[int, ...] = (16, 256, 1024)
    steps: tuple[int, ...] = (1, 2, 8)
    tokens: int = 8
    prompt: int = 768
    new: int = 256


QUICK = Lengths((4, 16, 64), (1, 2), 2, 24, 8)
LONG = "generate"
"""The long run, including its prompt."""


@dataclass(frozen=True)
class Case:
    """One row of the table; ``steps`` is 0 for Transformer++."""

    mode: Mode
    prefix: int
    steps: int = 0
    candidates: int = 1

    @property
    def model(self) -> str:
        return "EBT" if self.steps else "transformer++"


@dataclass(frozen=True)
class Result:
    """Speed of one case."""

    case: Case
    tokens_per_second: float
    times_twin: float
    """Time per token over that of cached Transformer++ after the same prefix."""
    floor: float
    """The same ratio by operations."""


@dataclass(frozen=True)
class Target:
    """A ratio of two times and its limit."""

    what: str
    ratio: float
    limit: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.limit is None or (self.ratio >= self.limit if self.at_least else self.ratio <= self.limit)


def operations(case: Case, row: Row, weights: int) -> float:
    """Operations for one token (see the module's docstring); the token is the last position of its prefix."""
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
    """Both models with random weights; the energy head is not zero, so that steps move candidates."""
    torch.manual_seed(0)
    ebt = EBTForCausalLM(EBTConfig(row.words, positions, **PUBLISHED, **row.sizes))
    torch.nn.init.normal_(ebt.network.head.projection.weight, std=row.dim**-0.5)
    twin = TransformerPPForCausalLM(TransformerPPConfig(row.words, positions, **row.sizes))
    return {"EBT": ebt.eval(), "transformer++": twin.eval()}


def prompt_of(words: int, length: int) -> Tensor:
    return torch.randint(0, words, (1, length), generator=torch.Generator().manual_seed(1))


def generated(model: Model, ids: Tensor, tokens: int, **how: Any) -> Tensor:
    """Extend the ids greedily by a number of tokens."""
    mask = torch.ones_like(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Tensor = model.generate(
            ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=None, **how
        )
    return found


@torch.no_grad()
def plain_logits(model: EBTForCausalLM, ids: Tensor, steps: int) -> Tensor:
    """Logits (1, S, V) after all positions, computed as in the published code from a start at zero."""
    simplex = Simplex(2, model.geometry().table)
    how = {"geometry": simplex, "update": Restart(), "final_energy": False, "keep_path": False, "backend": "plain"}
    start = simplex.start(tuple(ids.shape), 0.0)
    return descend(OneSequence(model, ids), start, steps=steps, step_size=model.step_size(), **how).state


def turn_of(case: Case, model: Model, words: int, tokens: int) -> Callable[[], object]:
    """A function that generates ``tokens`` tokens after the prefix, or one token for modes that think at every position."""
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
    """The cases of the table."""
    found = []
    for prefix in lengths.prefixes:
        found += [Case("cached", prefix), Case("no cache", prefix)]
        found += [Case("cached", prefix, steps) for steps in lengths.steps]
        found += [Case("cached", prefix, 2, 8), *(Case(mode, prefix, 2) for mode in ("no cache", *ANEW))]
    return found


def measure(row: Row, lengths: Lengths, rounds: int, clock: str) -> tuple[dict[Case, float], float]:
    """Median seconds per token of all cases, and of the long run, measured by turns."""
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
        Target(f"a token after {full} / after {short}", token[full] / token[short], 1.5),
        Target(f"8 candidates / 1, after {usual}", seconds[Case("cached", usual, 2, 8)] / token[usual], 3),
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
    caption = "M: candidates; / twin: time over cached transformer++; floor: the same ratio by operations"
    print_table(console, f"Generation, V = {row.words}, D = {row.dim}", table, caption)
    limits = plain_table()
    for column in ("2 steps", "ratio", "limit", ""):
        limits.add_column(column, justify="left" if column in ("2 steps", "") else "right")
    for target in wanted:
        bound = "" if target.limit is None else f"{'>=' if target.at_least else '<='} {target.limit:g}"
        limits.add_row(target.what, f"{target.ratio:.2f}", bound, "" if not bound else "met" if target.met else "missed")
    print_table(console, "Limits; modes without a cache are integrated over three lengths", limits)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 if a limit is missed."""
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

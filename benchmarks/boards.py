"""Training speed on boards: EBTs with and without a latent vector, a loop and the feed-forward twin, compiled or not.

    python benchmarks/boards.py --quick --json boards.json

Each contestant trains on batches of 32 boards of 9x9 (quick: 4 of 4x4) with random cells, forward, backward and AdamW, in its
own process, by turns. A turn has updates of 2, 3 and 4 thinking steps with a loss after each. Networks have 4 layers of width
64, and attention that knows rows, columns and boxes. Compiled contestants compile before they are measured. The EBT without a
latent vector takes exact second derivatives, which cannot be compiled.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))  # benchmarks import each other
from race import Contestant, Measured, Turn, options, race, seconds, write

from ebt.cli.terminal import numbers, plain_table, print_table
from ebt.lab.studies.sudoku import HEAD
from ebt.problems.sudoku.task import SudokuNetwork
from ebt.thinking import IGNORED, Recipe, supervise
from ebt.training.compiling import compile_parts

STEPS = (2, 3, 4)
KINDS: dict[str, dict[str, Any]] = {
    "loop": {"kind": "looped_hidden"},
    "latent": {"kind": "ebt", "latent": True, **HEAD},
    "ebt": {"kind": "ebt", **HEAD},
    "feed-forward": {"kind": "feed_forward"},
}
COMPILED = " compiled"
NAMES = (*KINDS, *(name + COMPILED for name in ("loop", "latent")))


@dataclass(frozen=True)
class Size:
    """Size of boards, batches and networks."""

    board: int = 9
    batch: int = 32
    layers: int = 4


QUICK = Size(4, 4, 1)


def steps_of(name: str) -> tuple[int, ...]:
    """Numbers of steps, one for each update of a turn."""
    return (1,) if name == "feed-forward" else STEPS


def contestant(name: str, size: Size) -> tuple[Turn, Turn]:
    """One update, and one for each number of steps. All have whole batches, for compiled graphs are of one shape."""
    kind, steps = KINDS[name.removesuffix(COMPILED)], steps_of(name)
    thinks, recipe = kind["kind"] == "ebt", Recipe(min(STEPS), max(STEPS)) if steps == STEPS else Recipe()
    model = SudokuNetwork(size="nano", layers=size.layers, rules=True, **kind).build(size.board, recipe, max(steps)).train()
    if name.endswith(COMPILED):
        compile_parts(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    draw, cells = torch.Generator().manual_seed(0), size.board**2

    def update(number: int) -> None:
        board = torch.randint(size.board + 1, (size.batch, cells), generator=draw)
        target = torch.randint(size.board, board.shape, generator=draw).masked_fill(board > 0, IGNORED)
        if thinks:
            geometry = model.geometry()
            start = geometry.start(model.parts(board), 1.0, draw)
            thinking = model.landscape(board), geometry, model.update(), start, target, model.step_size
            loss = supervise(*thinking, recipe, draw, number).loss
        else:
            logits = torch.stack(model(board, number)).flatten(0, -2)
            loss = torch.nn.functional.cross_entropy(logits, target.repeat(number, 1).flatten(), ignore_index=IGNORED)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def turn() -> None:
        for number in steps:
            update(number)

    return partial(update, max(steps)), turn


@dataclass(frozen=True)
class Result:
    """One contestant."""

    name: str
    measured: Measured
    updates_per_second: float
    times_loop: float


def show(found: Sequence[Result], size: Size, console: Console) -> None:
    """Print the table."""
    table = plain_table("model", *numbers("updates/s", "time / loop"))
    for one in found:
        table.add_row(one.name, f"{one.updates_per_second:.2f}", f"{one.times_loop:.2f}")
    print_table(console, f"Training on {size.batch} boards of {size.board} x {size.board}", table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    args, console = options(__doc__, NAMES).parse_args(argv), Console()
    size = QUICK if args.quick else Size()
    known = [Contestant(name, partial(contestant, name, size)) for name in args.only]
    measured = race(known, args.rounds or (2 if args.quick else 5), args.threads)
    took = {name: seconds(one, args.clock) / len(steps_of(name)) for name, one in measured.items()}
    found = [
        Result(name, replace(one, memory=None), 1 / took[name], took[name] / took[NAMES[0]])  # warm-up took as much memory
        for name, one in measured.items()
    ]
    show(found, size, console)
    write(args.json, args, [asdict(one) for one in found], console)
    return 0


if __name__ == "__main__":
    sys.exit(main())

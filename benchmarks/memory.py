"""Memory against the vocabulary, the number of steps with full gradients, the number of candidates, and plain training.

    python benchmarks/memory.py --quick --json memory.json

Peak resident memory above weights, gradients and optimiser state, for batches of 8 x 256 tokens (quick: 2 x 64), each measured
in a separate process. Candidates are measured at inference, without gradients for training.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # benchmarks import each other
from race import Contestant, Turn, options, race, write
from train import ROWS, Row, ebt, turns

from ebt.cli.terminal import plain_table, print_table
from ebt.problems.language.configuration import EBTConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.thinking import Recipe, supervise


def full(row: Row, steps: int) -> tuple[Turn, Turn]:
    """Training with full gradients over a number of steps and the loss after the last."""
    model = EBTForCausalLM(EBTConfig(row.words, row.context, **row.sizes))
    recipe, generator = Recipe(steps, steps, loss="last"), torch.Generator().manual_seed(1)

    def loss(ids: Tensor, target: Tensor) -> Tensor:
        geometry, update = model.geometry(), model.update()
        start = geometry.start(tuple(ids.shape), recipe.start_std, generator)
        return supervise(model.landscape(ids), geometry, update, start, target, model.step_size, recipe, generator, steps).loss

    return turns(model, row, loss)


def thinking(row: Row, candidates: int) -> tuple[Turn, Turn]:
    """Thinking at every position, with two steps for each candidate."""
    model = EBTForCausalLM(EBTConfig(row.words, row.context, **row.sizes)).eval()
    generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def think(rows: int) -> None:
        ids = torch.randint(0, row.words, (rows, row.context), generator=generator)
        model.think(ids, steps=2, candidates=candidates, keep_path=False)

    return partial(think, 1), partial(think, row.batch)


@dataclass(frozen=True)
class Result:
    """Ratio of two peaks."""

    what: str
    first: str
    second: str
    megabytes: tuple[float, float]
    ratio: float
    limit: float | None


COMPARED = (
    ("S1: the largest vocabulary over the plain way", "s1, large", "s1, large, plain", 1 / 5),
    ("S1: the largest vocabulary over a medium one", "s1, large", "s1, medium", 1.2),
    ("full gradients: 32 steps over 2", "full, 32 steps", "full, 2 steps", 1.1),
    ("thinking: 8 candidates over one", "8 candidates", "1 candidates", None),
)
STEPS = (2, 4, 8, 16, 32)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 if a limit is missed."""
    parser = options(__doc__)
    args, console = parser.parse_args(argv), Console()
    rows = tuple(Row(words, 64, 2, layers=1, batch=2, context=64) for words in (512, 1024, 8192)) if args.quick else ROWS[:3]
    small, medium, large = rows
    contestants = [
        Contestant("s1, small", partial(ebt, small, "s1")),
        Contestant("s1, medium", partial(ebt, medium, "s1")),
        Contestant("s1, large", partial(ebt, large, "s1")),
        Contestant("s1, large, plain", partial(ebt, large, "s1", plain=True)),
        *(Contestant(f"full, {steps} steps", partial(full, small, steps)) for steps in ((2, 32) if args.quick else STEPS)),
        *(Contestant(f"{many} candidates", partial(thinking, small, many)) for many in (1, 8)),
    ]
    peaks: dict[str, float] = {}
    for contestant in contestants:  # one after the other: plain training needs the machine's memory
        memory = race([contestant], args.rounds or 1, args.threads)[contestant.name].memory
        if memory is None:
            console.print("this system does not report the memory of a process: run the benchmark on Linux")
            return 2
        peaks[contestant.name] = memory
    results = [
        Result(what, first, second, (peaks[first], peaks[second]), peaks[first] / peaks[second], limit)
        for what, first, second, limit in COMPARED
    ]
    table = plain_table()
    for column in ("what", "MB", "MB", "ratio", "limit"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for one in results:
        limit = "" if one.limit is None else f"{one.limit:.2f}"
        table.add_row(one.what, f"{one.megabytes[0]:.0f}", f"{one.megabytes[1]:.0f}", f"{one.ratio:.2f}", limit)
    sizes = ", ".join(f"{name} {row.words:,} words" for name, row in zip(("small", "medium", "large"), rows, strict=True))
    print_table(console, f"Peak memory above weights, gradients and optimiser; {sizes}", table)
    everything = ", ".join(f"{name}: {peak:.0f} MB" for name, peak in peaks.items())
    console.print(everything, highlight=False)
    write(args.json, args, [*results, {"peaks": peaks}], console)
    return 0 if args.quick or all(one.limit is None or one.ratio <= one.limit for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())

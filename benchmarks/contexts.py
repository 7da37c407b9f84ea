"""Time and memory of training on long contexts: Transformer++, and S1 by central differences.

    python benchmarks/contexts.py --quick --json contexts.json
    python benchmarks/contexts.py --threads 1 --clock cpu --rounds 1

Batches of 2 x 2,048 tokens, 512 words, 6 layers of 256, the published architecture; each contestant in its own process. Freed
memory goes back to the system at once, so that the peak is that of live tensors, as an accelerator's allocator counts it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # benchmarks import each other
from race import Contestant, Turn, options, race, seconds, write

from ebt.cli.terminal import plain_table, print_table
from ebt.problems.language.configuration import EBTConfig, TransformerPPConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.thinking import Recipe, supervise

WORDS, ROWS = 512, 2
SIZES = {"dim": 256, "heads": 4, "layers": 6}
SMALL = {"dim": 64, "heads": 2, "layers": 2}
RETURNED = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**18))
"""Settings of glibc that give freed memory back."""


def turns(length: int, small: bool, way: str | None, rows: int = ROWS, checkpoints: bool = False) -> tuple[Turn, Turn]:
    """Updates of a short and a long batch: of S1 by ``way`` with ``rows`` rows at once, or of Transformer++."""
    sizes = SMALL if small else SIZES
    twin = TransformerPPForCausalLM(TransformerPPConfig(WORDS, length, **sizes))
    ebt = EBTForCausalLM(EBTConfig(WORDS, length, input_gradient=False, anchor="none", head="linear", **sizes))
    model, draws = (twin if way is None else ebt).train(), torch.Generator().manual_seed(0)
    if checkpoints:
        model.gradient_checkpointing_enable()
    optimiser, recipe = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), Recipe.s1(2)

    def loss(ids: Tensor, target: Tensor) -> Tensor:
        if way is None:
            return F.cross_entropy(twin(ids).logits.flatten(0, 1), target.flatten())
        settings = replace(recipe, second_order=way, rows_at_once=rows)  # type: ignore[arg-type]
        geometry = ebt.geometry()
        start = geometry.start(tuple(ids.shape), 1.0, draws)
        thinking = ebt.landscape(ids), geometry, ebt.update(), start, target, ebt.step_size
        return supervise(*thinking, settings, draws, 2).loss

    def step(length: int) -> None:
        tokens = torch.randint(0, WORDS, (ROWS, length + 1), generator=draws)
        optimiser.zero_grad()
        loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimiser.step()

    return partial(step, 16), partial(step, length)


@dataclass(frozen=True)
class Result:
    """One contestant."""

    name: str
    seconds: float
    times_twin: float
    memory: float | None
    """Peak in MB above weights, gradients and optimiser state."""
    memory_times_twin: float | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    args, console = options(__doc__).parse_args(argv), Console()
    os.environ.update(RETURNED)
    length = 128 if args.quick else 2048
    make = partial(turns, length, args.quick)
    contestants = [
        Contestant("transformer++", partial(make, None)),
        Contestant("s1, central, one row at a time", partial(make, "central", 1)),
        Contestant("s1, central, all rows", partial(make, "central")),
        Contestant("s1, central, all rows, checkpoints", partial(make, "central", checkpoints=True)),
    ]
    contestants = contestants[:2] if args.quick else contestants
    found = race(contestants, args.rounds or (1 if args.quick else 3), args.threads)
    twin = found["transformer++"]
    results = [
        Result(
            name,
            seconds(one, args.clock),
            seconds(one, args.clock) / seconds(twin, args.clock),
            one.memory,
            None if one.memory is None or not twin.memory else one.memory / twin.memory,
        )
        for name, one in found.items()
    ]
    table = plain_table()
    for column in ("what", "seconds", "/ twin", "MB", "/ twin"):
        table.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    for one in results:
        memory = ("", "") if one.memory_times_twin is None else (f"{one.memory:.0f}", f"{one.memory_times_twin:.2f}")
        table.add_row(one.name, f"{one.seconds:.2f}", f"{one.times_twin:.2f}", *memory)
    print_table(
        console, f"Training, {ROWS} x {length:,} tokens", table, "MB: peak above weights, gradients and optimiser state"
    )
    write(args.json, args, results, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())

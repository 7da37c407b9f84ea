"""Training speed: tokens per second and memory of Transformer++, EBTs and plain EBT training, against a floor by operations.

    python benchmarks/train.py --quick --json train.json

Each contestant trains on batches of 8 x 256 tokens (the last size: 4 x 256), forward, backward and AdamW, in its own process,
by turns. The floor counts operations per token, with N weights in the blocks, V words and D width. Transformer++ takes 6 N +
6 V D. An EBT takes 6 N for the context, 12 N per thinking step with a gradient (16 N by central differences) and 4 N per step
without, 6 V D per state with a loss and 4 V D per state without (``ebt.training.plan.floor``, which ``ebt plan`` prints).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # benchmarks import each other
from plain import supervise_plainly
from race import Contestant, Measured, Turn, options, race, seconds, write

from ebt.cli.terminal import plain_table, print_table
from ebt.problems.language.configuration import EBTConfig, TransformerPPConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.thinking import Recipe, supervise
from ebt.training.compiling import compile_parts
from ebt.training.plan import Sizes, floor

CONTEXT, BATCH = 256, 8
PUBLISHED: dict[str, Any] = {"anchor": "none", "head": "linear"}
"""The published architecture, for plain training and for the library's."""
RECIPES = {"s1": (Recipe.s1(2), 2), "s2": (Recipe.s2(replay_size=0, replay_fraction=0.0), 3)}
"""Recipes with their number of steps; S2 takes its largest number, without a replay buffer."""


@dataclass(frozen=True)
class Row:
    """Size of the networks."""

    words: int
    dim: int
    heads: int
    layers: int = 6
    batch: int = BATCH
    ffn_dim: int | None = None
    """Inner width of the feed-forward layers. None: that of Llama 2."""
    context: int = CONTEXT

    @property
    def sizes(self) -> dict[str, Any]:
        inner = -(-8 * self.dim // 3 // 16) * 16 if self.ffn_dim is None else self.ffn_dim
        return {"layers": self.layers, "dim": self.dim, "heads": self.heads, "ffn_dim": inner}


ROWS = (Row(512, 256, 4), Row(4096, 384, 6), Row(50_277, 384, 6), Row(512, 256, 4, batch=4, ffn_dim=256))
"""The last one has the inner width of the paper."""
SMALL = (Row(512, 64, 2, 2, batch=4, context=128),)


def floors(row: Row, blocks: int) -> dict[str, float]:
    """Operations per token over those of Transformer++, for ``blocks`` weights in the blocks; attention is not counted."""
    sizes = Sizes(blocks, row.layers, row.dim, row.words, context=0)
    least = {name: floor(sizes, recipe, steps).total for name, (recipe, steps) in RECIPES.items()}
    central = floor(sizes, replace(RECIPES["s1"][0], second_order="central"), RECIPES["s1"][1]).total
    least |= dict.fromkeys(("s1, central", "s1, compiled"), central)
    return {"transformer++": 1.0, **{name: total / floor(sizes, None, 1).total for name, total in least.items()}}


def turns(model: torch.nn.Module, row: Row, loss_of: Callable[[Tensor, Tensor], Tensor]) -> tuple[Turn, Turn]:
    """An update with one row, and one with the whole batch."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)

    def step(rows: int) -> None:
        tokens = torch.randint(0, row.words, (rows, row.context + 1), generator=generator)
        optimiser.zero_grad()
        loss_of(tokens[:, :-1], tokens[:, 1:]).backward()
        optimiser.step()

    return partial(step, 1), partial(step, row.batch)


def twin(row: Row) -> tuple[Turn, Turn]:
    """Train Transformer++."""
    model = TransformerPPForCausalLM(TransformerPPConfig(row.words, row.context, **row.sizes))
    return turns(model, row, lambda ids, target: F.cross_entropy(model(ids).logits.flatten(0, 1), target.flatten()))


def llama(row: Row) -> tuple[Turn, Turn]:
    """Train a Llama of ``transformers`` of the same size, to judge our Transformer++."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"num_hidden_layers": row.layers, "hidden_size": row.dim, "num_attention_heads": row.heads}
    config = LlamaConfig(
        vocab_size=row.words, **sizes, intermediate_size=row.sizes["ffn_dim"], max_position_embeddings=row.context
    )
    model = LlamaForCausalLM(config)
    return turns(model, row, lambda ids, target: F.cross_entropy(model(ids).logits.flatten(0, 1), target.flatten()))


def ebt(
    row: Row, recipe: str, way: str = "exact", plain: bool = False, input_gradient: bool = False, compiled: bool = False
) -> tuple[Turn, Turn]:
    """Train an EBT with a recipe, by the library or plainly; ``compiled`` as by ``ebt fit --compile``."""
    settings, steps = replace(RECIPES[recipe][0], second_order=way), RECIPES[recipe][1]
    model = EBTForCausalLM(EBTConfig(row.words, row.context, input_gradient=input_gradient, **PUBLISHED, **row.sizes))
    if compiled:
        compile_parts(model, way == "central")
    generator = torch.Generator().manual_seed(1)

    def loss(ids: Tensor, target: Tensor) -> Tensor:
        if plain:
            return supervise_plainly(model, ids, target, settings, steps, generator).loss
        geometry, update = model.geometry(), model.update()
        start = geometry.start(tuple(ids.shape), settings.start_std, generator)
        return supervise(
            model.landscape(ids), geometry, update, start, target, model.step_size, settings, generator, steps
        ).loss

    return turns(model, row, loss)


def contestants(row: Row, names: Sequence[str]) -> list[Contestant]:
    known = {
        "transformer++": partial(twin, row),
        "llama": partial(llama, row),
        "s1": partial(ebt, row, "s1"),
        "s1, input gradient": partial(ebt, row, "s1", input_gradient=True),
        "s1, central": partial(ebt, row, "s1", "central"),
        "s1, compiled": partial(ebt, row, "s1", "central", compiled=True),
        "s2": partial(ebt, row, "s2"),
        "s1, plain": partial(ebt, row, "s1", plain=True),
        "s2, plain": partial(ebt, row, "s2", plain=True),
        "s1, plain, input gradient": partial(ebt, row, "s1", plain=True, input_gradient=True),
    }
    return [Contestant(name, known[name]) for name in names]


NAMES = (
    *("transformer++", "llama", "s1", "s1, input gradient", "s1, central", "s1, compiled", "s2"),
    *("s1, plain", "s2, plain", "s1, plain, input gradient"),
)
"""The published code trains plainly and with the input gradient of its table."""


@dataclass(frozen=True)
class Result:
    """One contestant at one size."""

    row: Row
    name: str
    measured: Measured
    tokens_per_second: float
    times_twin: float
    floor: float | None
    """Operations over those of Transformer++."""


def results(row: Row, found: dict[str, Measured], clock: str) -> list[Result]:
    model = TransformerPPForCausalLM(TransformerPPConfig(1, row.context, **row.sizes))
    known = floors(row, sum(weight.numel() for weight in model.network.blocks.parameters()))
    base = seconds(found["transformer++"], clock)
    return [
        Result(
            row,
            name,
            measured,
            row.batch * row.context / seconds(measured, clock),
            seconds(measured, clock) / base,
            known.get(name, known.get(name.partition(",")[0])),
        )
        for name, measured in found.items()
    ]


def show(found: Sequence[Result], console: Console) -> None:
    table = plain_table()
    for column in ("V", "D", "inner", "what", "tokens/s", "/ twin", "floor", "over it", "MB"):
        table.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    for one in found:
        least = ("", "") if one.floor is None else (f"{one.floor:.2f}", f"{one.times_twin / one.floor:.2f}")
        memory = "" if one.measured.memory is None else f"{one.measured.memory:.0f}"
        numbers = (f"{one.tokens_per_second:.0f}", f"{one.times_twin:.2f}", *least, memory)
        table.add_row(str(one.row.words), str(one.row.dim), str(one.row.sizes["ffn_dim"]), one.name, *numbers)
    caption = "/ twin: time over transformer++; MB: peak memory above weights, gradients and optimiser state"
    print_table(console, f"Training on contexts of {found[0].row.context} tokens", table, caption)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options(__doc__, NAMES)
    parser.add_argument("--row", type=int, choices=range(len(ROWS)), metavar="0..3", help="run only one of the sizes")
    args, console = parser.parse_args(argv), Console()
    rows = SMALL if args.quick else ROWS if args.row is None else (ROWS[args.row],)
    found: list[Result] = []
    for row in rows:
        measured = race(contestants(row, args.only), args.rounds or (2 if args.quick else 5), args.threads)
        found += results(row, measured, args.clock)
    show(found, console)
    write(args.json, args, [asdict(one) for one in found], console)
    return 0


if __name__ == "__main__":
    sys.exit(main())

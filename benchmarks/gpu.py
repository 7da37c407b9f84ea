"""Training on an accelerator in one command: is it right, how fast is it, how much memory does it take?

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --device cpu --sizes micro --contexts 256 --json cpu.json

First, losses and gradients of every recipe and way are compared with exact ones in float64 on the CPU. Then Transformer++ and
EBTs train on random tokens: S1, S2 and the library's own recipe, by double backward (exact) and by central differences, eager
and compiled, in 32 bits and in bfloat16. Each measurement is written at once. The command stops after ``--minutes``; the same
command measures what is missing. Utilisation (MFU) counts the least operations, without those of attention, over the time and
the peak of the device: ``--peak`` in operations per second, by default that of a large matrix product in the same precision,
measured here.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from ebt.cli.terminal import plain_table, print_table
from ebt.errors import InputError
from ebt.files import write_json
from ebt.nn import SIZES
from ebt.problems.language.configuration import EBTConfig, TransformerPPConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.thinking import Recipe, supervise
from ebt.training.compiling import CompileWarning, compile_parts, graphs
from ebt.training.plan import floor, sizes_of

TWIN = "transformer++"
RECIPES: dict[str, tuple[Recipe, int]] = {
    "s1": (Recipe.s1(2), 2),
    "s2": (Recipe.s2(replay_size=0, replay_fraction=0.0, step_size_spread=1.0, noise=0.0), 3),
    "own": (Recipe.warm(warm_start=0.0), 2),
}
"""Recipes with their number of steps, after the warm start and without a replay buffer or noise."""
CHECKED = {**RECIPES, "full gradients": (Recipe(), 2)}
"""Recipes whose gradients are compared."""
PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16}
TOKENS, WORDS, ROUNDS = 2**14, 2**12, 5


@dataclass(frozen=True)
class Case:
    """What is measured."""

    model: str
    """Transformer++ or the name of a recipe."""
    way: str
    """exact, central, or for Transformer++ nothing."""
    compiled: bool
    precision: str
    size: str
    context: int
    rows: int

    def make(self, device: torch.device) -> Trainee:
        """The model with its recipe, on the device."""
        return Trainee(self, device)


class Trainee:
    """A model and its updates."""

    def __init__(self, case: Case, device: torch.device) -> None:
        torch.manual_seed(0)
        self.case, self.device, self.recipe, self.steps = case, device, None, 1
        config: dict[str, Any] = {"size": case.size}
        if case.model == TWIN:
            self.model: Any = TransformerPPForCausalLM(TransformerPPConfig(WORDS, case.context, **config))
        else:
            recipe, self.steps = CHECKED[case.model]
            self.recipe = Recipe(**{**asdict(recipe), "second_order": case.way})
            self.model = EBTForCausalLM(EBTConfig(WORDS, case.context, **config))
            head = self.model.network.head.projection.weight
            torch.nn.init.normal_(head, std=head.numel() ** -0.5)  # a flat landscape has no gradients of gradients
        self.model = self.model.to(device).train()
        self.draws = torch.Generator().manual_seed(1)
        if case.compiled:
            compile_parts(self.model, case.way == "central")

    def batch(self) -> tuple[Tensor, Tensor]:
        """Random tokens and the next ones, (rows, context) each."""
        tokens = torch.randint(0, WORDS, (self.case.rows, self.case.context + 1), generator=self.draws).to(self.device)
        return tokens[:, :-1], tokens[:, 1:]

    def loss(self) -> Tensor:
        """The loss of a batch."""
        ids, target = self.batch()
        mixed = torch.autocast(self.device.type, torch.bfloat16) if self.case.precision == "bf16" else nullcontext()
        with mixed:
            if self.recipe is None:
                return F.cross_entropy(self.model(ids).logits.flatten(0, 1).float(), target.flatten())
            geometry = self.model.geometry()
            like = geometry.start((1, 1), 1.0)
            start = torch.randn(*ids.shape, like.shape[-1], generator=self.draws).to(like)
            thinking = self.model.landscape(ids), geometry, self.model.update(), start, target, self.model.step_size
            return supervise(*thinking, self.recipe, steps=self.steps).loss

    def operations(self) -> float:
        """Least operations of an update."""
        sizes = sizes_of(self.model.network, self.recipe or Recipe(), WORDS, 0)
        return floor(sizes, self.recipe, self.steps).total * self.case.rows * self.case.context

    def gradients(self) -> dict[str, Tensor]:
        """Gradients of a batch."""
        self.model.zero_grad()
        self.loss().backward()
        named = self.model.named_parameters()
        return {name: weight.grad.double().cpu() for name, weight in named if weight.grad is not None}


def correctness(device: torch.device) -> list[dict[str, Any]]:
    """Losses and gradients of small models against exact ones in float64 on the CPU."""
    found = []
    for model in (TWIN, *CHECKED):
        ways = ("",) if model == TWIN else ("exact", "central")
        right = Case(model, ways[0], False, "32", "nano", 64, 4).make(torch.device("cpu"))
        right.model.double()
        loss, expected = right.loss().item(), {}
        right.draws.manual_seed(1)
        expected = right.gradients()
        for way in ways:
            for precision in PRECISIONS:
                trainee = Case(model, way, False, precision, "nano", 64, 4).make(device)
                difference = abs(trainee.loss().item() - loss)
                trainee.draws.manual_seed(1)
                error, cosine = compared(trainee.gradients(), expected)
                found.append(
                    {"model": model, "way": way, "precision": precision, "loss": difference, "error": error, "cosine": cosine}
                )
    return found


def compared(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, float]:
    """Relative error and cosine of all gradients together."""
    one, other = (torch.cat([part[name].flatten() for name in expected]) for part in (found, expected))
    return float((one - other).norm() / other.norm()), float(one @ other / one.norm() / other.norm())


def measure(case: Case, device: torch.device, rounds: int) -> dict[str, Any]:
    """Speed and memory of an update, or the reason why it does not run."""
    started = time.monotonic()
    try:
        with warnings.catch_warnings(action="error", category=CompileWarning):  # it would run uncompiled
            trainee = case.make(device)
            optimiser = torch.optim.AdamW(trainee.model.parameters(), lr=1e-4, fused=True)

            def update() -> None:
                optimiser.zero_grad()
                trainee.loss().backward()
                optimiser.step()

            update()
            update()
            prepared = time.monotonic() - started
            base = reset_peak(device)
            times = [timed(update, device) for _ in range(rounds)]
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    except (CompileWarning, InputError) as error:
        return {"failed": str(error)}
    tokens = case.rows * case.context
    return {
        "seconds": median(times),
        "tokens_per_second": tokens / median(times),
        "operations_per_second": trainee.operations() / median(times),
        "memory": None if base is None else (torch.cuda.max_memory_allocated(device) - base) / 1e6,
        "prepared": prepared,
        "graphs": graphs(trainee.model) if case.compiled else 0,
    }


def timed(run: Callable[[], None], device: torch.device) -> float:
    """Seconds of a call."""
    wait(device)
    began = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> int | None:
    """Forget the peak of memory; return what is allocated now, or None where it is not known."""
    gc.collect()
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """Operations per second of a matrix product."""
    one = torch.randn(width, width, device=device, dtype=dtype)
    out = torch.empty_like(one)

    def product() -> None:
        torch.mm(one, one, out=out)

    times = [timed(product, device) for _ in range(6)]
    return 2 * width**3 / min(times)


def cases(sizes: Sequence[str], contexts: Sequence[int], tokens: int, compile_too: bool) -> Iterator[Case]:
    """What to measure, the most important first: bfloat16 before 32 bits, compiled before eager."""
    for precision in reversed(PRECISIONS):
        for size in sizes:
            for context in contexts:
                rows = max(1, tokens // context)
                for compiled in (True, False) if compile_too else (False,):
                    yield Case(TWIN, "", compiled, precision, size, context, rows)
                    for model in RECIPES:
                        yield Case(model, "central", compiled, precision, size, context, rows)
                for model in RECIPES:
                    yield Case(model, "exact", False, precision, size, context, rows)


def show(found: dict[str, Any], console: Console) -> None:
    """Print both tables."""
    table = plain_table()
    for column in ("model", "way", "precision", "loss", "error", "cosine"):
        table.add_column(column, justify="left" if column in ("model", "way") else "right", no_wrap=True)
    for one in found["correctness"]:
        numbers = (f"{one['loss']:.1e}", f"{one['error']:.1e}", f"{one['cosine']:.6f}")
        table.add_row(one["model"], one["way"], one["precision"], *numbers)
    print_table(console, "Losses and gradients against float64 on the CPU", table)
    table = plain_table()
    for column in ("size", "context", "precision", "model", "way", "tokens/s", "/ twin", "MFU", "MB"):
        table.add_column(column, justify="left" if column in ("model", "way") else "right", no_wrap=True)
    twins = {
        twin_key(one["case"]): one["seconds"] for one in found["speed"] if one["case"]["model"] == TWIN and "seconds" in one
    }
    for one in found["speed"]:
        case = one["case"]
        first = (
            case["size"],
            f"{case['context']:,}",
            case["precision"],
            case["model"],
            ", ".join(filter(None, (case["way"], "compiled" if case["compiled"] else ""))),
        )
        if "failed" in one:
            table.add_row(*first, "failed")
            continue
        twin = twins.get(twin_key(case)) or twins.get(twin_key({**case, "compiled": False}))
        memory = "" if one["memory"] is None else f"{one['memory']:,.0f}"
        share = one["operations_per_second"] / found["peak"][case["precision"]]
        ratio = "" if twin is None else f"{one['seconds'] / twin:.2f}"
        table.add_row(*first, f"{one['tokens_per_second']:,.0f}", ratio, f"{share:.2f}", memory)
    caption = "/ twin: time over transformer++ with the same kernels; MB: peak above what is allocated between updates"
    print_table(console, f"Training on {found['device']}", table, caption)
    for reason in sorted({one["failed"] for one in found["speed"] if "failed" in one}):
        console.print(f"failed: {reason}", highlight=False, markup=False)


def twin_key(case: dict[str, Any]) -> tuple[Any, ...]:
    return case["compiled"], case["precision"], case["size"], case["context"], case["rows"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    args, console = options().parse_args(argv), Console()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        console.print("no CUDA device: give --device cpu, or run the benchmark where there is one", highlight=False)
        return 2
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    settings = {"device": name, "torch": torch.__version__, "words": WORDS, "tokens": args.tokens, "given_peak": args.peak}
    path, deadline = Path(args.json), time.monotonic() + 60 * args.minutes
    found = json.loads(path.read_text()) if path.is_file() else {}
    if {key: found.get(key) for key in settings} != settings:
        if found:
            console.print(f"{path} is of another device or setting: give another --json", highlight=False)
            return 2
        width = 8192 if device.type == "cuda" else 1024
        peaks = {key: args.peak or peak(device, dtype, width) for key, dtype in PRECISIONS.items()}
        found = {**settings, "peak": peaks, "correctness": correctness(device), "speed": []}
        write_json(found, path)
    done = [one["case"] for one in found["speed"]]
    waiting = [case for case in cases(args.sizes, args.contexts, args.tokens, not args.eager) if asdict(case) not in done]
    for i, case in enumerate(waiting):
        if time.monotonic() > deadline:
            console.print(f"{len(waiting) - i} measurements are left: run the same command again", highlight=False)
            break
        console.print(f"{i + 1} of {len(waiting)}: {' '.join(str(value) for value in asdict(case).values())}", highlight=False)
        found["speed"].append({"case": asdict(case), **measure(case, device, args.rounds)})
        write_json(found, path)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    show(found, console)
    return 0


def options() -> argparse.ArgumentParser:
    """Command-line options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", default="gpu.json", metavar="FILE", help="results, and where to continue (default: gpu.json)")
    add("--device", default="cuda", help="device to train on (default: cuda)")
    add("--minutes", type=float, default=8.0, help="start no measurement after this time (default: 8)")
    add("--sizes", nargs="+", choices=SIZES, default=["small", "micro", "medium"], metavar="SIZE", help="sizes of models")
    add("--contexts", nargs="+", type=int, default=[1024, 256, 4096, 8192], metavar="N", help="lengths of contexts")
    add("--tokens", type=int, default=TOKENS, metavar="N", help=f"tokens of an update (default: {TOKENS:,})")
    add("--rounds", type=int, default=ROUNDS, metavar="N", help=f"measured updates (default: {ROUNDS})")
    add("--peak", type=float, metavar="FLOPS", help="operations per second of the device, for MFU (default: measured)")
    add("--eager", action="store_true", help="leave out compiled models")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    sys.exit(main())

"""``ebt plan``: estimate parameters, operations, memory and days of a training run.

The training step of a configuration is rehearsed on fake tensors.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from rich.console import Console
from rich.table import Column
from torch._subclasses.fake_tensor import FakeTensorMode

from ebt.cli.terminal import plain_table, print_table
from ebt.cli.training import TrainingCLI, configure
from ebt.errors import InputError
from ebt.problems.language.data import TextDataModule
from ebt.problems.language.task import LanguageTask
from ebt.problems.language.tokenizers import load_tokenizer, vocabulary_size
from ebt.thinking import Recipe
from ebt.thinking.fast.adjoint import rows_together
from ebt.thinking.fast.vocabulary import CHUNK
from ebt.training.plan import USABLE, Memory, Sizes, floor, largest_batch, parse_bytes, sizes_of, tokens_per_day
from ebt.training.rehearsal import Rehearsal, Update, extended, rehearse
from ebt.training.second_order import choose
from ebt.training.sharding import Sharded, supported

SMALL = 2
"""A vocabulary size of negligible cost, the reference for the memory of a vocabulary."""


class PlanCLI(TrainingCLI):
    """Reads a configuration without creating the trainer, because the devices may not be on this machine."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        return None


@dataclass(frozen=True)
class PlannedRun:
    """The settings of a configuration that a plan depends on."""

    task: LanguageTask
    """Its recipe has ``second_order`` resolved for the planned device."""
    vocabulary: int
    context: int
    batch: int
    accumulate: int
    updates: int
    precision: str
    device: str
    """Type of the planned device: cpu, or cuda for any other accelerator."""
    sharded: bool = False
    """Whether weights, gradients and optimiser state are sharded across devices."""

    @property
    def recipe(self) -> Recipe | None:
        """The recipe, or None for Transformer++."""
        return self.task.recipe if self.task.network.kind == "ebt" else None

    def schedule(self, drawn: int) -> tuple[int, ...]:
        """Return the step schedule of a batch with ``drawn`` steps."""
        return replace(self.task.recipe, min_steps=drawn, max_steps=drawn).draw_schedule()

    @property
    def mean_steps(self) -> float:
        return self.task.recipe.mean_steps

    def rows(self, batch: int) -> int:
        """Return the number of rows of a batch, including replayed ones."""
        recipe = self.task.recipe
        return batch + (max(1, round(recipe.replay_fraction * batch)) if recipe.replay_size else 0)


def planned_run(arguments: list[str], vocabulary: int | None) -> PlannedRun:
    """Read the configuration to plan.

    Raises:
        InputError: The configuration is invalid, or does not train a language model from scratch.
    """
    cli = configure(arguments, kind=PlanCLI)
    task, data, trainer = cli.model, cli.datamodule, cli.config["trainer"]
    if not isinstance(task, LanguageTask) or not isinstance(data, TextDataModule):
        raise InputError(f"ebt plan is for language models (LanguageTask with TextDataModule), not {type(task).__name__}.")
    if task.network.pretrained is not None:
        raise InputError("network.pretrained is set: plan a new model of that size instead (model.network.layers, dim, ...).")
    precision = str(trainer["precision"])
    if precision not in _PRECISIONS:
        raise InputError(f"trainer.precision is {trainer['precision']!r}: choose 32-true, bf16-mixed or bf16-true.")
    words = vocabulary or vocabulary_size(load_tokenizer(data.tokenizer_spec))
    device = "cpu" if trainer["accelerator"] == "cpu" else "cuda"
    accumulate = trainer["accumulate_grad_batches"]
    sizes = (words, data.context_length, data.batch_size)
    strategy = supported(cli.config_init["trainer"]["strategy"])
    task.check_strategy(strategy)
    sharded = isinstance(strategy, Sharded)
    causes = {"sharded": sharded, "checkpoints": task.checkpoint_activations}
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
    task.recipe = replace(task.recipe, second_order=choose(task.recipe, device, dtype, **causes).way)
    return PlannedRun(task, *sizes, accumulate, trainer["max_steps"], precision, device, sharded)


_PRECISIONS: dict[str, Precision] = {
    **dict.fromkeys(("None", "32", "32-true"), Precision()),
    **dict.fromkeys(("bf16", "bf16-mixed"), MixedPrecision("bf16-mixed", "cpu")),
    "bf16-true": HalfPrecision("bf16-true"),
}
"""What the trainer makes of its setting. Rehearsals run on fake CPU tensors."""


class Rehearsals:
    """Cached rehearsals of one run at several batch sizes."""

    def __init__(self, run: PlannedRun, devices: int) -> None:
        self.run, self.devices, self._rows_at_once = run, devices, run.task.recipe.rows_at_once
        with FakeTensorMode():
            self._model: Any = run.task.network.build(run.vocabulary, run.context, run.task.recipe, run.task.steps)
        self._most = cache(self._memory)

    def memory(self, batch: int) -> Memory:
        """Return the memory per device by part, in bytes."""
        whole = self._most(batch, self.run.vocabulary)
        words = min(max(0, whole.activations - self._most(batch, SMALL).activations), whole.activations)
        return Memory(*self._at_rest(whole), whole.activations - words, words, self._communication(whole))

    def peak(self, batch: int) -> int:
        """Return the peak memory per device, in bytes."""
        whole = self._most(batch, self.run.vocabulary)
        return sum(self._at_rest(whole)) + whole.activations + self._communication(whole)

    def _at_rest(self, whole: Rehearsal) -> tuple[int, int, int]:
        """Return the bytes of weights, gradients and optimiser state per device."""
        owners = self.devices if self.run.sharded else 1
        return -(-whole.weights // owners), -(-whole.gradients // owners), -(-whole.optimiser // owners)

    def _communication(self, whole: Rehearsal) -> int:
        if self.devices == 1:
            return 0
        if not self.run.sharded:
            return whole.gradients
        blocks = self._model.network.blocks
        inside = sum(weight.numel() for weight in blocks.parameters())
        block = inside / len(blocks)
        # up to two blocks and the gradients of one; all other weights and their gradients
        gathered = (min(2, len(blocks)) + 1) * block + 2 * (self.parameters - inside)
        return round(whole.weights * gathered / self.parameters)

    def operations_per_token(self) -> float:
        """Return the executed operations per new token, averaged over the numbers of steps, the warm start and the burn-in."""
        recipe, rows, words = self.run.task.recipe, self.run.rows(4), self.run.vocabulary

        def executed(drawn: int, burn_in: int = 0) -> int:
            return self._rehearsal(rows, rows, words, drawn, burn_in=burn_in).operations

        found = {drawn: executed(drawn) for drawn in {recipe.min_steps, recipe.max_steps}}
        mean = (1 - recipe.warm_start) * sum(found.values()) / len(found)
        if most := recipe.burn_in:
            one, two = (executed(recipe.min_steps, steps) for steps in (1, 2))
            step, again = two - one, one - found[recipe.min_steps] - (two - one)  # the context is encoded again
            mean += 2 * recipe.mean_burn_in / most * (step * most / 2 + again * most / (most + 1))
        if recipe.warm_start:  # without replayed rows
            mean += recipe.warm_start * self._rehearsal(4, 4, words, 1, warm=True).operations
        return mean / (4 * self.run.context)

    def sizes(self) -> Sizes:
        """Return the sizes that the number of operations depends on."""
        return sizes_of(self._model.network, self.run.task.recipe, self.run.vocabulary, self.run.context)

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self._model.parameters())

    @property
    def non_embedding(self) -> int:
        return sum(weight.numel() for weight in self._model.network.parameters())

    def _memory(self, batch: int, vocabulary: int) -> Rehearsal:
        """Rehearse a batch; large batches are extrapolated from one and two groups of rows. If all rows form one group, the
        unit is the number of rows that fill a vocabulary chunk."""
        rows, drawn = self.run.rows(batch), self.run.task.recipe.max_steps
        group = self._rows_together(rows)
        unit = group if group < rows else -(-CHUNK // (self.run.context * vocabulary))
        if rows <= 2 * unit:
            return self._rehearsal(rows, group, vocabulary, drawn)
        one, two = (self._rehearsal(few * unit, min(group, few * unit), vocabulary, drawn) for few in (1, 2))
        return extended(one, two, rows / unit - 2)

    def _rows_together(self, rows: int) -> int:
        """Return how many of ``rows`` rows have their graphs in memory at the same time, on the planned device."""
        numbers = self.run.context * self._model.network.config.dim
        alone = self.run.recipe is None or self.run.sharded
        together = rows if alone else rows_together(rows, numbers, self.run.device)
        return min(rows, self._rows_at_once or together)

    def _rehearsal(self, rows: int, group: int, vocabulary: int, drawn: int, warm: bool = False, burn_in: int = 0) -> Rehearsal:
        """Rehearse the full network, extrapolated from two and three layers so that depth costs no time."""
        layers = self._model.network.config.layers
        if layers <= 3:
            return self.rehearsed(layers, rows, group, vocabulary, drawn, warm, burn_in)
        two, three = (self.rehearsed(few, rows, group, vocabulary, drawn, warm, burn_in) for few in (2, 3))
        return extended(two, three, layers - 3)

    def rehearsed(
        self, layers: int, rows: int, group: int, vocabulary: int, drawn: int, warm: bool = False, burn_in: int = 0
    ) -> Rehearsal:
        """Rehearse an update with ``drawn`` steps and ``layers`` layers, ``group`` rows at once, in or after the warm start."""
        run, task = self.run, self.run.task
        schedule, network, precision = run.schedule(drawn), replace(task.network, layers=layers), _PRECISIONS[run.precision]

        def make() -> Update:
            with precision.module_init_context():
                task.model = network.build(vocabulary, run.context, task.recipe, task.steps)
            task.recipe = replace(task.recipe, rows_at_once=group)
            task.checkpoint_blocks()
            task.draw_schedule, task.draw_burn_in = lambda: schedule, lambda: burn_in  # type: ignore[method-assign]
            task.budget = lambda: 0.0 if warm else 1.0
            words = torch.zeros(rows, run.context, dtype=torch.long)
            inputs = {"input_ids": words, "targets": words}
            return Update(task, task.optimisation.optimiser(task), lambda: task.learn(inputs).loss, task.optimisation.clip)

        return rehearse(make, precision.forward_context())


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    room = parse_bytes(args.device_memory)
    if args.json is not None:
        _write(args.json, "")  # fail early if the file cannot be written
    plan, console = _plan(args, room), Console()
    table = plain_table(Column(no_wrap=True), Column(justify="right", no_wrap=True))
    for name, value in _rows(plan):
        table.add_row(name, value)
    print_table(console, f"plan: {plan['devices']} x {_size(room)}", table)
    if not plan["fits"]:
        largest = f"at most {plan['largest_batch']}" if plan["largest_batch"] else "not even one context"
        needed = f"{_size(plan['memory']['total'])} of {_size(room)}, with 10 % left free; {largest} fits."
        console.print(f"[bold red]does not fit[/]: {needed}", highlight=False)
    if args.json is not None:
        _write(args.json, json.dumps(plan, indent=1) + "\n")
    return 0


def _plan(args: argparse.Namespace, room: int) -> dict[str, Any]:
    """Return the plan as JSON values. Sizes are in bytes; ``least`` and ``executed`` are operations per token. ``second_order``
    is exact or central, None for Transformer++."""
    run = planned_run([*(f"--config={file}" for file in args.config), *args.keys], args.vocabulary)
    batch, updates = args.batch or run.batch, args.updates or run.updates
    if args.tokens is None and updates < 1:
        raise InputError("trainer.max_steps is not set in the configuration: give --tokens or --updates.")
    tokens_per_update = args.devices * batch * run.context * run.accumulate
    tokens = int(args.tokens) if args.tokens is not None else tokens_per_update * updates
    rehearsals = Rehearsals(run, args.devices)
    memory, least = rehearsals.memory(batch), floor(rehearsals.sizes(), run.recipe, run.mean_steps)
    executed = rehearsals.operations_per_token()
    daily = tokens_per_day(args.devices, args.flops, executed)
    return {
        "parameters": rehearsals.parameters,
        "non_embedding": rehearsals.non_embedding,
        "second_order": None if run.recipe is None else run.recipe.second_order,
        "devices": args.devices,
        "batch": batch,
        "tokens_per_update": tokens_per_update,
        "least": {**asdict(least), "total": least.total},
        "executed": executed,
        "memory": {**asdict(memory), "total": memory.total},
        "device_memory": room,
        "largest_batch": largest_batch(rehearsals.peak, USABLE * room),
        "tokens_per_day": daily,
        "tokens": tokens,
        "days": tokens / daily,
        "fits": memory.total <= USABLE * room,
    }


_WAYS = {"exact": "exact (double backward)", "central": "central differences"}


def _rows(plan: dict[str, Any]) -> list[tuple[str, str]]:
    least, memory, executed = dict(plan["least"]), dict(plan["memory"]), plan["executed"]
    operations, total = least.pop("total"), memory.pop("total")
    return [
        ("parameters", f"{plan['parameters']:,}"),
        ("  without embeddings", f"{plan['non_embedding']:,}"),
        *([("gradients of gradients", _WAYS[plan["second_order"]])] if plan["second_order"] else []),
        ("minimum operations per token", f"{operations:.4g}"),
        *((f"  {name}", f"{value:.4g}") for name, value in least.items()),
        ("executed operations per token", f"{executed:.4g}  ({executed / operations:.2f} x)"),
        (f"memory per device, {plan['batch']} contexts", _size(total)),
        *((f"  {name}", _size(value)) for name, value in memory.items()),
        ("largest batch that fits", f"{plan['largest_batch']:,}"),
        ("tokens per update", f"{plan['tokens_per_update']:,}"),
        ("tokens per day", f"{plan['tokens_per_day']:.4g}"),
        (f"days for {plan['tokens']:.4g} tokens", f"{plan['days']:.3g}"),
    ]


def _size(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"


def _write(path: str, text: str) -> None:
    try:
        with Path(path).open("a" if not text else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"--json {path} cannot be written ({error}): choose another file.") from error

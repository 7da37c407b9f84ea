"""``ebt plan``: parameters, operations, memory and days of a training, before anyone pays for a cluster."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ebt.cli.terminal import Options, count_from, number_in, plain_table, print_table
from ebt.errors import InputError

_EPILOG = """
every key of a configuration is an option, too: --model.network.size xl, --trainer.precision bf16-mixed
the training step itself is rehearsed on tensors without numbers: its memory is that of the code, at any size in seconds
with --trainer.accelerator cpu as on a CPU, where gradients are taken of a few rows at a time; otherwise of all rows at once
a tenth of each device is left free for kernels, communication and the gaps of the allocator
"""


def _options() -> Options:
    options = Options(
        "plan",
        "What training a language model will take: parameters, operations per token, memory of a device by part, days.",
        "ebt plan --config language/ebt --devices 8 --device-memory 80GB --flops 400e12 --tokens 20e9 \\\n"
        "    --model.network.size xl --data.context_length 2048 --vocabulary 50277",
    )
    options.epilog = f"{options.epilog}\n{_EPILOG}"
    options.usage = "ebt plan --config FILE --device-memory SIZE --flops F [OPTIONS] [--KEY VALUE ...]"
    options.add_argument("-c", "--config", action="append", required=True, metavar="FILE", help="as for `ebt fit`")
    options.add_argument("--devices", type=count_from(1), default=1, metavar="N", help="all together (default: 1)")
    options.add_argument("--device-memory", required=True, metavar="SIZE", help="of each, such as 80GB or 40GiB")
    options.add_argument(
        "--flops", type=number_in(0), required=True, metavar="F", help="operations a second that each device really reaches"
    )
    options.add_argument(
        "--batch", type=count_from(1), metavar="B", help="contexts on each device (default: the configuration's)"
    )
    options.add_argument("--vocabulary", type=count_from(2), metavar="V", help="words (default: the tokenizer's)")
    budget = options.add_mutually_exclusive_group()
    budget.add_argument("--tokens", type=number_in(0), metavar="T", help="budget, such as 20e9")
    budget.add_argument("--updates", type=count_from(1), metavar="U", help="budget (default: the configuration's max_steps)")
    options.add_argument("--json", metavar="FILE", help="write the plan into this file, too")
    return options


def main(argv: list[str]) -> int:
    """Run the command."""
    args, rest = _options().parse_known_args(argv)
    from ebt.training.plan import parse_bytes

    room = parse_bytes(args.device_memory)
    if args.json is not None:
        _write(args.json, "")  # a file that cannot be written is told before the work
    plan = _plan(args, rest, room)
    _show(Console(), plan)
    if args.json is not None:
        _write(args.json, _as_json(plan))
    return 0


def _plan(args: argparse.Namespace, rest: list[str], room: int) -> Any:
    from ebt.cli.rehearsals import Rehearsals, planned_run
    from ebt.training.plan import USABLE, Plan, floor, largest_batch, tokens_per_day

    run = planned_run([*(f"--config={file}" for file in args.config), *rest], args.vocabulary)
    batch = args.batch or run.batch
    tokens_per_update = args.devices * batch * run.context * run.accumulate
    tokens = int(args.tokens) if args.tokens is not None else tokens_per_update * _updates(args, run)
    rehearsals = Rehearsals(run, args.devices)
    memory, least = rehearsals.memory(batch), floor(rehearsals.sizes(), run.recipe, run.mean_steps)
    executed = rehearsals.operations_per_token()
    daily = tokens_per_day(args.devices, args.flops, executed)
    return Plan(
        parameters=rehearsals.parameters,
        non_embedding=rehearsals.non_embedding,
        devices=args.devices,
        batch=batch,
        tokens_per_update=tokens_per_update,
        least=least,
        executed=executed,
        memory=memory,
        device_memory=room,
        largest_batch=largest_batch(rehearsals.peak, USABLE * room),
        tokens_per_day=daily,
        tokens=tokens,
    )


def _updates(args: argparse.Namespace, run: Any) -> int:
    updates: int = args.updates or run.updates
    if updates < 1:
        raise InputError("trainer.max_steps is not set in the configuration: give --tokens or --updates.")
    return updates


def _show(console: Console, plan: Any) -> None:
    table = plain_table()
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    for name, value in _rows(plan):
        table.add_row(name, value)
    print_table(console, f"plan: {plan.devices} x {_size(plan.device_memory)}", table)
    if not plan.fits:
        largest = f"at most {plan.largest_batch}" if plan.largest_batch else "not even one context"
        console.print(
            f"[bold red]does not fit[/]: {_size(plan.memory.total)} of {_size(plan.device_memory)}, a tenth of it free; "
            f"{largest} fits.",
            highlight=False,
        )


def _rows(plan: Any) -> list[tuple[str, str]]:
    least, memory = plan.least, plan.memory
    return [
        ("parameters", f"{plan.parameters:,}"),
        ("  beside the tables of words", f"{plan.non_embedding:,}"),
        ("least operations per token", f"{least.total:.4g}"),
        ("  network", f"{least.network:.4g}"),
        ("  attention", f"{least.attention:.4g}"),
        ("  vocabulary", f"{least.vocabulary:.4g}"),
        ("operations carried out", f"{plan.executed:.4g}  ({plan.executed / least.total:.2f} x)"),
        (f"memory per device, {plan.batch} contexts", _size(memory.total)),
        *((f"  {name}", _size(value)) for name, value in asdict(memory).items()),
        ("largest batch that fits", f"{plan.largest_batch:,}"),
        ("tokens per update", f"{plan.tokens_per_update:,}"),
        ("tokens per day", f"{plan.tokens_per_day:.4g}"),
        (f"days for {plan.tokens:.4g} tokens", f"{plan.days:.3g}"),
    ]


def _size(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"


def _as_json(plan: Any) -> str:
    numbers = asdict(plan)
    numbers["memory"]["total"], numbers["least"]["total"] = plan.memory.total, plan.least.total
    return json.dumps(numbers | {"days": plan.days, "fits": plan.fits}, indent=1) + "\n"


def _write(path: str, text: str) -> None:
    try:
        with Path(path).open("a" if not text else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"--json {path} cannot be written ({error}): choose another file.") from error

"""``python -m ebt.interop.reference``: recompute recorded runs of the published code and compare the results."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ebt.errors import InputError
from ebt.files import write_json
from ebt.interop.reference.compare import Row, check, find_cases


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ebt.interop.reference",
        description="Recompute the recorded tensors of the published code with this library and compare them.",
        epilog="example: python -m ebt.interop.reference --cases tests/data/parity --case text_default --json parity.json",
    )
    parser.add_argument(
        "--cases", required=True, metavar="DIR", help="folder with CASE.json, CASE.weights, CASE.inputs, CASE.RUN_f64"
    )
    parser.add_argument("--case", metavar="NAME", help="check only this case")
    parser.add_argument("--json", metavar="OUT", help="also write the comparison to this file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the checker. Returns 0 if all deviations are within tolerance, 1 if not, and 2 for invalid input."""
    args = _arguments(argv)
    try:
        cases = find_cases(Path(args.cases))
        if args.case is not None and args.case not in cases:
            raise InputError(f"there is no case {args.case!r} in {args.cases}: choose one of {', '.join(cases)}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chosen = {name: runs for name, runs in cases.items() if args.case in (None, name)}
    rows = [row for case, runs in chosen.items() for run in runs for row in check(Path(args.cases), case, run)]
    if args.json:
        write_json([row.to_json() for row in rows], args.json)
    _print(rows)
    return 0 if rows and all(row.ok for row in rows) else 1


def _print(rows: list[Row]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("case", "run", "tensors"):
        table.add_column(column, no_wrap=True)
    for column in ("deviation", "tolerance", "rounding"):
        table.add_column(column, justify="right")
    table.add_column("ok")
    for row in rows:
        count = f" ({row.tensors})" if row.tensors > 1 else ""
        numbers = ("" if number is None else f"{number:.0e}" for number in (row.deviation, row.tolerance, row.rounding))
        table.add_row(row.case, row.run, f"{row.group}{count}", *numbers, "yes" if row.ok else "[red]NO[/red]")
    console = Console()
    console.print("This library against the published code", style="bold")
    console.print(table)
    console.print("deviation: from the record, relative to the largest entry; rounding: of float32 against float64 here")
    for row in rows:
        if row.problem:
            console.print(f"[red]{row.case}.{row.run}[/red]: {row.problem}", highlight=False)
    missed = sum(not row.ok for row in rows)
    console.print(f"{len(rows)} comparisons, {missed} missed" if missed else f"all {len(rows)} comparisons hold")


if __name__ == "__main__":
    sys.exit(main())

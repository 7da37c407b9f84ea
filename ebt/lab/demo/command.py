"""``ebt demo``: train EBTs and baselines on real data in minutes, and write a report."""

from __future__ import annotations

from ebt.cli.parser import Options, count_from


def _options() -> Options:
    options = Options(
        "demo",
        "Train EBTs and baselines on 6x6 Sudokus and the documentation of Python, evaluate them, and write report.html,\n"
        "pictures, results.json and the models. Takes about twelve minutes on two cores.\n"
        "Each baseline is trained twice: with as many updates as the EBT, and with as much processor time.",
        "ebt demo --out runs/demo",
    )
    options.add_argument("--out", metavar="DIR", default="runs/demo", help="output folder (default: runs/demo)")
    options.add_argument("--quick", action="store_true", help="tiny run of a few seconds, to check that everything works")
    options.add_argument(
        "--processes", type=count_from(1), metavar="N", help="number of parallel processes (default: one per core)"
    )
    options.seed("weights, puzzles, batches and random starts")
    return options


def main(argv: list[str]) -> int:
    """Run the command."""
    args = _options().parse_args(argv)
    from ebt.lab.demo.run import run

    return run(args)

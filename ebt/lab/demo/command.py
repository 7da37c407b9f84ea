"""``ebt demo``: Energy-Based Transformers against their feed-forward twins on real data, in minutes, with a report."""

from __future__ import annotations

from ebt.cli.terminal import Options, count_from


def _options() -> Options:
    options = Options(
        "demo",
        "Train an Energy-Based Transformer and its rivals on 6x6 Sudokus and on the documentation of Python, let them think,\n"
        "and write what came of it: report.html, pictures, results.json and the models. Twelve minutes on two cores.\n"
        "The rivals get as many updates as the EBTs, and once more as much processor time.",
        "ebt demo --out runs/demo",
    )
    options.add_argument("--out", metavar="DIR", default="runs/demo", help="folder of the results (default: runs/demo)")
    options.add_argument("--quick", action="store_true", help="seconds instead of minutes: everything runs, nothing is learned")
    options.add_argument(
        "--processes",
        type=count_from(1),
        metavar="N",
        help="trainings at once (default: one per core)",
    )
    options.seed("weights, puzzles, batches and starts")
    return options


def main(argv: list[str]) -> int:
    """Run the command."""
    args = _options().parse_args(argv)
    from ebt.lab.demo.run import run

    return run(args)

"""``ebt probe``: what the features of an image model know, by a linear classifier on top of them."""

from __future__ import annotations

from ebt.cli.terminal import Options, count_from

DIGITS = "digits"


def _options() -> Options:
    options = Options(
        "probe",
        "Train a linear classifier on the features of image models, and test it.",
        f"ebt probe --checkpoint runs/ebt --baseline runs/dit --data {DIGITS}",
    )
    options.checkpoint()
    options.add_argument(
        "--baseline", action="append", default=[], metavar="DIR", help="another model to compare with; may be repeated"
    )
    options.add_argument(
        "--data", default=DIGITS, metavar="SOURCE", help="a folder with a folder for each class, or a dataset (default: digits)"
    )
    options.add_argument(
        "--limit", type=count_from(10), default=2000, metavar="N", help="at most so many images (default: 2000)"
    )
    options.seed("the split")
    options.out("probe.json")
    return options


def main(argv: list[str]) -> int:
    """Run the command."""
    args = _options().parse_args(argv)
    from ebt.cli.probing import run

    return run(args)

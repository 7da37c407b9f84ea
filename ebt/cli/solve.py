"""``ebt solve``: a Sudoku board fills in while the model thinks about it; or all puzzles of a file are solved."""

from __future__ import annotations

from ebt.cli.terminal import RULES, Options, count_from, number_in

BUDGET = {"board": 10.0, "file": 60.0}
"""Seconds."""


def _options() -> Options:
    options = Options(
        "solve",
        "Think about a Sudoku puzzle and watch the board fill in; or solve all puzzles of a file.\n\n"
        "A board can be checked by the rules. So the first attempt thinks with the model's own steps and candidates, and\n"
        "attempt k with 2^k times as many (at most 8 times the steps, 32 times the candidates), from other random starts,\n"
        "until a candidate is valid or the budget is spent. Of a file, each attempt is about what is not yet solved.\n"
        "With --steps or --candidates there is one attempt, exactly so. Looped models iterate 16 to 128 times.",
        "ebt solve --checkpoint runs/sudoku --givens 10 --steps 16 --candidates 8\n"
        "  ebt solve --checkpoint runs/sudoku .5.3..1...26.4..6......2......5.6...\n"
        "  ebt solve --checkpoint runs/sudoku --csv puzzles.csv --out solved",
    )
    options.checkpoint()
    add = options.add_argument
    add(
        "puzzle",
        nargs="?",
        metavar="PUZZLE",
        help="cells row by row, 0 . _ or * where empty; | - and spaces are skipped, # begins a comment; or a .sdk or .ss file",
    )
    add("--csv", metavar="FILE", help="puzzles, one a line, instead of PUZZLE")
    add("--givens", type=count_from(1), metavar="N", help="make a new puzzle with so many givens instead of PUZZLE")
    thinking = options.add_argument_group("thinking (defaults: those of the model)")
    thinking.add_argument("--steps", type=count_from(1), metavar="N", help="thinking steps, or iterations of a looped model")
    thinking.add_argument("--candidates", type=count_from(1), metavar="M", help="candidates; the lowest energy wins")
    thinking.add_argument("--rule", choices=RULES, help="which candidate wins (default: lowest)")
    thinking.add_argument("--tolerance", type=number_in(0), metavar="T", help="stop when probabilities move by less than this")
    options.scale_and_noise(thinking)
    default = f"default: {BUDGET['board']:g}, of a file {BUDGET['file']:g}; the first attempt is always finished"
    thinking.add_argument("--budget", type=number_in(0), metavar="SECONDS", help=f"for attempts until all is valid ({default})")
    options.seed("the random starts and the new puzzle")
    options.out("solve.json, and solutions.csv for a file or board.png for a single board,")
    return options


def main(argv: list[str]) -> int:
    """Run the command."""
    args = _options().parse_args(argv)
    from ebt.cli.solving import run

    return run(args)

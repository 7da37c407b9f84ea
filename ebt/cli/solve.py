"""``ebt solve``: a Sudoku board fills in while the model thinks about it; or statistics over a CSV file."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from ebt.cli.terminal import (
    RULES,
    Options,
    count_from,
    number_in,
    out_folder,
    plain_table,
    print_table,
    progress_bar,
    say_written,
    scaled_and_noisy,
)
from ebt.errors import InputError
from ebt.evaluation.results import to_json, write_json
from ebt.problems.folder import load_folder
from ebt.problems.sudoku.boards import board_errors, format_board, generate, is_solved, parse_board, read_csv, solutions
from ebt.problems.sudoku.metrics import BoardThinking, sudoku_curve, watch_board
from ebt.problems.sudoku.pictures import board_strip

SHOWN = (0, 1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = 4.0
"""Longest showing of a board in a terminal, in seconds."""


@dataclass(frozen=True)
class Solved(BoardThinking):
    """What goes to JSON: the thinking, and whether it led to the solution."""

    solution: list[int]
    solved: bool


def _options() -> Options:
    options = Options(
        "solve",
        "Think about a Sudoku puzzle and watch the board fill in; or solve all puzzles of a CSV file.",
        "ebt solve --checkpoint runs/sudoku --givens 10 --steps 16 --candidates 8\n"
        "  ebt solve --checkpoint runs/sudoku .5.3..1...26.4..6......2......5.6...\n"
        "  ebt solve --checkpoint runs/sudoku --csv puzzles.csv --tolerance 0.001",
    )
    options.checkpoint()
    options.add_argument(
        "puzzle", nargs="?", metavar="PUZZLE", help="cells row by row, 0 . _ or * where empty; | - and spaces are skipped"
    )
    options.add_argument("--csv", metavar="FILE", help="puzzles, one a line, instead of PUZZLE")
    options.add_argument(
        "--givens", type=count_from(1), metavar="N", help="make a new puzzle with so many givens instead of PUZZLE"
    )
    thinking = options.add_argument_group("thinking (defaults: those of the model)")
    thinking.add_argument("--steps", type=count_from(1), metavar="N", help="thinking steps")
    thinking.add_argument("--candidates", type=count_from(1), metavar="M", help="candidates; the lowest energy wins")
    thinking.add_argument("--rule", choices=RULES, default="lowest", help="which candidate wins (default: lowest)")
    thinking.add_argument("--tolerance", type=number_in(0), metavar="T", help="stop when probabilities move by less than this")
    options.scale_and_noise(thinking)
    options.seed("the random starts and the new puzzle")
    options.out("solve.json, and board.png for a single board,")
    return options


def main(argv: list[str]) -> int:
    """Run the command."""
    args, console = _options().parse_args(argv), Console()
    if sum(given is not None for given in (args.puzzle, args.csv, args.givens)) != 1:
        raise InputError("Give exactly one of PUZZLE, --csv FILE and --givens N.")
    model = load_folder(args.checkpoint, "ebt_sudoku")
    how = model.thinking
    args.steps, args.candidates = args.steps or how.steps, args.candidates or how.candidates
    args.options = scaled_and_noisy(args, [model], args.candidates)
    args.options |= {"rule": args.rule, "tolerance": args.tolerance, "seed": args.seed}
    folder = out_folder(args.out)
    if args.csv is not None:
        _solve_file(args, console, model, folder)
    else:
        _solve_board(args, console, model, folder)
    return 0


def _solve_file(args: argparse.Namespace, console: Console, model: Any, folder: Path | None) -> None:
    boards = read_csv(args.csv, model.config.board)
    puzzles, solved = torch.from_numpy(boards.puzzles), torch.from_numpy(boards.solutions)
    with progress_bar("solving", len(puzzles)) as bar:
        curve = sudoku_curve(model, puzzles, solved, [args.steps], [args.candidates], progress=bar, **args.options)
    point = curve.points[0]
    title = f"{Path(args.csv).name}: {len(puzzles)} puzzles of {model.config.board} x {model.config.board}"
    table = plain_table()
    table.show_header = False
    boards_right = round(point.exact * len(puzzles))
    table.add_row(
        "boards solved", f"{boards_right} of {len(puzzles)}, {100 * point.exact:.1f} ± {100 * point.exact_error:.1f} %"
    )
    table.add_row("empty cells right", f"{100 * point.cell:.2f} %")
    table.add_row(
        "thinking", f"up to {args.steps} steps, {point.steps_taken:.1f} taken, {args.candidates} candidate(s), {args.rule}"
    )
    table.add_row("evaluations per board", f"{point.forward:.1f} forward, {point.backward:.1f} backward passes")
    table.add_row("mean energy per board", f"{point.energy:.4g}")
    table.add_row("energy tells wrong boards (AUROC)", "-" if point.board_auroc is None else f"{point.board_auroc:.3f}")
    print_table(console, title, table)
    if folder is not None:
        write_json(curve, folder / "solve.json")
        say_written(console, [folder / "solve.json"])


def _solve_board(args: argparse.Namespace, console: Console, model: Any, folder: Path | None) -> None:
    size = model.config.board
    if args.puzzle is not None:
        puzzle = parse_board(args.puzzle, size, check_unique=True)
    else:
        puzzle = generate(size, args.givens, 1, args.seed).puzzles[0]
    truth = solutions(puzzle, size, 1)[0]
    thinking = watch_board(model, torch.from_numpy(puzzle), steps=args.steps, candidates=args.candidates, **args.options)
    (_play if console.is_terminal else _print_boards)(console, thinking, size)
    solved = bool(is_solved(np.array(thinking.boards[-1], dtype=np.int8), puzzle, size))
    console.print(_verdict(thinking, size, truth, solved, args))
    if folder is not None:
        written = [folder / "solve.json", folder / "board.png"]
        write_json(Solved(**vars(thinking), solution=truth.tolist(), solved=solved), written[0])
        title = f"{'Solved' if solved else 'Not solved'} after {thinking.steps} steps"
        board_strip(to_json(thinking), written[1], solution=truth.tolist(), title=title)
        say_written(console, written)


def _play(console: Console, thinking: BoardThinking, size: int) -> None:
    """The board step by step, in place."""
    pause = min(0.4, SECONDS / len(thinking.boards))
    with Live(_frame(thinking, 0, size), console=console, auto_refresh=False) as live:
        for step in range(1, len(thinking.boards)):
            time.sleep(pause)
            live.update(_frame(thinking, step, size), refresh=True)


def _print_boards(console: Console, thinking: BoardThinking, size: int) -> None:
    """A few of the boards, side by side."""
    last = len(thinking.boards) - 1
    steps = sorted({step for step in SHOWN if step <= last} | {last})
    console.print(Columns([Padding(_frame(thinking, step, size), (0, 2, 1, 0)) for step in steps]))


def _frame(thinking: BoardThinking, step: int, size: int) -> Group:
    name = "start" if step == 0 else f"step {step}"
    return Group(Text(f"{name}: energy {thinking.energies[step]:.4g}"), _board_text(thinking, step, size))


def _board_text(thinking: BoardThinking, step: int, size: int) -> Text:
    """The board as ``format_board`` writes it: givens in brackets and bold, conflicts with ! and red, others by confidence."""
    board, puzzle = (np.array(cells, dtype=np.int8) for cells in (thinking.boards[step], thinking.puzzle))
    wrong = board_errors(board, size)
    text, cell = Text(), 0
    for character in format_board(board, size, puzzle):
        style = ""
        if character.isdigit():
            sure = round(255 - 155 * (1 - thinking.confidence[step][cell]))
            style = "bold" if puzzle[cell] else "bold red" if wrong[cell] else f"rgb({sure // 2},{sure // 2 + 40},{sure})"
            cell += 1
        text.append(character, "bold red" if character == "!" else style)
    return text


def _verdict(thinking: BoardThinking, size: int, truth: Any, solved: bool, args: argparse.Namespace) -> Text:
    board = np.array(thinking.boards[-1], dtype=np.int8)
    empty = np.array(thinking.puzzle) == 0
    conflicts, right = int(board_errors(board, size).sum()), int((board == truth)[empty].sum())
    text = Text().append("solved" if solved else "not solved", "bold green" if solved else "bold red")
    text.append(", a valid board that keeps every given" if solved else f": {conflicts} cells in conflict (marked !)")
    text.append(f"; {right} of {int(empty.sum())} empty cells right\n")
    text.append(f"energy {thinking.energies[0]:.4g} at the start, {thinking.energies[-1]:.4g} after {thinking.steps} steps")
    if args.tolerance is not None:
        text.append(f" of at most {args.steps}")
    if args.candidates > 1:
        low, high = min(thinking.candidate_energies), max(thinking.candidate_energies)
        text.append(f"; candidate {thinking.winner + 1} of {args.candidates} won ({args.rule} of {low:.4g} to {high:.4g})")
    text.append(f"\n{thinking.forward:.0f} forward and {thinking.backward:.0f} backward passes; [digit]: given, !: in conflict")
    return text

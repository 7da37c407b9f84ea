"""``ebt solve``: solve a Sudoku puzzle step by step, or all puzzles of a file."""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.text import Text
from torch import Tensor

from ebt.cli.options import BUDGET
from ebt.cli.terminal import given, out_folder, plain_table, print_table, progress_bar, say_written, scaled_and_noisy
from ebt.errors import InputError
from ebt.evaluation.measure import thinks
from ebt.evaluation.statistics import auroc
from ebt.files import finite, write_json, write_text
from ebt.problems.folder import load_folder
from ebt.problems.sudoku.boards import BOARD_FILES, board_errors, format_board, is_solved, parse_board, read_csv
from ebt.problems.sudoku.generator import generate, solutions
from ebt.problems.sudoku.metrics import BoardThinking, watched_board
from ebt.problems.sudoku.models import fill
from ebt.thinking import Thought

SHOWN = (0, 1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = 4.0
"""Maximum duration of the animation in a terminal, in seconds."""
ITERATIONS = 16
"""Iterations of a looped model in the first attempt."""
ROWS = 64
"""Maximum number of boards times candidates per batch."""
FEW_CELLS = 1_024
"""Number of cells up to which threads cost more than they save. Where other programs use the cores, too, threads that wait for
each other take up to 30 times as long."""
OWNER = "this model solves"


@dataclass
class Attempt:
    """The settings of one attempt, and its results in a file."""

    steps: int
    candidates: int
    seed: int
    puzzles: int = 0
    """Number of puzzles attempted."""
    solved: int = 0
    forward: float = 0.0
    """Forward passes of the network, summed over all puzzles."""
    backward: float = 0.0


@dataclass
class SolvedFile:
    """JSON results of a file."""

    puzzles: int
    solved: int = 0
    exact: float = 0.0
    """Fraction of the boards solved."""
    cell: float = 0.0
    """Fraction of the empty cells filled in correctly."""
    energy: float | None = None
    """Mean energy per board; None for models without an energy."""
    board_auroc: float | None = None
    attempts: list[Attempt] = field(default_factory=list)


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    if len(given(args, ("puzzle", "csv", "givens"))) != 1:
        raise InputError("Give exactly one of PUZZLE, --csv FILE and --givens N.")
    args.exact = args.steps is not None or args.candidates is not None
    if args.exact and args.budget is not None:
        raise InputError("--budget is for several attempts, and --steps or --candidates make only one: leave one of them out.")
    model = load_folder(args.checkpoint, ("ebt_sudoku", "ebt_sudoku_transformer"))
    _check_thinking(args, model)
    args.rule = args.rule or (model.thinking.rule if thinks(model) else "lowest")
    args.budget = args.budget or BUDGET["file" if args.csv is not None else "board"]
    with torch.no_grad():
        (_solve_file if args.csv is not None else _solve_board)(args, Console(), model, out_folder(args.out))
    return 0


def _check_thinking(args: argparse.Namespace, model: Any) -> None:
    """Set ``args.options``, and refuse thinking options for a model without an energy."""
    for option in () if thinks(model) else given(args, ("candidates", "rule", "tolerance")):
        raise InputError(f"--{option} needs a model that thinks, and {args.checkpoint} does not: leave it out.")
    alone = args.exact and thinks(model) and (args.candidates or model.thinking.candidates) == 1
    args.options = scaled_and_noisy(args, [model], 1 if alone else 2)  # later attempts have several candidates
    args.options |= {"tolerance": args.tolerance, "rule": args.rule}


def _attempts(args: argparse.Namespace, model: Any) -> Iterator[Attempt]:
    """Yield the attempts in order, as described in the help of the command."""
    thinking = thinks(model)
    steps = args.steps or (model.thinking.steps if thinking else ITERATIONS if model.config.loop != "none" else 1)
    candidates = args.candidates or (model.thinking.candidates if thinking else 1)
    if candidates > 1 and not args.exact:
        yield Attempt(steps, 1, args.seed)  # enough for most boards
    yield Attempt(steps, candidates, args.seed)
    number = 1
    while not args.exact and (thinking or (model.config.loop != "none" and number <= 3)):
        yield Attempt(steps * 2 ** min(number, 3), candidates * 2 ** min(number, 5) if thinking else 1, args.seed + number)
        number += 1


def _solve_file(args: argparse.Namespace, console: Console, model: Any, folder: Path | None) -> None:
    puzzles, truth = read_csv(args.csv, model.config.board, owner=OWNER)
    found, energies, valid = puzzles.copy(), np.full(len(puzzles), np.inf), np.zeros(len(puzzles), dtype=bool)
    result, end = SolvedFile(len(puzzles)), time.monotonic() + args.budget
    with progress_bar("solving", len(puzzles)) as bar:
        for attempt in _attempts(args, model):
            rows = np.flatnonzero(~valid)
            if result.attempts and (not len(rows) or time.monotonic() > end):
                break
            for part in np.split(rows, range(step := max(1, ROWS // attempt.candidates), len(rows), step)):
                if result.attempts and time.monotonic() > end:
                    break
                boards, energy = _answer(model, torch.from_numpy(puzzles[part]), attempt, args)
                solved = is_solved(boards, puzzles[part], model.config.board)
                better = solved | ~(energy >= energies[part])  # without an energy (NaN), the last attempt counts
                found[part[better]], energies[part[better]], valid[part] = boards[better], energy[better], solved
                attempt.solved += int(solved.sum())
                bar(attempt.puzzles, len(rows))
            result.attempts.append(attempt)
    empty = puzzles == 0
    result.solved, result.exact = int(valid.sum()), float(valid.mean())
    result.cell = float((found == truth)[empty].mean()) if empty.any() else 1.0
    if thinks(model):
        result.energy, result.board_auroc = float(energies.mean()), auroc(torch.from_numpy(energies), torch.from_numpy(~valid))
    _print_file(console, Path(args.csv).name, model.config.board, result, args)
    if folder is not None:
        write_json(result, folder / "solve.json")
        _write_solutions(folder / "solutions.csv", puzzles, found, valid, energies)
        say_written(console, [folder / "solve.json", folder / "solutions.csv"])


def _think(model: Any, puzzles: Tensor, attempt: Attempt, args: argparse.Namespace) -> Thought:
    how = {"steps": attempt.steps, "candidates": attempt.candidates, "seed": attempt.seed, **args.options}
    thought = model.think(puzzles, **how)
    return thought if args.exact else _valid_first(model, puzzles, thought)


def _answer(
    model: Any, puzzles: Tensor, attempt: Attempt, args: argparse.Namespace
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """Return boards (B, C) and energies (B,), NaN for models without an energy. Adds the passes to the attempt."""
    puzzles = puzzles.to(model.device).long()
    if thinks(model):
        won = _think(model, puzzles, attempt, args)
        words, energy = won.geometry.decide(won.state), won.energies[-1].sum(-1)
        forward, backward = won.evaluations.forward, won.evaluations.backward
    else:
        words, energy = model(puzzles, attempt.steps)[-1].argmax(-1), torch.full((len(puzzles),), math.nan)
        forward, backward = attempt.steps * model.passes, 0
    attempt.puzzles += len(puzzles)
    attempt.forward += forward * len(puzzles)
    attempt.backward += backward * len(puzzles)
    return fill(puzzles, words).to(torch.int8).cpu().numpy(), energy.double().cpu().numpy()


def _valid_first(model: Any, puzzles: Tensor, chosen: Thought) -> Thought:
    """Choose the valid board of lowest energy where there is one, and the rule's choice elsewhere."""
    every = chosen.candidates
    assert every is not None
    assert chosen.winner is not None
    candidates = len(every.start) // len(puzzles)
    repeated = puzzles.repeat(candidates, 1)
    boards = fill(repeated, every.geometry.decide(every.state)).cpu()
    valid = torch.from_numpy(is_solved(boards, repeated.cpu(), model.config.board)).to(puzzles.device)
    energies = every.energies[-1].sum(1).masked_fill(~valid, math.inf).unflatten(0, (candidates, -1))
    winner = torch.where(energies.isinf().all(0), chosen.winner, energies.argmin(0))
    rows = winner * len(puzzles) + torch.arange(len(puzzles), device=winner.device)
    return replace(every.rows(rows), winner=winner, candidates=every, evaluations=chosen.evaluations)


def _print_file(console: Console, name: str, size: int, result: SolvedFile, args: argparse.Namespace) -> None:
    table = plain_table()
    table.show_header = False
    last, more = result.attempts[-1], f" in {len(result.attempts)} attempts" if len(result.attempts) > 1 else ""
    error = math.sqrt(result.exact * (1 - result.exact) / result.puzzles)
    share = f"{100 * result.exact:.1f} ± {100 * error:.1f} %"
    table.add_row("boards solved", f"{result.solved} of {result.puzzles}, {share}")
    table.add_row("empty cells correct", f"{100 * result.cell:.2f} %")
    table.add_row("thinking", f"up to {last.steps} steps, {last.candidates} candidate(s), {args.rule}{more}")
    forward, backward = (sum(getattr(a, way) for a in result.attempts) / result.puzzles for way in ("forward", "backward"))
    table.add_row("evaluations per board", f"{forward:.1f} forward, {backward:.1f} backward passes")
    if result.energy is not None:
        table.add_row("mean energy per board", f"{result.energy:.4g}")
        told = "-" if result.board_auroc is None else f"{result.board_auroc:.3f}"
        table.add_row("error detection by energy (AUROC)", told)
    print_table(console, f"{name}: {result.puzzles} puzzles of {size} x {size}", table)


def _write_solutions(path: Path, puzzles: Any, found: Any, valid: Any, energies: Any) -> None:
    """Write one line per puzzle, in the order of the file."""
    lines = ["puzzle,prediction,valid,energy"]
    for puzzle, board, right, energy in zip(puzzles.tolist(), found.tolist(), valid.tolist(), energies.tolist(), strict=True):
        number = "" if math.isnan(energy) else f"{energy:.6g}"
        lines.append(f"{''.join(map(str, puzzle))},{''.join(map(str, board))},{str(right).lower()},{number}")
    write_text("\n".join(lines) + "\n", path)


def _solve_board(args: argparse.Namespace, console: Console, model: Any, folder: Path | None) -> None:
    size, end = model.config.board, time.monotonic() + args.budget
    puzzle = _puzzle(args, size)
    truth = solutions(puzzle, size, 1)[0]
    best: BoardThinking | None = None
    solved, number = False, 0
    with progress_bar("thinking") as bar:
        for number, attempt in enumerate(_attempts(args, model), 1):
            with _threads(attempt.candidates * size**2):
                thinking = _watch(model, torch.from_numpy(puzzle), attempt, args)
            solved = bool(is_solved(np.array(thinking.boards[-1], dtype=np.int8), puzzle, size))
            if solved or best is None or not best.energies or thinking.energies[-1] < best.energies[-1]:
                best, made = thinking, attempt
            bar(number, None)
            if solved or time.monotonic() > end:
                break
    assert best is not None
    (_play if console.is_terminal else _print_boards)(console, best, size)
    console.print(_verdict(best, size, truth, solved, made, number, args))
    if folder is not None:
        from ebt.problems.sudoku.pictures import board_strip

        written = [folder / "solve.json", folder / "board.png"]
        plain = finite(best)
        write_json({**plain, "solution": truth.tolist(), "solved": solved, "attempts": number}, written[0])
        title = f"{'Solved' if solved else 'Not solved'} after {best.steps} steps"
        board_strip(plain, written[1], solution=truth.tolist(), title=title)
        say_written(console, written)


def _puzzle(args: argparse.Namespace, size: int) -> npt.NDArray[np.int8]:
    if args.puzzle is None:
        return generate(size, args.givens, 1, args.seed).puzzles[0]
    if BOARD_FILES.search(args.puzzle):
        return read_csv(args.puzzle, size, owner=OWNER).puzzles[0]
    if re.search(r"[a-z]", args.puzzle, re.I) and Path(args.puzzle).is_file():
        raise InputError(f"{args.puzzle} is a file: give --csv {args.puzzle} to solve the puzzles in its lines.")
    return parse_board(args.puzzle, size, check_unique=True, owner=OWNER)


@contextmanager
def _threads(cells: int) -> Iterator[None]:
    """Use one thread for at most ``FEW_CELLS`` cells, candidates times cells of the board, and all threads for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if cells <= FEW_CELLS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _watch(model: Any, puzzle: Tensor, attempt: Attempt, args: argparse.Namespace) -> BoardThinking:
    """Record the board after each step, or after each iteration of a looped model."""
    given = puzzle.to(model.device).long().unsqueeze(0)
    if not thinks(model):
        sure, words = torch.cat(model(given, attempt.steps)).softmax(-1).max(-1)
        sure = torch.cat((torch.zeros_like(sure[:1]), sure)).masked_fill(given > 0, 1)
        boards, steps = [*given.tolist(), *fill(given, words).tolist()], len(words)
        return BoardThinking(given[0].tolist(), boards, sure.tolist(), [], 0, [], steps, steps * model.passes, 0)
    return watched_board(given, _think(model, given, attempt, args))


def _play(console: Console, thinking: BoardThinking, size: int) -> None:
    """Animate the board in place."""
    pause = min(0.4, SECONDS / len(thinking.boards))
    with Live(_frame(thinking, 0, size), console=console, auto_refresh=False) as live:
        for step in range(1, len(thinking.boards)):
            time.sleep(pause)
            live.update(_frame(thinking, step, size), refresh=True)


def _print_boards(console: Console, thinking: BoardThinking, size: int) -> None:
    """Print the boards after selected steps side by side."""
    last = len(thinking.boards) - 1
    steps = sorted({step for step in SHOWN if step <= last} | {last})
    console.print(Columns([Padding(_frame(thinking, step, size), (0, 2, 1, 0)) for step in steps]))


def _frame(thinking: BoardThinking, step: int, size: int) -> Text:
    """Format the board with ``format_board``: givens bold in brackets, conflicts red with !, other cells by confidence."""
    name = "start" if step == 0 else f"step {step}"
    energy = f": energy {thinking.energies[step]:.4g}" if thinking.energies else ""
    board, puzzle = (np.array(cells, dtype=np.int8) for cells in (thinking.boards[step], thinking.puzzle))
    wrong = board_errors(board, size)
    text, cell = Text(f"{name}{energy}\n"), 0
    for character in format_board(board, size, puzzle):
        style = ""
        if character.isdigit() or character == ".":
            sure = round(255 - 155 * (1 - thinking.confidence[step][cell]))
            style = "bold" if puzzle[cell] else "bold red" if wrong[cell] else f"rgb({sure // 2},{sure // 2 + 40},{sure})"
            cell += 1
        text.append(character, "bold red" if character == "!" else style)
    return text


def _verdict(
    thinking: BoardThinking, size: int, truth: Any, solved: bool, made: Attempt, attempts: int, args: argparse.Namespace
) -> Text:
    board = np.array(thinking.boards[-1], dtype=np.int8)
    empty = np.array(thinking.puzzle) == 0
    conflicts, right = int(board_errors(board, size).sum()), int((board == truth)[empty].sum())
    text = Text().append("solved" if solved else "not solved", "bold green" if solved else "bold red")
    text.append(", a valid board that keeps every given" if solved else f": {conflicts} cells in conflict (marked !)")
    text.append(f"; {right} of {int(empty.sum())} empty cells right\n")
    if thinking.energies:
        text.append(f"energy {thinking.energies[0]:.4g} at the start, {thinking.energies[-1]:.4g} ")
    text.append(f"after {thinking.steps} steps" + (f" of at most {made.steps}" if args.tolerance is not None else ""))
    if made.candidates > 1:
        low, high = min(thinking.candidate_energies), max(thinking.candidate_energies)
        text.append(f"; candidate {thinking.winner + 1} of {made.candidates} won ({args.rule} of {low:.4g} to {high:.4g})")
    if attempts > 1:
        shown = "solves it" if solved else "has the lowest energy" if thinking.energies else "came last"
        text.append(f"\n{attempts} attempts; the board shown is the one that {shown}")
    text.append(f"\n{thinking.forward:.0f} forward and {thinking.backward:.0f} backward passes; [digit]: given, !: in conflict")
    return text

"""``ebt think``: measure quality against thinking steps and candidates on held-out data."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ebt.cli.terminal import (
    OPTIONS,
    given,
    out_folder,
    plain_table,
    print_table,
    progress_bar,
    say,
    say_written,
    scaled_and_noisy,
    warn,
)
from ebt.errors import InputError
from ebt.evaluation.curves import energy_curve, thinking_curve
from ebt.evaluation.measure import thinks
from ebt.files import finite, write_json
from ebt.problems.folder import load_folder
from ebt.problems.registry import Problem, Request, problem_of

Curves = Mapping[str, Any]


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    console = Console()
    models = {folder: load_folder(folder) for folder in [args.checkpoint, *args.baseline]}
    kinds = {problem_of(model.config.model_type).name for model in models.values()}
    if len(models) != 1 + len(args.baseline) or len(kinds) > 1:
        raise InputError("--baseline must name other folders than --checkpoint, each with a model of the same problem.")
    problem = problem_of(models[args.checkpoint].config.model_type)
    _refuse(args, problem, any(map(thinks, models.values())))
    options = scaled_and_noisy(args, list(models.values()), max(args.candidates))
    options |= given(args, ("rule", "tolerance", "seed", "batch_size"))
    folder = out_folder(args.out)
    names = ("checkpoint", "data", "split", "givens", "size", "noise", "limit", "batch_size", "seed")
    request = Request(models=models, **{name: getattr(args, name) for name in names})
    held_out, curves = problem.held_out(request), dict[str, Any]()
    for (name, model), label in zip(models.items(), _names(models), strict=True):
        with progress_bar(f"thinking: {name}", held_out.size) as bar:
            curves[label] = problem.curve(model, held_out, args.steps, args.candidates, bar, **options)
    _print(console, problem, curves, held_out.name)
    _say_best(console, problem, curves)
    for curve in curves.values():
        warn(console, curve.alarms)
    if held_out.note:
        say(console, held_out.note, "dim")
    if folder is not None:
        told = {name: getattr(args, name) for name in OPTIONS}
        written = _write(folder, curves, {"data": held_out.name, "note": held_out.note, **told})
        say_written(console, [*written, *problem.pictures(folder, request, held_out, max(args.steps))])
    return 0


def _refuse(args: argparse.Namespace, problem: Problem, thinking: bool) -> None:
    """Refuse options that do not apply to the problem, or that need a model with an energy.

    Raises:
        InputError: Such an option is given.
    """
    used = {"candidates": args.candidates != [1], "rule": args.rule is not None}
    used |= {name: getattr(args, name) is not None for name in ("tolerance", "givens", "size", "noise")}
    used["shifted"] = args.split == "shifted"
    if wrong := [name for name, there in used.items() if there and name not in problem.options]:
        named = "--split shifted" if wrong[0] == "shifted" else f"--{wrong[0]}"
        raise InputError(f"{named} is not for {problem.name}: leave it out.")
    if not thinking and (wrong := [name for name in ("candidates", "rule", "tolerance") if used[name]]):
        raise InputError(f"--{wrong[0]} needs a model that thinks, and {args.checkpoint} does not: leave it out.")
    if args.rule is not None and args.rule not in problem.rules:
        raise InputError(f"--rule {args.rule} is not for {problem.name}: choose one of {', '.join(problem.rules)}.")


def _names(folders: Mapping[str, Any]) -> list[str]:
    """Return the names of the folders, or their paths if the names are not unique."""
    short = [Path(folder).resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else list(folders)


def _print(console: Console, problem: Problem, curves: Curves, title: str) -> None:
    first, unit, table = next(iter(curves.values())), problem.measure.unit, plain_table(*(["model"] if len(curves) > 1 else []))
    for name in ("steps", "candidates", *problem.columns, "energy", "objective", "passes"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, curve in curves.items():
        best = curve.best()
        for i, point in enumerate(curve.points):
            shown = [name if i == 0 else ""] if len(curves) > 1 else []
            style = "bold green" if point is best and len(curve.points) > 1 else None
            table.add_row(*shown, *_row(problem, curve, point), style=style)
        table.add_section()
    thinking = any(curve.kind == "ebt" for curve in curves.values())
    caption = f"objective: function that the updates minimise; passes: forward + inner backward; all per {unit}"
    count = first.scored if unit in ("token", "frame") else first.rows
    print_table(console, f"{title}: {count:,} {unit}{'s' * (count != 1)}", table, caption if thinking else "")


def _row(problem: Problem, curve: Any, point: Any) -> list[str]:
    energies = curve.kind == "ebt"
    counts = [str(point.steps) if curve.kind != "feed-forward" else "-", str(point.candidates) if energies else "-"]
    energy = [f"{value:.4g}" if value is not None else "-" for value in (point.energy, point.objective)]
    passes = f"{point.forward:.3g} + {point.backward:.3g}" if energies else f"{point.forward:.0f}"
    return [*counts, *problem.cells(point), *energy, passes]


def _say_best(console: Console, problem: Problem, curves: Curves) -> None:
    for name, curve in curves.items():
        best, which = curve.best(), f"{name}: " if len(curves) > 1 else ""
        if len(curve.points) > 1:
            many = f" with {best.candidates} candidate{'s' * (best.candidates > 1)}" if curve.kind == "ebt" else ""
            say(console, f"{which}best: {best.steps} step{'s' * (best.steps > 1)}{many}, {problem.told(best)}")


def _write(folder: Path, curves: Curves, about: dict[str, Any]) -> list[Path]:
    plain = {name: finite(curve) for name, curve in curves.items()}
    written = [folder / "thinking.json", folder / "thinking.png"]
    write_json({**about, "curves": plain}, written[0])
    thinking_curve(plain, written[1], title=about["data"])
    first = next(iter(plain.values()))
    if first["kind"] == "ebt":
        written.append(folder / "energy.png")
        energy_curve(first, written[-1], title=about["data"])
    return written

"""``ebt think``: what thinking longer and more candidates are worth, on data that the model was not trained on."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ebt.cli.terminal import (
    RULE_HELP,
    SPLITS,
    WORD_RULES,
    Options,
    count_from,
    counts,
    number_in,
    out_folder,
    plain_table,
    print_table,
    progress_bar,
    say_written,
    scaled_and_noisy,
    warn,
)
from ebt.errors import InputError
from ebt.files import write_json

Curves = Mapping[str, Any]


def _options() -> Options:
    options = Options(
        "think",
        "Quality of a model against thinking steps and candidates, on held-out data: a table, a picture and JSON.",
        "ebt think --checkpoint runs/text --steps 1,2,3,4,8 --candidates 1,4 --baseline runs/twin --out think\n"
        "  ebt think --checkpoint runs/sudoku --data test.csv --steps 1,2,4,8,16,32 --candidates 1,8 --tolerance 0.001",
    )
    options.checkpoint()
    options.add_argument(
        "--baseline", action="append", default=[], metavar="DIR", help="another model to compare with; may be repeated"
    )
    data = options.add_argument_group("data (default: what the run held out)")
    data.add_argument("--data", metavar="SOURCE", help="text source, all of which is read; CSV file of puzzles; images; videos")
    data.add_argument(
        "--split",
        choices=SPLITS,
        default="test",
        help="which of the run's own data (default: test; validation: to choose by; shifted: moving digits)",
    )
    data.add_argument(
        "--givens", type=count_from(1), metavar="N", help="the run's test set, or new puzzles, with so many givens"
    )
    data.add_argument(
        "--noise", type=number_in(0, 1), metavar="LEVEL", help="images only: noise level (default: the model's own)"
    )
    data.add_argument(
        "--limit",
        type=count_from(1),
        metavar="N",
        help="at most so many contexts (default: 64), boards (default: 200), crops of images or clips (default: 64)",
    )
    thinking = options.add_argument_group("thinking")
    thinking.add_argument("--steps", type=counts, default=[1, 2, 3, 4, 8], metavar="N,N,..", help="default: 1,2,3,4,8")
    thinking.add_argument("--candidates", type=counts, default=[1], metavar="M,M,..", help="default: 1")
    thinking.add_argument("--rule", choices=WORD_RULES, default="lowest", help=RULE_HELP)
    thinking.add_argument(
        "--tolerance",
        type=number_in(0),
        metavar="T",
        help="boards, images and videos: stop when probabilities, or pixels, move by less",
    )
    options.scale_and_noise(thinking)
    options.add_argument(
        "--batch-size", type=count_from(1), metavar="B", help="contexts (default: 8) or boards x candidates (64) at once"
    )
    options.seed("the random starts and of new puzzles")
    options.out("thinking.json, thinking.png, energy.png, and pictures of images' energies,")
    return options


def main(argv: list[str]) -> int:
    """Run the command."""
    args, console = _options().parse_args(argv), Console()
    from ebt.problems.folder import load_folder
    from ebt.problems.registry import Request, problem_of

    models = {folder: load_folder(folder) for folder in [args.checkpoint, *args.baseline]}
    kinds = {problem_of(model.config.model_type).name for model in models.values()}
    if len(models) != 1 + len(args.baseline) or len(kinds) > 1:
        raise InputError("--baseline must name other folders than --checkpoint, with models of the same problem.")
    problem = problem_of(models[args.checkpoint].config.model_type)
    _refuse(args, problem)
    options = scaled_and_noisy(args, list(models.values()), max(args.candidates))
    options |= {"rule": args.rule, "tolerance": args.tolerance, "seed": args.seed, "batch_size": args.batch_size}
    folder = out_folder(args.out)
    names = ("checkpoint", "data", "split", "givens", "noise", "limit", "batch_size", "seed")
    request = Request(models=models, **{name: getattr(args, name) for name in names})
    held_out, curves = problem.held_out(request), dict[str, Any]()
    for (name, model), label in zip(models.items(), _names(models), strict=True):
        with progress_bar(f"thinking: {name}", held_out.size) as bar:
            given = {name: value for name, value in options.items() if value is not None}
            curves[label] = problem.curve(model, held_out, args.steps, args.candidates, bar, **given)
    _print(console, problem, curves, held_out.name)
    _say_best(console, problem, curves)
    for curve in curves.values():
        warn(console, curve.alarms)
    if held_out.note:
        console.print(f"[dim]{held_out.note}[/]", highlight=False)
    if folder is not None:
        told = {"step_size_scale": args.step_size_scale, "candidate_noise": args.candidate_noise}
        written = _write(folder, curves, {"data": held_out.name, "note": held_out.note, **told})
        say_written(console, [*written, *problem.pictures(folder, request, held_out, max(args.steps))])
    return 0


def _refuse(args: argparse.Namespace, problem: Any) -> None:
    """Options that are for other problems.

    Raises:
        InputError: one is given.
    """
    given = {
        "candidates": args.candidates != [1],
        "rule": args.rule != "lowest",
        "tolerance": args.tolerance is not None,
        "givens": args.givens is not None,
        "noise": args.noise is not None,
        "shifted": args.split == "shifted",
    }
    if wrong := [name for name, there in given.items() if there and name not in problem.options]:
        named = "--split shifted" if wrong[0] == "shifted" else f"--{wrong[0]}"
        raise InputError(f"{named} is not for {problem.name}: leave it out.")
    if args.rule not in problem.rules:
        raise InputError(f"--rule {args.rule} is not for {problem.name}: choose one of {', '.join(problem.rules)}.")


def _names(folders: Mapping[str, Any]) -> list[str]:
    """The folders' own names, or whole paths if these are alike."""
    short = [Path(folder).resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else list(folders)


def _print(console: Console, problem: Any, curves: Curves, title: str) -> None:
    first, unit, table = next(iter(curves.values())), problem.measure.unit, plain_table()
    columns = [
        *(["model"] if len(curves) > 1 else []),
        "steps",
        "candidates",
        *problem.columns,
        "energy",
        "objective",
        "passes",
    ]
    for name in columns:
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=name != "model")
    for name, curve in curves.items():
        best = curve.best()
        for i, point in enumerate(curve.points):
            shown = [name if i == 0 else ""] if len(curves) > 1 else []
            style = "bold green" if point is best and len(curve.points) > 1 else None
            table.add_row(*shown, *_row(problem, curve, point), style=style)
        table.add_section()
    thinking = any(curve.kind == "ebt" for curve in curves.values())
    caption = f"objective: what the updates descend; passes: forward + inner backward; all per {unit}"
    count = first.scored if unit in ("token", "frame") else first.rows
    print_table(console, f"{title}: {count:,} {unit}{'s' * (count != 1)}", table, caption if thinking else "")


def _row(problem: Any, curve: Any, point: Any) -> list[str]:
    thinks = curve.kind == "ebt"
    counts = [str(point.steps) if curve.kind != "feed-forward" else "-", str(point.candidates) if thinks else "-"]
    energy = [f"{value:.4g}" if value is not None else "-" for value in (point.energy, point.objective)]
    passes = f"{point.forward:.3g} + {point.backward:.3g}" if thinks else f"{point.forward:.0f}"
    return [*counts, *problem.cells(point), *energy, passes]


def _say_best(console: Console, problem: Any, curves: Curves) -> None:
    for name, curve in curves.items():
        best, which = curve.best(), f"{name}: " if len(curves) > 1 else ""
        if len(curve.points) > 1:
            many = f" with {best.candidates} candidate{'s' * (best.candidates > 1)}" if curve.kind == "ebt" else ""
            console.print(
                f"{which}best: {best.steps} step{'s' * (best.steps > 1)}{many}, {problem.told(best)}", highlight=False
            )


def _write(folder: Path, curves: Curves, about: dict[str, Any]) -> list[Path]:
    from ebt.evaluation.curves import energy_curve, thinking_curve
    from ebt.evaluation.results import to_json

    plain = {name: to_json(curve) for name, curve in curves.items()}
    written = [folder / "thinking.json", folder / "thinking.png"]
    write_json({**about, "curves": plain}, written[0])
    thinking_curve(plain, written[1], title=about["data"])
    first = next(iter(plain.values()))
    if first["kind"] == "ebt":
        written.append(folder / "energy.png")
        energy_curve(first, written[-1], title=about["data"])
    return written

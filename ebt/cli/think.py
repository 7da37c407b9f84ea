"""``ebt think``: what thinking longer and more candidates are worth, on data that the model was not trained on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from ebt.cli.energy_maps import write_energies
from ebt.cli.held_out import HeldOut, held_out_boards, held_out_images, held_out_text
from ebt.cli.held_out_video import SPLITS, held_out_video
from ebt.cli.terminal import (
    RULE_HELP,
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
from ebt.evaluation.curves import energy_curve, thinking_curve
from ebt.evaluation.results import Curve, ImagePoint, LanguagePoint, SudokuPoint, VideoPoint, to_json
from ebt.problems.folder import load_folder, load_tokenizer_of
from ebt.problems.images.metrics import image_curve
from ebt.problems.language.metrics import language_curve
from ebt.problems.sudoku.metrics import sudoku_curve
from ebt.problems.video.metrics import repeat_loss, video_curve

TYPES = {
    "ebt": "language",
    "ebt_transformer_pp": "language",
    "ebt_sudoku": "sudoku",
    "ebt_sudoku_transformer": "sudoku",
    "ebt_images": "denoising",
    "ebt_dit_images": "denoising",
    "ebt_video": "video",
    "ebt_video_transformer": "video",
}
UNITS = {"language": "token", "sudoku": "board", "denoising": "image", "video": "frame"}


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
    models = {folder: load_folder(folder, TYPES) for folder in [args.checkpoint, *args.baseline]}
    tasks = {folder: TYPES[model.config.model_type] for folder, model in models.items()}
    if len(models) != 1 + len(args.baseline) or len(set(tasks.values())) > 1:
        raise InputError("--baseline must name other folders than --checkpoint, with models of the same task.")
    folder = out_folder(args.out)
    if args.noise is not None and tasks[args.checkpoint] != "denoising":
        raise InputError("--noise is for images: leave it out for text, boards and videos.")
    if args.split == "shifted" and tasks[args.checkpoint] != "video":
        raise InputError("--split shifted is the harder test of moving digits: choose validation or test.")
    if args.rule == "mean" and tasks[args.checkpoint] != "language":
        raise InputError("--rule mean is for text: choose another one for boards and videos.")
    if args.rule == "majority" and tasks[args.checkpoint] not in ("language", "sudoku"):
        raise InputError("--rule majority counts words or digits: choose another one for images and videos.")
    args.options = scaled_and_noisy(args, list(models.values()), max(args.candidates)) | {"seed": args.seed}
    measure = {"language": _language, "sudoku": _sudoku, "denoising": _images, "video": _video}[tasks[args.checkpoint]]
    curves, data = measure(args, models)
    _print(console, curves, data)
    _say_best(console, curves)
    for curve in curves.values():
        warn(console, curve.alarms)
    if data.note:
        console.print(f"[dim]{data.note}[/]", highlight=False)
    if folder is not None:
        written = _write(
            folder, curves, data, {"step_size_scale": args.step_size_scale, "candidate_noise": args.candidate_noise}
        )
        if tasks[args.checkpoint] == "denoising":
            written += write_energies(folder, models[args.checkpoint], *data.images, max(args.steps))
        say_written(console, written)
    return 0


def _language(args: argparse.Namespace, models: dict[str, Any]) -> tuple[dict[str, Curve[Any]], HeldOut]:
    if args.givens is not None or args.tolerance is not None:
        raise InputError("--givens is for boards, and --tolerance for boards, images and videos: leave them out for text.")
    vocabulary = load_tokenizer_of(args.checkpoint).get_vocab()
    for name in args.baseline:
        if load_tokenizer_of(name).get_vocab() != vocabulary:
            raise InputError(f"--baseline {name} has another tokeniser: nats per token can be compared for one tokeniser only.")
    context = min(model.config.context_length for model in models.values())
    held_out = held_out_text(args.checkpoint, context, args.data, args.split, args.limit or 64, args.batch_size or 8)
    curves = {}
    for (name, model), label in zip(models.items(), _names(models), strict=True):
        with progress_bar(f"thinking: {name}", held_out.size) as bar:
            curves[label] = language_curve(
                model, held_out.batches, args.steps, args.candidates, rule=args.rule, progress=bar, **args.options
            )
    return curves, held_out


def _sudoku(args: argparse.Namespace, models: dict[str, Any]) -> tuple[dict[str, Curve[Any]], HeldOut]:
    sizes = {model.config.board for model in models.values()}
    if len(sizes) > 1:
        raise InputError(f"The models are for boards of different sizes ({sorted(sizes)}): compare models of one size.")
    held_out = held_out_boards(args.checkpoint, sizes.pop(), args.data, args.givens, args.split, args.limit or 200, args.seed)
    boards, curves = held_out.boards, {}
    for (name, model), label in zip(models.items(), _names(models), strict=True):
        with progress_bar(f"thinking: {name}", held_out.size) as bar:
            options = {"rule": args.rule, "tolerance": args.tolerance, "batch_size": args.batch_size or 64, **args.options}
            curves[label] = sudoku_curve(model, *boards, args.steps, args.candidates, progress=bar, **options)
    return curves, held_out


def _images(args: argparse.Namespace, models: dict[str, Any]) -> tuple[dict[str, Curve[Any]], HeldOut]:
    if args.givens is not None or args.candidates != [1] or args.rule != "lowest":
        raise InputError("--givens, --candidates and --rule are for boards and text: leave them out for images.")
    shapes = {(model.config.image_size, model.config.num_channels) for model in models.values()}
    if len(shapes) > 1:
        raise InputError("The models are for images of different sizes or channels: compare models of one size.")
    level = args.noise or models[args.checkpoint].config.noise_level
    held_out = held_out_images(args.checkpoint, *shapes.pop(), args.data, args.split, level, args.limit or 64, args.seed)
    curves, options = {}, {"tolerance": args.tolerance, "batch_size": args.batch_size or 32, **args.options}
    for (name, model), label in zip(models.items(), _names(models), strict=True):
        with progress_bar(f"thinking: {name}", held_out.size) as bar:
            curves[label] = image_curve(model, *held_out.images, args.steps, level, progress=bar, **options)
    return curves, held_out


def _video(args: argparse.Namespace, models: dict[str, Any]) -> tuple[dict[str, Curve[Any]], HeldOut]:
    if args.givens is not None:
        raise InputError("--givens is for boards: leave it out for videos.")
    if len({(model.config.frame_dim, str(model.config.encoding)) for model in models.values()}) > 1:
        raise InputError("The models see frames by different encoders: compare models of one encoder.")
    context = min(model.config.context_length for model in models.values())
    found = held_out_video(args.checkpoint, models[args.checkpoint], args.data, args.split, context + 1)
    frames, curves = found.frames(context + 1, args.limit or 64), {}
    for (name, model), label in zip(models.items(), _names(models), strict=True):
        with progress_bar(f"thinking: {name}", len(frames)) as bar:
            options = {"rule": args.rule, "tolerance": args.tolerance, "batch_size": args.batch_size or 32, **args.options}
            curves[label] = video_curve(model, frames, args.steps, args.candidates, progress=bar, **options)
    note = f"repeating the last frame: {repeat_loss(frames).mean().item():.4f}. {found.note}".strip()
    return curves, HeldOut(found.name, note, clips=frames)


def _names(folders: dict[str, Any]) -> list[str]:
    """The folders' own names, or whole paths if these are alike."""
    short = [Path(folder).resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else list(folders)


def _print(console: Console, curves: dict[str, Curve[Any]], data: HeldOut) -> None:
    first = next(iter(curves.values()))
    unit = UNITS[first.task]
    table = plain_table()
    quality = {
        "language": ("nats per token", "perplexity", "right %"),
        "sudoku": ("solved %", "cells %", "taken"),
        "denoising": ("PSNR dB", "mse"),
        "video": ("smooth L1", "energy ~ loss"),
    }[first.task]
    columns = [*(["model"] if len(curves) > 1 else []), "steps", "candidates", *quality, "energy", "objective", "passes"]
    for name in columns:
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=name != "model")
    for name, curve in curves.items():
        best = curve.best()
        for i, point in enumerate(curve.points):
            shown = [name if i == 0 else ""] if len(curves) > 1 else []
            table.add_row(*shown, *_row(curve, point), style="bold green" if point is best and len(curve.points) > 1 else None)
        table.add_section()
    thinking = any(curve.kind == "ebt" for curve in curves.values())
    caption = f"objective: what the updates descend; passes: forward + inner backward; all per {unit}"
    print_table(
        console,
        f"{data.name}: {first.scored if first.task in ('language', 'video') else first.rows:,} {unit}s",
        table,
        caption if thinking else "",
    )


def _row(curve: Curve[Any], point: LanguagePoint | SudokuPoint | ImagePoint | VideoPoint) -> list[str]:
    if isinstance(point, LanguagePoint):
        error = "" if point.nats_error is None else f" ±{point.nats_error:.3f}"
        quality = [
            f"{point.nats:.4f}{error}",
            f"{point.perplexity:.2f}" if point.perplexity < 1e5 else f"{point.perplexity:.1e}",
            f"{100 * point.accuracy:.1f}",
        ]
    elif isinstance(point, ImagePoint):
        error = "" if point.psnr_error is None else f" ±{point.psnr_error:.2f}"
        quality = [f"{point.psnr:.2f}{error}", f"{point.mse:.5f}"]
    elif isinstance(point, VideoPoint):
        error = "" if point.loss_error is None else f" ±{point.loss_error:.4f}"
        quality = [f"{point.loss:.4f}{error}", "-" if point.spearman is None else f"{point.spearman:.2f}"]
    else:
        quality = [
            f"{100 * point.exact:.1f} ±{100 * point.exact_error:.1f}",
            f"{100 * point.cell:.1f}",
            f"{point.steps_taken:.1f}",
        ]
    thinks = curve.kind == "ebt"
    counts = [str(point.steps) if curve.kind != "feed-forward" else "-", str(point.candidates) if thinks else "-"]
    energy = [f"{value:.4g}" if value is not None else "-" for value in (point.energy, point.objective)]
    return [*counts, *quality, *energy, f"{point.forward:.3g} + {point.backward:.3g}" if thinks else f"{point.forward:.0f}"]


def _say_best(console: Console, curves: dict[str, Curve[Any]]) -> None:
    for name, curve in curves.items():
        best, which = curve.best(), f"{name}: " if len(curves) > 1 else ""
        if len(curve.points) > 1:
            quality = _quality(curve.task, best)
            with_candidates = f" with {best.candidates} candidate{'s' * (best.candidates > 1)}" if curve.kind == "ebt" else ""
            console.print(
                f"{which}best: {best.steps} step{'s' * (best.steps > 1)}{with_candidates}, {quality}", highlight=False
            )


def _quality(task: str, point: Any) -> str:
    if task == "language":
        return f"{point.nats:.4f} nats per token"
    if task == "video":
        return f"smooth L1 {point.loss:.4f}"
    return f"{point.psnr:.2f} dB" if task == "denoising" else f"{100 * point.exact:.1f} % of boards solved"


def _write(folder: Path, curves: dict[str, Curve[Any]], data: HeldOut, told: dict[str, Any]) -> list[Path]:
    plain = {name: to_json(curve) for name, curve in curves.items()}
    written = [folder / "thinking.json", folder / "thinking.png"]
    text = json.dumps({"data": data.name, "note": data.note, **told, "curves": plain}, indent=1, allow_nan=False)
    written[0].write_text(text + "\n", encoding="utf-8")
    thinking_curve(plain, written[1], title=data.name)
    first = next(iter(plain.values()))
    if first["kind"] == "ebt":
        written.append(folder / "energy.png")
        energy_curve(first, written[-1], title=data.name)
    return written

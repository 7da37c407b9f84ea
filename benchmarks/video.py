"""An EBT against Transformer++ on moving digits, trained for the same processor time: next frames, thinking longer, rollouts.

    python benchmarks/video.py --minutes 30 --seeds 3 --json video.json

Both have the same blocks, sizes, batches and optimiser. The number of thinking steps is chosen on validation digits; tests are
on digits that chose nothing, and on a harder set, ``shifted`` (two digits, another speed). A finished run is one JSON file in
``--out``, its model a folder beside it; an interrupted benchmark goes on where it stopped. After a change of the code, start
with an empty folder.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ebt.cli.terminal import Options, count_from, number_in, out_folder, plain_table, print_table, progress_bar, say_written
from ebt.data.images import to_picture
from ebt.data.moving_digits import digit_images
from ebt.data.video_module import VideoDataModule, held_out_frames
from ebt.errors import InputError
from ebt.evaluation import DigitReader, frame_energies, repeat_loss, rollout, thinks, video_curve
from ebt.evaluation.statistics import over_seeds
from ebt.files import write_json
from ebt.hub import save_folder
from ebt.plots.style import COLOURS, GREY, picture, step_axis
from ebt.tasks import Optimisation, VideoNetwork, VideoTask
from ebt.tasks.training import train_for
from ebt.thinking import Recipe

KINDS = ("ebt", "transformer_pp")
NAMES = {"ebt": "EBT", "transformer_pp": "Transformer++"}
SETS = ("validation", "digits", "shifted")
STEPS = (1, 2, 3, 4, 8)
LONGER = ("4", "8")
"""Up to four times the trained steps."""
SETTINGS: dict[str, Any] = {"layers": 2, "dim": 256, "heads": 8, "ffn_dim": 384}
DATA: dict[str, Any] = {"batch_size": 16}
RECIPE = Recipe(min_steps=1, max_steps=3, gradients="truncated", loss="last", start_std=0.3, warm_start=0.6)
OPTIMISATION = {
    "ebt": Optimisation(lr=2e-3, warmup_steps=100, weight_decay=0.01, min_lr_ratio=0.02),
    "transformer_pp": Optimisation(lr=2e-3, warmup_steps=100, weight_decay=0.01, min_lr_ratio=0.02),
}
TOLERANCE = 0.05
"""The stop rule: a frame that moves by less has converged."""
CLIPS = 256
"""Of each set."""
AHEAD = 8
"""Frames of a rollout; the digits of the last one are read."""


@dataclass
class Result:
    """One trained model. Losses are smooth L1 per frame, by set and number of steps."""

    kind: str
    seed: int
    settings: dict[str, Any]
    parameters: int
    updates: int
    seconds: float
    """Of processor time."""
    wall: float
    losses: dict[str, dict[str, float]]
    stopped: dict[str, dict[str, float]]
    """The same under the stop rule; of an EBT."""
    repeat: dict[str, float]
    """Of repeating the last frame, by set."""
    chosen: int
    """Steps that are best on validation."""
    spearman: dict[str, float]
    """Energy against loss over the frames of each set, at the chosen steps."""
    unsure: dict[str, float]
    """Mean energy of the second frame, whose motion is not known yet, and of the later ones; in standard deviations of all."""
    reading: dict[str, float]
    """Share of the digits that a classifier names in the last frame of a rollout, in the true frame, and where the last given
    frame is repeated."""


def _options() -> Options:
    options = Options("", __doc__.splitlines()[0], "python benchmarks/video.py --minutes 30 --seeds 3 --json video.json")
    options.prog = "python benchmarks/video.py"
    options.add_argument("--minutes", type=number_in(0), metavar="M", help="of training, for each model (default: 30)")
    options.add_argument("--seeds", type=count_from(1), metavar="N", help="trainings of each model (default: 3)")
    options.add_argument("--quick", action="store_true", help="a minute: all runs, nothing is learned")
    options.add_argument("--out", default="runs/video", metavar="DIR", help="finished runs (default: runs/video)")
    options.add_argument("--json", metavar="OUT", help="write everything into this file, and figures beside it")
    return options


def main(argv: list[str] | None = None) -> int:
    """Train what is missing, measure, and write the tables."""
    args, console = _options().parse_args(sys.argv[1:] if argv is None else argv), Console()
    args.minutes = args.minutes or (0.2 if args.quick else 30.0)
    args.seeds, args.clips = args.seeds or (1 if args.quick else 3), 32 if args.quick else CLIPS
    torch.set_num_threads(1)
    folder = out_folder(args.out)
    assert folder is not None
    results = []
    for seed in range(args.seeds):
        for kind in KINDS:
            file = folder / f"{kind}-seed{seed}.json"
            if not file.is_file():
                console.print(f"{NAMES[kind]}, seed {seed}: training for {args.minutes:g} minutes", highlight=False)
                write_json(asdict(run(kind, seed, args, folder)), file)
            results.append(read(file, args))
    summary = summarise(results)
    _print(console, summary)
    if args.json is not None:
        out = Path(args.json)
        write_json({"machine": machine(), "summary": summary, "runs": results}, out)
        draw(summary, out.with_suffix(".png"))
        say_written(console, [out, out.with_suffix(".png")])
    return 0


def settings_of(kind: str, args: argparse.Namespace) -> dict[str, Any]:
    """All that a run depends on besides its seed, as JSON."""
    recipe = asdict(RECIPE) if kind == "ebt" else None
    own = {
        "minutes": args.minutes,
        "clips": args.clips,
        "ahead": AHEAD,
        "tolerance": TOLERANCE,
        "network": SETTINGS,
        "data": DATA,
        "recipe": recipe,
    }
    plain: dict[str, Any] = json.loads(json.dumps({**own, "optimisation": asdict(OPTIMISATION[kind])}))
    return plain


def read(file: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A finished run.

    Raises:
        InputError: it was made with other settings.
    """
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if result["settings"] != settings_of(result["kind"], args):
        raise InputError(f"{file} was made with other settings: choose another --out, or remove it.")
    return result


def run(kind: str, seed: int, args: argparse.Namespace, folder: Path) -> Result:
    """Train one model and measure it."""
    data = VideoDataModule(seed=seed, **DATA)
    recipe = {"recipe": RECIPE} if kind == "ebt" else {}
    network = VideoNetwork(kind=kind, **SETTINGS)  # type: ignore[arg-type]
    task, began = VideoTask(network, optimisation=OPTIMISATION[kind], seed=seed, **recipe), time.monotonic()
    with progress_bar(f"{NAMES[kind]}, seed {seed}", 1000) as bar:
        trained = train_for(task, data, args.minutes, lambda done, total, _: bar(done, total))
    wall, model = time.monotonic() - began, task.model.eval()
    save_folder(model, folder / f"{kind}-seed{seed}")
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frames = {name: held_out_frames(data, name, data.length, args.clips) for name in SETS}
    curves = {name: video_curve(model, clips, STEPS) for name, clips in frames.items()}
    stopped = {name: video_curve(model, clips, STEPS, tolerance=TOLERANCE) for name, clips in frames.items()}
    losses, ended = (
        {name: {str(point.steps): point.loss for point in curve.points} for name, curve in measured.items()}
        for measured in (curves, stopped)
    )
    chosen = curves["validation"].best().steps
    known = {name: curve.at(chosen).spearman for name, curve in curves.items()} if thinks(model) else {}
    return Result(
        kind,
        seed,
        settings_of(kind, args),
        count,
        trained["updates"],
        trained["seconds"],
        wall,
        losses,
        ended if thinks(model) else {},
        {name: repeat_loss(clips).mean().item() for name, clips in frames.items()},
        chosen,
        {name: value for name, value in known.items() if value is not None},
        unsure(model, frames["digits"], chosen) if thinks(model) else {},
        reading(model, data, args.clips, chosen if thinks(model) else None),
    )


def unsure(model: Any, frames: Tensor, steps: int) -> dict[str, float]:
    """Whether energy is high where the motion cannot be known."""
    energies = frame_energies(model, frames, steps).energies[-1]
    scaled = (energies - energies.mean()) / energies.std()
    return {"second frame": scaled[:, 0].mean().item(), "later frames": scaled[:, 1:].mean().item()}


@cache
def reader() -> DigitReader:
    """The classifier of clean training digits."""
    source = digit_images()["train"]
    return DigitReader(source.images, source.labels)


def reading(model: Any, data: VideoDataModule, count: int, steps: int | None) -> dict[str, float]:
    """Whether the digits of test clips can still be named at the end of a rollout."""
    given = data.context_length
    clips = [data.digits["digits"].clip(i, given + AHEAD) for i in range(count)]
    frames = held_out_frames(data, "digits", given + AHEAD, count)
    found = rollout(model, frames[:, :given], AHEAD, steps)
    labels, places = (
        np.stack([part(clip) for clip in clips]) for part in (lambda clip: clip.labels, lambda clip: clip.places[-1])
    )
    shown = {"rollout": found.frames[:, -1], "true frame": frames[:, -1], "repeated frame": frames[:, given - 1]}
    return {name: float((reader().read(_pixels(data, part), places) == labels).mean()) for name, part in shown.items()}


def _pixels(data: VideoDataModule, vectors: Tensor) -> np.ndarray:
    return np.stack([np.array(to_picture(frame)) for frame in data.encoder.decode(vectors)])


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Tables over the seeds."""
    models = {kind: [result for result in results if result["kind"] == kind] for kind in KINDS}
    ebts = models["ebt"]
    best = {
        kind: {name: [r["losses"][name][str(r["chosen"])] for r in found] for name in SETS} for kind, found in models.items()
    }
    own = str(RECIPE.own_steps)
    return {
        "losses": {
            kind: {name: {step: [r["losses"][name][step] for r in found] for step in found[0]["losses"][name]} for name in SETS}
            for kind, found in models.items()
        },
        "repeat": ebts[0]["repeat"],
        "best": best,
        "chosen steps": [r["chosen"] for r in ebts],
        "EBT over Transformer++": {
            name: [mine / its - 1 for mine, its in zip(best["ebt"][name], best["transformer_pp"][name], strict=True)]
            for name in SETS
        },
        "below repeating": {
            kind: {name: [1 - loss / ebts[0]["repeat"][name] for loss in best[kind][name]] for name in SETS} for kind in KINDS
        },
        **{
            title: {
                name: {step: [r[kind][name][step] / r[kind][name][own] - 1 for r in ebts] for step in LONGER} for name in SETS
            }
            for title, kind in (("longer", "losses"), ("longer, stopped", "stopped"))
        },
        "spearman": {name: [r["spearman"].get(name) for r in ebts] for name in SETS},
        "unsure": {name: [r["unsure"][name] for r in ebts] for name in ebts[0]["unsure"]},
        "reading": {
            kind: {name: [r["reading"][name] for r in found] for name in found[0]["reading"]} for kind, found in models.items()
        },
        "training": {
            kind: {"parameters": found[0]["parameters"], **{name: [r[name] for r in found] for name in ("updates", "seconds")}}
            for kind, found in models.items()
        },
        "seeds": len(ebts),
    }


def _print(console: Console, summary: dict[str, Any]) -> None:
    table = plain_table()
    for column in ("smooth L1 per frame", *SETS):
        table.add_column(column, justify="left" if column not in SETS else "right")
    table.add_row("repeating the last frame", *(f"{summary['repeat'][name]:.4f}" for name in SETS))
    table.add_row("Transformer++", *(_around(summary["best"]["transformer_pp"][name]) for name in SETS))
    for step in STEPS:
        table.add_row(f"EBT, {step} steps", *(_around(summary["losses"]["ebt"][name][str(step)]) for name in SETS))
    table.add_row("EBT over Transformer++", *(_percent(summary["EBT over Transformer++"][name]) for name in SETS))
    for kind in KINDS:
        table.add_row(f"{NAMES[kind]} below repeating", *(_percent(summary["below repeating"][kind][name]) for name in SETS))
    for title, rule in (("longer", ""), ("longer, stopped", ", with the stop rule")):
        for step in LONGER:
            label = f"EBT, {step} over {RECIPE.own_steps} steps{rule}"
            table.add_row(label, *(_percent(summary[title][name][step]) for name in SETS))
    table.add_row("energy ~ loss (Spearman)", *(_around(summary["spearman"][name], 2) for name in SETS))
    print_table(console, f"moving digits, {summary['seeds']} seed(s)", table, f"chosen steps: {summary['chosen steps']}")
    rest = plain_table()
    rest.show_header = False
    for kind in KINDS:
        for name, values in summary["reading"][kind].items():
            rest.add_row(f"{NAMES[kind]}: digits read, {name} {AHEAD}", _percent(values))
    for name, values in summary["unsure"].items():
        rest.add_row(f"EBT: energy of the {name}", _around(values, 2))
    for kind, found in summary["training"].items():
        rest.add_row(f"{NAMES[kind]}: parameters, updates", f"{found['parameters']:,}, {found['updates']}")
    console.print(rest)


def _around(values: list[float | None], digits: int = 4) -> str:
    known = [value for value in values if value is not None]
    return over_seeds(known).around(digits) if known else "-"


def _percent(values: list[float]) -> str:
    return over_seeds([100 * value for value in values]).around(1) + " %"


def draw(summary: dict[str, Any], path: Path) -> None:
    """Loss against thinking steps on each set."""
    with picture(path, width=12, height=4.5) as figure:
        for axes, name in zip(figure.subplots(1, len(SETS)), SETS, strict=True):
            for i, losses in enumerate(zip(*(summary["losses"]["ebt"][name][str(step)] for step in STEPS), strict=True)):
                axes.plot(STEPS, losses, color=COLOURS[0], marker="o", label=None if i else "EBT")
            for i, loss in enumerate(summary["best"]["transformer_pp"][name]):
                axes.axhline(loss, color=COLOURS[1], linestyle="--", label=None if i else "Transformer++")
            axes.axhline(summary["repeat"][name], color=GREY, linestyle=":", label="repeating the last frame")
            axes.set_ylim(bottom=0)
            step_axis(axes, list(STEPS))
            axes.set_title(name)
        figure.axes[0].set_ylabel("smooth L1 per frame")
        figure.axes[0].legend()


def machine() -> dict[str, Any]:
    return {"processor": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__}


if __name__ == "__main__":
    sys.exit(main())

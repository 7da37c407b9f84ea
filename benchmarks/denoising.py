"""Compare an EBT with a Diffusion Transformer trained for the same time on the same photos (paper, table 4 and figure 12).

    python benchmarks/denoising.py --train bsds500/train --test coco-val bsds500/test --minutes 30 --json denoising.json

Both have the same blocks, sizes, batches and optimiser (the DiT has 11 % more parameters), and the same budget of processor
time, so other load on the machine does not matter. Options (how many of three steps the EBT takes, how DDIM samples) are chosen
on validation photos, a tenth of the training folder. A finished run is one JSON file in ``--out``; an interrupted benchmark
continues where it stopped. After a change of the code, start with an empty folder.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ebt.cli.parser import Options, count_from, number_in
from ebt.cli.probe import probe_model
from ebt.cli.terminal import out_folder, plain_table, print_table, say_written
from ebt.errors import InputError
from ebt.evaluation.style import COLOURS, GREY, picture
from ebt.files import write_json
from ebt.lab.studies.runs import machine
from ebt.problems.folder import save_folder
from ebt.problems.images.data import Crops, ImageDataModule
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.metrics import energy_errors, psnr, ssim
from ebt.problems.images.probe import DIGITS, labelled_images
from ebt.problems.images.task import DenoisingNetwork, DenoisingTask
from ebt.thinking import Recipe
from ebt.training.optimisation import Optimisation

KINDS = ("ebt", "dit")
LEVELS = (0.1, 0.2)
STEPS = (1, 2, 3, 4, 6)
SCALES = (1.0, 1.25, 1.5, 1.75)
"""Step sizes to try at noise levels other than that of training, as multiples of the learned one."""
TOLERANCE = 0.05
"""An image that changes by less in one step stops."""
PASSES = (1, 3, 10, 30, 100, 300)
WITHIN = 3
SETTINGS: dict[str, Any] = {"layers": 3, "dim": 192, "heads": 4, "patch_size": 8}
DATA: dict[str, Any] = {"size": 64, "crops": 32, "batch_size": 8, "fractions": (0.9, 0.1, 0.0)}
RECIPE = Recipe(min_steps=1, max_steps=2, replay_size=64, replay_fraction=0.25)
OPTIMISATION = {
    "ebt": Optimisation(lr=3e-3, warmup_steps=50, weight_decay=0.01, min_lr_ratio=0.02),
    "dit": Optimisation(lr=3e-3, warmup_steps=50, weight_decay=0.01, min_lr_ratio=0.02),
}
CROPS, CHOOSING, PROBED = 32, 8, 1000
"""Crops per folder for testing, crops for choosing options, digits for the probe."""
SEED = 7_411
"""Seed of the test crops and their noise, the same for all runs."""


@dataclass(frozen=True)
class Way:
    """How a model is applied: thinking steps, or DDIM evaluations per round."""

    steps: int
    rounds: int = 1
    trained_only: bool = False
    """Start a DiT at the highest level it was trained on, if the image has more noise."""
    scale: float = 1.0
    """Step size of an EBT, as a multiple of the learned one."""


@dataclass(frozen=True)
class Measured:
    """Results of one way on the test crops at one noise level."""

    level: float
    way: Way
    forward: int
    backward: int
    psnr: float
    mse: float
    ssim: float | None
    seconds: float
    """Processor time per image."""
    psnrs: list[float]
    choosing: float
    """PSNR on the validation crops, which chooses the way."""


@dataclass
class Result:
    """One trained model."""

    kind: str
    seed: int
    settings: dict[str, Any]
    parameters: int
    updates: int
    seconds: float
    wall: float
    measured: list[Measured] = field(default_factory=list)
    spearman: dict[str, float] = field(default_factory=dict)
    longer: dict[str, dict[str, float]] = field(default_factory=dict)
    """Change of PSNR with twice the trained steps, without and with a stop, by noise level."""
    probe: dict[str, float] = field(default_factory=dict)


def _options() -> Options:
    options = Options("", __doc__.splitlines()[0], "python benchmarks/denoising.py --train DIR --test DIR --json OUT")
    options.prog = "python benchmarks/denoising.py"
    options.add_argument("--train", default="photos", metavar="DIR", help="photos to train on (default: embedded photos)")
    options.add_argument("--test", nargs="+", metavar="DIR", help="photos to test on (default: embedded photos)")
    options.add_argument("--minutes", type=number_in(0), default=30.0, metavar="M", help="minutes per training (default: 30)")
    options.add_argument("--seeds", type=count_from(1), default=3, metavar="N", help="training runs per model (default: 3)")
    options.add_argument("--threads", type=count_from(1), default=1, metavar="T", help="processor threads (default: 1)")
    options.add_argument("--out", default="runs/denoising", metavar="DIR", help="finished runs (default: runs/denoising)")
    options.add_argument("--json", metavar="OUT", help="write all results into this file, and a figure next to it")
    return options


def main(argv: list[str] | None = None) -> int:
    """Train and measure the missing runs, and print the tables."""
    args, console = _options().parse_args(sys.argv[1:] if argv is None else argv), Console()
    torch.set_num_threads(args.threads)
    folder = out_folder(args.out)
    assert folder is not None
    results = []
    for seed in range(args.seeds):
        for kind in KINDS:
            file = folder / f"{kind}-seed{seed}.json"
            if not file.is_file():
                console.print(f"{kind}, seed {seed}: training for {args.minutes:g} minutes", highlight=False)
                result = run(kind, seed, args, folder)
                write_json(asdict(result), file)
            results.append(read(file, args))
    summary = summarise(results, *classical(args))
    _print(console, summary)
    if args.json is not None:
        out = Path(args.json)
        write_json({"machine": machine() | {"threads": args.threads}, "summary": summary, "runs": results}, out)
        draw(results, summary, out.with_suffix(".png"))
        say_written(console, [out, out.with_suffix(".png")])
    return 0


def settings_of(kind: str, args: argparse.Namespace) -> dict[str, Any]:
    """Everything a run depends on except its seed, as JSON."""
    recipe = asdict(RECIPE) if kind == "ebt" else None
    own = {"train": args.train, "test": args.test, "minutes": args.minutes, "network": SETTINGS, "data": DATA, "crops": SEED}
    plain: dict[str, Any] = json.loads(json.dumps({**own, "recipe": recipe, "optimisation": asdict(OPTIMISATION[kind])}))
    return plain


def read(file: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Read a finished run.

    Raises:
        InputError: The run was made with other settings.
    """
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if result["settings"] != settings_of(result["kind"], args):
        raise InputError(f"{file} was made with other settings: choose another --out, or remove the file.")
    return result


def run(kind: str, seed: int, args: argparse.Namespace, folder: Path) -> Result:
    """Train one model and measure it."""
    data = ImageDataModule(args.train, seed=seed, **DATA)
    data.prepare()
    task, updates, seconds, wall = train(kind, seed, data, args)
    save_folder(task.model, folder / f"{kind}-seed{seed}")
    count = sum(parameter.numel() for parameter in task.model.parameters() if parameter.requires_grad)
    result = Result(kind, seed, settings_of(kind, args), count, updates, seconds, wall)
    test, choosing = test_crops(args), evaluation_crops(data, "validation", CHOOSING)
    for level in LEVELS:
        result.measured += measure(task.model, ways(kind, level), level, test, choosing)
        if kind == "ebt":
            noisy = NoiseSchedule.linear().noisy(test, level, SEED)
            task.model.thinking = task.model.thinking.but(step_size_scale=1.0)
            result.spearman[f"{level:g}"] = energy_errors(task.model, test, noisy, WITHIN).spearman
            result.longer[f"{level:g}"] = longer(task.model, test, noisy)
    probe = probe_model(task.model, labelled_images(DIGITS, DATA["size"], 3, PROBED, seed), seed)
    result.probe = {"top1": probe.top1, "top5": probe.top5, "error": probe.error}
    return result


def train(kind: str, seed: int, data: ImageDataModule, args: argparse.Namespace) -> tuple[DenoisingTask, int, float, float]:
    """Train for a budget of processor time, over which the learning rate completes its schedule."""
    network = DenoisingNetwork(kind=kind, **SETTINGS)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network.build(data.image_size, data.channels, LEVELS[0], RECIPE.own_steps)
    own = {"recipe": RECIPE} if kind == "ebt" else {}
    task = DenoisingTask.around(model, optimisation=OPTIMISATION[kind], seed=seed, **own)
    optimisation, optimiser = OPTIMISATION[kind], OPTIMISATION[kind].optimiser(task)
    rates = [group["lr"] for group in optimiser.param_groups]
    start, wall, updates, budget = clock(args), time.monotonic(), 0, 60 * args.minutes
    for batch in endless(data):
        done = (clock(args) - start) / budget
        if done >= 1:
            break
        expected = updates / done if updates else math.inf
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * optimisation.ratio(updates, expected)
        optimiser.zero_grad()
        task.learn_and_remember(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), optimisation.clip or math.inf)
        optimiser.step()
        updates += 1
    task.model.eval()
    return task, updates, clock(args) - start, time.monotonic() - wall


def clock(args: argparse.Namespace) -> float:
    """Processor time in seconds, divided by the number of threads."""
    return time.process_time() / args.threads


def endless(data: ImageDataModule) -> Any:
    """Batches, epoch after epoch."""
    loader, epoch = data.train_dataloader(), 0
    while True:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        yield from loader
        epoch += 1


def evaluation_crops(data: ImageDataModule, split: str, count: int) -> Tensor:
    """``count`` crops of a split, evenly spread over its photos."""
    crops = Crops(data.sets[split], data.image_size, data.channels, -(-count // len(data.sets[split])), SEED)
    chosen = np.linspace(0, len(crops) - 1, min(count, len(crops))).round().astype(int)
    return torch.stack([crops[int(i)]["image"] for i in chosen])


def test_crops(args: argparse.Namespace) -> Tensor:
    """The test crops, the same for all runs."""
    found = []
    for source in args.test or [None]:
        data = ImageDataModule(source or args.train, test_source=source, **DATA)
        data.prepare()
        found.append(evaluation_crops(data, "test", CROPS))
    return torch.cat(found)


def ways(kind: str, level: float) -> list[Way]:
    """The ways to try at a noise level."""
    if kind == "ebt":
        return [Way(steps, scale=scale) for steps in STEPS for scale in (SCALES if level > LEVELS[0] else SCALES[:1])]
    tried = [Way(passes // rounds, rounds) for passes in PASSES for rounds in (1, 3) if passes % rounds == 0]
    tried = [way for way in tried if way.steps <= NoiseSchedule.linear().level(level) + 1]
    return tried if level <= LEVELS[0] else [replace(way, trained_only=only) for only in (False, True) for way in tried]


def measure(model: Any, tried: list[Way], level: float, test: Tensor, choosing: Tensor) -> list[Measured]:
    """Measure the best way for each number of evaluations, chosen on the validation crops, on the test crops."""
    schedule, thinks = NoiseSchedule.linear(), hasattr(model, "landscape")
    noisy, given = (schedule.noisy(images, level, SEED) for images in (test, choosing))
    chosen: dict[int, tuple[float, Way]] = {}
    for way in tried:
        ratio, passes = psnr(apply(model, way, level, given), choosing).mean().item(), way.steps * way.rounds
        if passes not in chosen or ratio > chosen[passes][0]:
            chosen[passes] = (ratio, way)
    found = []
    for passes, (ratio, way) in chosen.items():
        begin = time.process_time()
        images = torch.cat([apply(model, way, level, part) for part in noisy.split(16)])
        seconds, ratios = (time.process_time() - begin) / len(test), psnr(images, test)
        mse, likeness = ((images.clamp(-1, 1) - test) / 2).square().mean().item(), ssim(images, test)
        backward = passes if thinks else 0
        found.append(
            Measured(level, way, passes, backward, ratios.mean().item(), mse, likeness, seconds, ratios.tolist(), ratio)
        )
    return found


def longer(model: Any, test: Tensor, noisy: Tensor) -> dict[str, float]:
    """PSNR after twice the trained steps minus PSNR after the trained steps, in dB."""
    own = RECIPE.own_steps
    base = psnr(model.think(noisy, steps=own).state, test)
    found = {"plain": model.think(noisy, steps=2 * own), "stopped": model.think(noisy, steps=2 * own, tolerance=TOLERANCE)}
    return {name: (psnr(thought.state, test) - base).mean().item() for name, thought in found.items()}


def apply(model: Any, way: Way, level: float, noisy: Tensor) -> Tensor:
    """Denoise images in one way."""
    if hasattr(model, "landscape"):
        return model.think(noisy, steps=way.steps, step_size_scale=way.scale).state
    found: Tensor = model.denoise(noisy, level, way.steps, way.rounds, way.trained_only)
    return found


def classical(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """PSNR of the noisy input and of scikit-image's non-local means, given the true noise; strength chosen on validation."""
    from skimage.restoration import denoise_nl_means

    data = ImageDataModule(args.train, seed=0, **DATA)
    data.prepare()
    test, choosing, schedule = test_crops(args), evaluation_crops(data, "validation", CHOOSING), NoiseSchedule.linear()
    inputs, means = dict[str, Any](), dict[str, Any]()

    def clean(images: Tensor, level: float, strength: float) -> Tensor:
        kept = schedule.kept[schedule.level(level)].item()
        std = math.sqrt((1 - kept) / kept)
        options = {"patch_size": 5, "patch_distance": 6, "fast_mode": True, "channel_axis": -1}
        scaled = (schedule.noisy(images, level, SEED) / math.sqrt(kept)).permute(0, 2, 3, 1).numpy()
        found = [denoise_nl_means(image, sigma=std, h=strength * std, **options) for image in scaled]
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(images)

    for level in LEVELS:
        strength = max((0.4, 0.6, 0.8, 1.0), key=lambda h: psnr(clean(choosing, level, h), choosing).mean().item())
        inputs[f"{level:g}"] = psnr(schedule.noisy(test, level, SEED), test).mean().item()
        means[f"{level:g}"] = psnr(clean(test, level, strength), test).mean().item()
    return inputs, means


def summarise(results: list[dict[str, Any]], inputs: dict[str, Any], means: dict[str, Any]) -> dict[str, Any]:
    """Summarise the runs over the seeds."""
    summary: dict[str, Any] = {"noisy": inputs, "non-local means": means, "levels": {}}
    ebts, dits = ([result for result in results if result["kind"] == kind] for kind in KINDS)
    for level in LEVELS:
        within = [best(result, level, lambda point: point["forward"] <= WITHIN) for result in ebts]
        curve = {
            passes: [best(result, level, lambda point, passes=passes: point["forward"] == passes) for result in dits]
            for passes in sorted({point["forward"] for point in at(dits[0], level)})
        }
        summary["levels"][f"{level:g}"] = {
            "ebt": {step: _mean([at_passes(result, level, step) for result in ebts]) for step in STEPS},
            "ebt within": {**_mean(within), "steps": [point["forward"] for point in within]},
            "dit": {passes: _mean(points) for passes, points in curve.items()},
            "margins": {passes: margin(within, points) for passes, points in curve.items()},
        }
    summary["twice the trained steps"] = {level: [result["longer"][level] for result in ebts] for level in ebts[0]["longer"]}
    summary["spearman"] = {level: [result["spearman"][level] for result in ebts] for level in ebts[0]["spearman"]}
    summary["probe"] = {kind: [r["probe"]["top1"] for r in rs] for kind, rs in (("ebt", ebts), ("dit", dits))}
    summary["training"] = {
        r: {"parameters": rs[0]["parameters"], "updates": [x["updates"] for x in rs], "seconds": [x["seconds"] for x in rs]}
        for r, rs in (("ebt", ebts), ("dit", dits))
    }
    return summary


def at(result: dict[str, Any], level: float) -> list[dict[str, Any]]:
    return [point for point in result["measured"] if point["level"] == level]


def at_passes(result: dict[str, Any], level: float, passes: int) -> dict[str, Any]:
    return best(result, level, lambda point: point["forward"] == passes)


def best(result: dict[str, Any], level: float, which: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The best of some ways, chosen on the validation crops."""
    return max(filter(which, at(result, level)), key=lambda point: point["choosing"])


def _mean(points: list[dict[str, Any]]) -> dict[str, Any]:
    spread = stdev([point["psnr"] for point in points]) if len(points) > 1 else None
    names = ("psnr", "mse", "ssim", "seconds")
    shared = {name: fmean([point[name] for point in points]) for name in names if points[0][name] is not None}
    return {**shared, "spread": spread, "ways": [point["way"] for point in points]}


def margin(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, float]:
    """Mean difference of PSNR in dB, averaged over seeds and paired by image, with a 95 % interval over the images."""
    gaps = np.mean([point["psnrs"] for point in ours], 0) - np.mean([point["psnrs"] for point in theirs], 0)
    half = 1.96 * float(gaps.std(ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
    return {"margin": float(gaps.mean()), "low": float(gaps.mean()) - half, "high": float(gaps.mean()) + half}


def _print(console: Console, summary: dict[str, Any]) -> None:
    for level, found in summary["levels"].items():
        table = plain_table()
        for column in ("method", "forward", "backward", "PSNR dB", "mse", "ms per image", "EBT's margin"):
            table.add_column(column, justify="left" if column == "method" else "right")
        table.add_row("noisy input", "-", "-", f"{summary['noisy'][level]:.2f}", "-", "-", "-")
        table.add_row("non-local means", "-", "-", f"{summary['non-local means'][level]:.2f}", "-", "-", "-")
        for step, point in found["ebt"].items():
            table.add_row("EBT", str(step), str(step), *_cells(point), "-")
        for passes, point in found["dit"].items():
            gap = found["margins"][passes]
            table.add_row(
                "DiT", str(passes), "0", *_cells(point), f"{gap['margin']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]"
            )
        print_table(console, f"noise level {level}", table, f"margin: of the EBT within {WITHIN} evaluations, paired by image")
    table = plain_table()
    table.show_header = False
    for name in ("twice the trained steps", "spearman", "probe", "training"):
        for key, value in summary[name].items():
            table.add_row(f"{name}, {key}", str(value))
    console.print(table)


def _cells(point: dict[str, Any]) -> list[str]:
    spread = f" ±{point['spread']:.2f}" if point["spread"] is not None else ""
    return [f"{point['psnr']:.2f}{spread}", f"{point['mse']:.5f}", f"{1000 * point['seconds']:.1f}"]


def draw(results: list[dict[str, Any]], summary: dict[str, Any], path: Path) -> None:
    """Plot PSNR against function evaluations for each noise level (paper, figure 12)."""
    with picture(path, width=10, height=4.5) as figure:
        for axes, (level, found) in zip(figure.subplots(1, len(LEVELS)), summary["levels"].items(), strict=True):
            for i, (kind, name, each) in enumerate((("ebt", "EBT", 2), ("dit", "DiT, DDIM", 1))):
                points = {each * int(passes): point["psnr"] for passes, point in found[kind].items()}
                axes.plot(list(points), list(points.values()), color=COLOURS[i], marker="os"[i], label=name)
            axes.axhline(summary["noisy"][level], color=GREY, linestyle=":", label="noisy input")
            axes.axhline(summary["non-local means"][level], color=GREY, linestyle="--", label="non-local means")
            axes.set_xscale("log")
            axes.set_xlabel("forward and inner backward passes")
            axes.set_title(f"noise level {level}" + (" (trained)" if float(level) == LEVELS[0] else " (out of distribution)"))
        figure.axes[0].set_ylabel("PSNR (dB)")
        figure.axes[0].legend()


if __name__ == "__main__":
    sys.exit(main())

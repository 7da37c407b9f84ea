"""``ebt rollout``: predict the next frames of videos, and show the energy of each frame."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import Tensor

from ebt.cli.terminal import numbers, out_folder, plain_table, print_table, progress_bar, say, say_written, scaled_and_noisy
from ebt.errors import InputError
from ebt.evaluation.measure import thinks
from ebt.files import write_json
from ebt.problems.folder import load_folder
from ebt.problems.images.pictures import film_strip
from ebt.problems.images.sources import to_picture
from ebt.problems.video.clips import import_av, write_video
from ebt.problems.video.metrics import FrameEnergies, Rollout, frame_energies, frame_loss, rollout
from ebt.problems.video.pictures import frame_energy_map, save_gif, side_by_side_frames
from ebt.problems.video.problem import HeldOutVideo, held_out_video

TYPES = ("ebt_video", "ebt_video_transformer")
SHOWN = 12
"""Maximum number of predicted frames in a strip."""


@dataclass(frozen=True)
class ClipRollout:
    """JSON result of one clip. Losses are smooth L1 in the encoder's space."""

    losses: list[float]
    """Loss of each predicted frame."""
    repeated: list[float]
    """Loss of the baseline that repeats the last given frame."""
    energies: list[list[float]] | None
    """Energy of each predicted frame, before the first and after each step."""
    watched_energies: list[list[float]] | None
    """Energy of each frame but the first given the true previous frames, before the first and after each step."""
    watched_losses: list[list[float]] | None
    """Loss of the same frames after each step."""


KNOWN = ("spearman", "spearman_within_clips", "spearman_over_repeating", "spearman_of_moves")


@dataclass(frozen=True)
class Results:
    """Results of all clips."""

    data: str
    given: int
    ahead: int
    clips: list[ClipRollout]
    steps: int | None = None
    candidates: int | None = None
    spearman: float | None = None
    """Spearman correlation of energy and loss over all frames given the true previous frames; None without an energy."""
    spearman_within_clips: float | None = None
    """The correlation within a clip, averaged over the clips."""
    spearman_over_repeating: float | None = None
    """The correlation over all frames of the energy less that of repeating the previous frame."""
    spearman_of_moves: float | None = None
    """Spearman correlation of the distance that a frame moved in the last step and its loss."""


def _check(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Check the options, and return the thinking options."""
    if not thinks(model) and (args.steps, args.candidates, args.rule) != (None, None, None):
        raise InputError("--steps, --candidates and --rule need a model with an energy: Transformer++ answers in one pass.")
    many = args.candidates or (model.thinking.candidates if thinks(model) else 1)
    options: dict[str, Any] = scaled_and_noisy(args, [model], many)
    if args.mp4 and (args.out is None or args.no_pictures):
        raise InputError("--mp4 writes files: give --out, and leave out --no-pictures.")
    if args.mp4:
        import_av()
    return {**options, "steps": args.steps, "candidates": args.candidates, "rule": args.rule or "lowest", "seed": args.seed}


def _results(
    args: argparse.Namespace,
    videos: HeldOutVideo,
    model: Any,
    frames: Tensor,
    found: Rollout,
    watched: FrameEnergies | None,
    given: int,
) -> Results:
    true = frames[:, given:]
    losses, repeated = (frame_loss(made.cpu(), true) for made in (found.frames, frames[:, given - 1 : given].expand_as(true)))
    by_step = found.energies, *((None, None) if watched is None else (watched.energies, watched.losses))
    clips = [
        ClipRollout(losses[i].tolist(), repeated[i].tolist(), *(None if all is None else all[:, i].tolist() for all in by_step))
        for i in range(len(frames))
    ]
    if watched is None:
        return Results(videos.name, given, args.frames, clips)
    steps, candidates = args.steps or model.thinking.steps, args.candidates or model.thinking.candidates
    known = {name: getattr(watched, name) for name in KNOWN}
    return Results(videos.name, given, args.frames, clips, steps, candidates, **known)


def _print(console: Console, results: Results, videos: HeldOutVideo) -> None:
    energy = ["energy at start", "at end"] if results.spearman is not None else []
    table = plain_table(*numbers("frame", "loss", "repeated", *energy))
    for i in range(results.ahead):
        row = [f"{np.mean([getattr(clip, name)[i] for clip in results.clips]):.4f}" for name in ("losses", "repeated")]
        if results.spearman is not None:
            row += [f"{np.mean([(clip.energies or [])[step][i] for clip in results.clips]):.4g}" for step in (0, -1)]
        table.add_row(str(i + 1), *row)
    count = len(results.clips)
    title = f"{results.data}: {results.ahead} frames after {results.given} given ones, {count} clip{'s' * (count > 1)}"
    print_table(console, title, table, "loss: smooth L1 of the encoded frame; repeated: loss of repeating the last given frame")
    if results.spearman is not None:
        values = [getattr(results, name) for name in KNOWN]
        known = ["-" if value is None or math.isnan(value) else f"{value:.2f}" for value in values]
        said = "energy and loss {} (within clips {}, less that of repeating {}), size of the last move and loss {}".format(
            *known
        )
        say(console, f"Spearman correlations, given the true previous frames: {said}")
    if videos.note:
        say(console, videos.note, "dim")


def _write(
    args: argparse.Namespace, folder: Path, results: Results, videos: HeldOutVideo, frames: Tensor, found: Rollout
) -> list[Path]:
    written = [folder / "rollout.json"]
    write_json(results, written[0])
    for i, clip in enumerate(results.clips):
        films: tuple[np.ndarray, ...] = ()
        if not args.no_pictures:
            true, predicted = (
                np.stack([np.array(to_picture(frame)) for frame in videos.data.encoder.decode(part[i].cpu())])
                for part in (frames, found.frames)
            )
            films = (true, np.concatenate((true[: results.given], predicted)))
            written += _films(args, folder / f"rollout-{i:02}", *films, results, videos.data.seconds)
        if clip.watched_energies is not None and clip.watched_losses is not None:
            written.append(folder / f"rollout-{i:02}-energy.png")
            shown = list(films[0][1:]) if films else ()
            frame_energy_map(
                clip.watched_energies, clip.watched_losses[-1], written[-1], shown, "next frame, given the true ones"
            )
    return written


def _films(
    args: argparse.Namespace, stem: Path, true: np.ndarray, found: np.ndarray, results: Results, seconds: float
) -> list[Path]:
    pages = side_by_side_frames(true, found, results.given)
    written = [stem.with_suffix(".gif"), stem.with_suffix(".png")]
    save_gif(pages, written[0], seconds)
    first = results.given - min(2, results.given)
    last = results.given + min(SHOWN, results.ahead)
    names = ["given" if i < results.given else f"+{i - results.given + 1}" for i in range(first, last)]
    film_strip({"true": list(true[first:last]), "predicted": list(found[first:last])}, names, written[1])
    if args.mp4:
        written.append(stem.with_suffix(".mp4"))
        write_video(pages, written[-1], seconds)
    return written


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    console = Console()
    model = load_folder(args.checkpoint, TYPES)
    options = _check(args, model)
    given = args.given or model.config.context_length
    videos = held_out_video(args.checkpoint, model, args.data, args.split, given + args.frames)
    if args.out is not None and not args.no_pictures and not videos.data.encoder.decodes:
        raise InputError(
            f"{videos.data.encoder_name} cannot be turned back into pictures: add --no-pictures to write only numbers."
        )
    frames = videos.frames(given + args.frames, args.limit)
    folder = out_folder(args.out)
    with progress_bar("frames", args.frames) as bar:
        found = rollout(model, frames[:, :given], args.frames, progress=bar, **options)
    watched = frame_energies(model, frames, **options) if thinks(model) else None
    results = _results(args, videos, model, frames, found, watched, given)
    _print(console, results, videos)
    if folder is not None:
        say_written(console, _write(args, folder, results, videos, frames, found))
    return 0

"""``ebt denoise``: denoise images, or fill in a masked region."""

from __future__ import annotations

import argparse
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ebt.cli.terminal import numbers, out_folder, plain_table, print_table, progress_bar, say_written
from ebt.errors import InputError
from ebt.files import write_json
from ebt.problems.folder import load_folder
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.metrics import psnr, ssim
from ebt.problems.images.models import EBTForImages, by_tiles
from ebt.problems.images.pictures import film_strip
from ebt.problems.images.sources import PHOTOS, Images, full_values, keep_mode, of_files, open_images, to_picture

TYPES = ("ebt_images", "ebt_dit_images")


@dataclass(frozen=True)
class Denoised:
    """JSON result of one image. PSNR (dB) and SSIM need the clean image."""

    image: str
    steps: int
    psnr_noisy: float | None = None
    psnr: float | None = None
    ssim_noisy: float | None = None
    ssim: float | None = None


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    console = Console()
    model = load_folder(args.checkpoint, TYPES)
    _check_options(args, model)
    images, *clean = _inputs(args)
    beside = _beside(args)
    args.steps = args.steps or getattr(model.config, "steps", 1)
    folder, results = out_folder(args.out), list[Denoised]()
    with progress_bar("images", len(images)) as bar:
        for index, name in enumerate(images.names):
            shown, result = _one(args, model, images, clean, index)
            results.append(result)
            stem = f"{index:02}-{Path(name).stem}"
            if path := beside or (folder and folder / f"{stem}.png"):
                try:
                    keep_mode(list(shown.values())[1], images.picture(index)).save(path)
                except OSError as error:
                    raise InputError(f"{path} cannot be written ({error}): choose another folder with --out.") from error
            if folder is not None:
                pictures = {name: np.array(to_picture(image)) for name, image in shown.items()}
                film_strip({"": list(pictures.values())}, list(pictures), folder / f"{stem}-comparison.png", width=3.0)
            bar(index + 1, None)
    _print(console, args, results)
    if folder is not None:
        write_json({"level": args.noise, "images": results}, folder / "denoise.json")
    if written := beside or folder:
        say_written(console, [written])
    else:
        console.print("The images are not kept: save them with --out FOLDER.", style="dim")
    return 0


def _check_options(args: argparse.Namespace, model: Any) -> None:
    for option in ("mask", "tolerance"):
        if getattr(args, option) is not None and not isinstance(model, EBTForImages):
            raise InputError(f"--{option} needs a model with an energy, and {args.checkpoint} is a Diffusion Transformer.")
    if args.mask is not None and (args.noise is not None or args.clean is not None):
        raise InputError("--mask fills in a clean image: leave out --noise and --clean.")
    if args.mask is not None and args.tolerance is not None:
        raise InputError("--tolerance stops denoising, and --mask fills in with all steps: leave one of them out.")
    if args.noise is not None and args.clean is not None:
        raise InputError("--noise adds noise to the given images, which are the clean ones: leave out --clean.")


def _inputs(args: argparse.Namespace) -> list[Images]:
    """Return the readable images, at most ``--limit`` of them, and their clean versions if given."""
    parts = [_images(source) for source in (args.images, args.clean) if source is not None]
    if len(set(map(len, parts))) > 1:
        counts = f"{args.clean} has {len(parts[1])} image(s) and {args.images} {len(parts[0])}"
        raise InputError(f"{counts}: give one clean image for each image.")
    chosen = list(range(len(parts[0])))[: args.limit]
    for part in parts:
        good, _ = part.part(chosen).usable()
        chosen = [chosen[i] for i in good]
    for index in chosen if args.clean or args.mask else ():
        sizes = {part.names[index]: part.picture(index).size for part in parts}
        if len(set(sizes.values())) > 1:
            told = " and ".join(f"{name} {width} x {height}" for name, (width, height) in sizes.items())
            raise InputError(f"{told} pixels: an image and its clean version must match in size. Resize or crop one of them.")
        if args.mask is not None:
            width, height = next(iter(sizes.values()))
            read_mask(args.mask, height, width)
    return [part.part(chosen) for part in parts]


def _images(source: str) -> Images:
    if source != PHOTOS and not Path(source).expanduser().exists():
        raise InputError(f"{source} does not exist: name an image, a folder of images, or {PHOTOS}.")
    parts = open_images(source)
    return parts.get("test", parts["train"])


def _beside(args: argparse.Namespace) -> Path | None:
    """Return the path for the result of a single image without --out.

    Raises:
        InputError: The file exists, or the results of a folder would be lost.
    """
    if args.out is not None:
        return None
    path = Path(args.images).expanduser()
    if not path.is_file():
        if args.noise is None and args.clean is None:
            raise InputError(f"the results of {args.images} would be lost: give a folder for them with --out.")
        return None
    beside = path.with_name(f"{path.stem}-{'denoised' if args.mask is None else 'filled'}.png")
    if beside.exists():
        raise InputError(f"{beside} exists: move it, or give a folder for the result with --out.")
    return beside


def _one(
    args: argparse.Namespace, model: Any, images: Images, clean: list[Images], index: int
) -> tuple[dict[str, Tensor], Denoised]:
    """Return the pictures and the metrics of one image."""
    channels, name = model.config.num_channels, images.names[index]
    picture = images.picture(index)
    if (frames := getattr(picture, "n_frames", 1)) > 1:
        warnings.warn(f"{name} has {frames} frames: only the first is read.", stacklevel=2)
    given = full_values(picture, name, channels)
    if args.mask is not None:
        free = read_mask(args.mask, given.shape[1], given.shape[2])
        shown = {"masked": given.masked_fill(free, 1.0), "filled in": _filled(model, given, free, args)}
        return shown, Denoised(name, args.steps)
    truth = given if args.noise is not None else None
    if clean:
        truth = full_values(clean[0].picture(index), clean[0].names[index], channels)
    noisy = given if args.noise is None else NoiseSchedule.linear().noisy(given[None], args.noise, args.seed + index)[0]
    told = {"tolerance": args.tolerance} if isinstance(model, EBTForImages) else {"level": args.noise}
    found = by_tiles(lambda tiles: model.predict(tiles, steps=args.steps, **told), noisy, model.config.image_size)
    shown = {"noisy": noisy, "denoised": found}
    if truth is None:
        return shown, Denoised(name, args.steps)
    ratios = [psnr(image[None], truth[None]).item() for image in (noisy, found)]
    likeness = [ssim(image[None], truth[None]) for image in (noisy, found)]
    named = {f"{name} ({ratio:.2f} dB)": image for (name, image), ratio in zip(shown.items(), ratios, strict=True)}
    return {**named, "clean": truth}, Denoised(name, args.steps, *ratios, *likeness)


def read_mask(mask: str, height: int, width: int) -> Tensor:
    """Return the free pixels (1, H, W) given by a box ``X,Y,W,H``, or by the pixels of a picture that are at least 128.

    Raises:
        InputError: The picture has another size or no such pixel, the box is not inside the image, or ``mask`` is neither.
    """
    if re.fullmatch(r"\d+(,\d+){3}", mask):
        left, top, wide, high = map(int, mask.split(","))
        if not (wide and high and left + wide <= width and top + high <= height):
            raise InputError(f"--mask {mask} is not inside an image of {width} x {height} pixels: give X,Y,W,H inside it.")
        free = torch.zeros(1, height, width, dtype=torch.bool)
        free[:, top : top + high, left : left + wide] = True
        return free
    if not Path(mask).is_file():
        raise InputError(f"--mask {mask} is neither a file nor a box X,Y,W,H: give one of them.")
    picture = of_files(mask, [Path(mask)]).read(0, channels=1)
    if picture.shape[1:] != (height, width):
        raise InputError(
            f"{mask} has {picture.shape[2]} x {picture.shape[1]} pixels, the image {width} x {height}: make their sizes equal."
        )
    free = torch.from_numpy(picture >= 128)
    if not free.any():
        raise InputError(f"--mask {mask} has no white pixels: paint the region to fill in white.")
    return free


def _filled(model: EBTForImages, image: Tensor, free: Tensor, args: argparse.Namespace) -> Tensor:
    """Return the image (C, H, W) with its free pixels filled in. They must fit into one tile of the model's image size."""
    size = model.config.image_size
    generator = torch.Generator().manual_seed(args.seed)
    rows, columns = free[0].nonzero().unbind(1)
    height, width = image.shape[1:]
    top = max(0, min(int(rows.float().mean()) - size // 2, height - size))
    left = max(0, min(int(columns.float().mean()) - size // 2, width - size))
    part = (slice(None), slice(top, top + size), slice(left, left + size))
    if bool(free.sum() > free[part].sum()) or min(height, width) < size:
        raise InputError(f"--mask {args.mask} must fit into a square of {size} x {size} pixels, in an image at least as large.")
    filled = image.clone()
    filled[part] = model.infill(image[part][None], free[part][None], args.steps, generator)[0].to(image)
    return filled


def _print(console: Console, args: argparse.Namespace, results: list[Denoised]) -> None:
    table = plain_table("image", *numbers("steps", "PSNR noisy", "PSNR", "SSIM noisy", "SSIM"))
    for row in results:
        values = (row.psnr_noisy, row.psnr, row.ssim_noisy, row.ssim)
        shown = ["-" if value is None else f"{value:.{digits}f}" for value, digits in zip(values, (2, 2, 3, 3), strict=True)]
        table.add_row(Path(row.image).name, str(row.steps), *shown)
    done = "denoised" if args.mask is None else "filled in"
    done += "" if args.noise is None else f", noise level {args.noise:g}"
    print_table(console, f"{len(results)} image(s) {done}", table)

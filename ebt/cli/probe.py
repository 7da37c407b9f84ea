"""``ebt probe``: evaluate the features of image models with a linear probe."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from ebt.cli.denoise import TYPES
from ebt.cli.terminal import numbers, out_folder, plain_table, print_table, say_written
from ebt.errors import InputError
from ebt.files import write_json
from ebt.problems.folder import load_folder
from ebt.problems.images.models import EBTForImages
from ebt.problems.images.probe import Labelled, Probe, labelled_images, linear_probe, pooled_features

LEVELS = (0, 25, 50, 99)
"""Noise levels passed to a Diffusion Transformer with clean images. The best one on held-out training data is reported."""


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    console = Console()
    models = {name: load_folder(name, TYPES) for name in [args.checkpoint, *args.baseline]}
    shapes = {(model.config.image_size, model.config.num_channels) for model in models.values()}
    if len(shapes) > 1:
        raise InputError("The models take images of different sizes or channels: compare models of the same size.")
    data = labelled_images(args.data, *shapes.pop(), args.limit, args.seed)
    table = plain_table("model", *numbers("top-1 %", "top-5 %", "images"))
    probes = {name: probe_model(model, data, args.seed) for name, model in models.items()}
    for name, probe in probes.items():
        accuracy = f"{100 * probe.top1:.2f} ±{100 * probe.error:.2f}"
        table.add_row(Path(name).resolve().name, accuracy, f"{100 * probe.top5:.2f}", f"{probe.train} + {probe.test}")
    print_table(console, f"linear probe on {Path(args.data).name}: {len(data.classes)} classes", table)
    if (folder := out_folder(args.out)) is not None:
        write_json({"data": args.data, "classes": data.classes, "probes": probes}, folder / "probe.json")
        say_written(console, [folder / "probe.json"])
    return 0


def probe_model(model: Any, data: Labelled, seed: int = 0) -> Probe:
    """Probe one model. A Diffusion Transformer gets the noise level that suits it best (``LEVELS``)."""
    ways = [model.features] if isinstance(model, EBTForImages) else [partial(model.features, t=t) for t in LEVELS]
    features = ([pooled_features(way, images) for images in (data.train, data.test)] for way in ways)
    probes = [linear_probe(train, data.labels, test, data.test_labels, seed) for train, test in features]
    return max(probes, key=lambda probe: probe.validation)

"""Load damaged model folders: each raises an ``InputError`` or gives a working model; a flipped bit in the weights must raise.

    python benchmarks/mutate.py --count 1000 --seed 0 --json mutate.json

A tiny model of each type is saved. Each folder is a copy with one mutation: a bit of the weights is flipped, bytes of another
file are changed, or a value of the configuration is replaced, removed or added. The model is loaded, with its tokenizer if it
has one, and thinks once. The exit code is 1 if anything else is raised, or if flipped weights are loaded.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ebt.errors import InputError
from ebt.models.base import HubModel
from ebt.models.configuration import FOREIGN
from ebt.problems.folder import load_folder, load_tokenizer_of, save_folder
from ebt.problems.language.tokenizers import byte_tokenizer
from ebt.problems.mazes.generator import generate
from ebt.problems.registry import models

SIZES: dict[str, Any] = {"layers": 1, "dim": 8, "heads": 2}
TEXT: dict[str, Any] = {"vocab_size": 257, "context_length": 8}
IMAGES: dict[str, Any] = {"num_channels": 1, "image_size": 8, "patch_size": 4}
VIDEO: dict[str, Any] = {"frame_dim": 6, "context_length": 8}
SETTINGS: dict[str, dict[str, Any]] = {
    "ebt": {**TEXT, "conditioning": "candidate", "conditioned_steps": 2, "recipe": {"max_steps": 4}},
    "ebt_transformer_pp": TEXT,
    "ebt_sudoku": {"board": 4, "candidates": 2, "noise": 0.1},
    "ebt_sudoku_transformer": {"board": 4, "loop": "recursive"},
    "ebt_mazes": {"candidates": 2, "noise": 0.1},
    "ebt_mazes_transformer": {"loop": "recursive"},
    "ebt_images": IMAGES,
    "ebt_dit_images": IMAGES,
    "ebt_video": {**VIDEO, "encoding": {"encoder": "none"}},
    "ebt_video_transformer": VIDEO,
}
"""Fields of the configurations, by model type."""
VALUES: tuple[Any, ...] = (
    *(float("nan"), float("inf"), -float("inf"), None, True, False, "", "x", "none", "mean", "1", [], [1], {}, {"a": 1}),
    *(
        0,
        -1,
        1,
        2.5,
        1e-30,
        1e30,
        -1e30,
        1e308,
        10**9,
        2**31,
        2**63,
        -(2**63),
        10**30,
        10**400,
        "torch.nn",
        "..",
        "(",
        "a.b(1)",
    ),
)


@dataclass(frozen=True)
class Found:
    """Outcome of one mutated folder."""

    kind: str
    mutation: str
    outcome: str
    """refused, works, or the name of an unexpected error."""
    message: str

    @property
    def fault(self) -> bool:
        """Whether this outcome is a failure."""
        return self.outcome not in ("refused", "works") or (self.mutation.startswith("weights") and self.outcome == "works")


def model(kind: str) -> HubModel:
    """A tiny model with random weights."""
    torch.manual_seed(0)
    made = models()[kind](models()[kind].config_class(**SIZES, **SETTINGS[kind])).eval()
    for parameter in made.parameters():
        if parameter.dim() > 1 and parameter.requires_grad:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return made


def folders(root: Path) -> dict[str, Path]:
    """Save a model of each type."""
    return {kind: save_folder(model(kind), root / kind, byte_tokenizer() if kind == "ebt" else None) for kind in SETTINGS}


def think(loaded: Any) -> None:
    """Predict once from a small input."""
    kind, config = loaded.config.model_type, loaded.config
    if "sudoku" in kind:
        loaded.predict(torch.zeros(1, config.board**2, dtype=torch.long))
    elif "mazes" in kind:
        loaded.predict(torch.from_numpy(generate(7, 1).mazes).long().flatten(1))
    elif "images" in kind:
        noisy = torch.zeros(1, config.num_channels, config.image_size, config.image_size)
        loaded(noisy, torch.zeros(1, dtype=torch.long)) if "dit" in kind else loaded.predict(noisy)
    elif "video" in kind:
        loaded.predict(torch.zeros(1, 3, config.frame_dim))
    else:
        loaded(torch.zeros(1, 3, dtype=torch.long))


def flip(folder: Path, draw: random.Random) -> str:
    """Flip one bit of the weights."""
    path = folder / "model.safetensors"
    data, place = bytearray(path.read_bytes()), 0
    place = draw.randrange(len(data))
    data[place] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return f"weights: a bit of byte {place}"


def scramble(folder: Path, draw: random.Random) -> str:
    """Change, insert, drop or cut off bytes of a file without weights or code."""
    path = draw.choice(sorted(path for path in folder.iterdir() if path.suffix not in (".safetensors", ".py")))
    data, place = bytearray(path.read_bytes()), 0
    place = draw.randrange(len(data))
    how = draw.choice(("change", "insert", "drop", "cut"))
    if how == "cut":
        del data[place:]
    elif how == "drop":
        del data[place : place + draw.randrange(1, 9)]
    else:
        data[place : place + (how == "change")] = bytes([draw.choice((draw.randrange(256), *b'09-.,:"{}[]e'))])
    path.write_bytes(data)
    return f"{path.name}: {how} at byte {place}"


def replace(folder: Path, draw: random.Random) -> str:
    """Replace, remove or add a value of the configuration."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    inner = [value for value in config.values() if isinstance(value, dict)]
    part = draw.choice(inner) if inner and draw.random() < 0.4 else config
    how, value = draw.choice(("replace", "replace", "replace", "remove", "add")), draw.choice(VALUES)
    name = draw.choice([*FOREIGN, "extra", "num_hidden_layers"]) if how == "add" else draw.choice(sorted(part))
    if how == "remove":
        del part[name]
    else:
        part[name] = value
    path.write_text(json.dumps(config))
    return f"config.json: {how} {name}" + ("" if how == "remove" else f" {value!r:.40}")


MUTATIONS: tuple[Callable[[Path, random.Random], str], ...] = (flip, scramble, replace, replace)


def attempt(kind: str, whole: Path, mutate: Callable[[Path, random.Random], str], draw: random.Random) -> Found:
    """Mutate a copy of a folder, load it, and think once."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(shutil.copytree(whole, Path(root) / "model"))
        made = partial(Found, kind, mutate(folder, draw))
        try:
            loaded = load_folder(folder)
            if (folder / "tokenizer.json").is_file():
                load_tokenizer_of(folder)("a few words")
            think(loaded)
        except InputError as error:
            return made("refused", str(error))
        except Exception as error:  # an unexpected error is a result
            return made(type(error).__name__, "".join(traceback.format_exception(error)[-4:]))
        return made("works", "")


def mutate(count: int, seed: int) -> Iterator[Found]:
    """Try ``count`` mutated folders, cycling through model types and mutations."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as root:
        whole = folders(Path(root))
        for i in range(count):
            kind = list(whole)[i % len(whole)]
            yield attempt(kind, whole[kind], MUTATIONS[i // len(whole) % len(MUTATIONS)], draw)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 after an unexpected error or an undetected flip in the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="number of mutated folders (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all outcomes into this file")
    args = parser.parse_args(argv)
    logging.set_verbosity(logging.CRITICAL)
    found = list(mutate(args.count, args.seed))
    for (mutation, outcome), count in sorted(Counter((one.mutation.split(":")[0], one.outcome) for one in found).items()):
        print(f"{mutation:<24} {outcome:<16} {count:>5}")
    faults = [one for one in found if one.fault]
    for one in faults:
        print(f"\n{one.kind}: {one.mutation}: {one.outcome}\n{one.message}")
    print(f"{len(found)} folders, {len(faults)} faults")
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())

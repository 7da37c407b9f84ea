"""Kill a training run repeatedly: does it end with the weights of an uninterrupted run, bit for bit?

    python benchmarks/kill.py --kills 30

``ebt fit`` trains a tiny model on 4x4 boards with the S2 recipe, so random draws, noise and replay buffer must all survive, and
writes a checkpoint at every update. SIGKILL ends it at random moments, during updates and checkpoints; ``--resume`` continues.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))  # benchmarks import each other
from race import PRELOAD

from ebt.cli.main import main as ebt

SETTINGS = [
    "--config=sudoku/ebt-s2",
    *("--model.network.size=nano", "--model.network.layers=1", "--model.network.dim=8", "--model.network.heads=2"),
    *("--model.recipe.replay_size=12", "--data.size=4", "--data.train_count=20", "--data.train_givens=[6,9]"),
    *("--data.validation_count=1", "--data.test_count=1", "--data.test_givens=[6]", "--data.batch_size=3"),
    *("--checkpoint_every=1", "--loggers=[]", "--trainer.limit_val_batches=0"),
]
PATIENCE = 300.0
"""Seconds to wait for a run."""


def fit(folder: Path, updates: int, output: Path) -> None:
    """Train, or resume from the last checkpoint, in a separate process."""
    torch.set_num_threads(1)
    with output.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        resume = (folder / "checkpoints" / "last.ckpt").exists()
        arguments = ["--resume"] if resume else [*SETTINGS, f"--trainer.max_steps={updates}"]
        sys.exit(ebt(["fit", *arguments, f"--out={folder}"]))


def run(folder: Path, updates: int, checkpoints: int | None, delay: float = 0.0) -> int | None:
    """Exit code of a run that is killed ``checkpoints`` checkpoints and ``delay`` seconds after its start (None: never)."""
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(PRELOAD)
    last, seen = folder / "checkpoints" / "last.ckpt", 0
    before, until = written(last), time.monotonic() + PATIENCE
    process = context.Process(target=fit, args=(folder, updates, folder.with_suffix(".txt")))
    process.start()
    while checkpoints is not None and seen < checkpoints and process.is_alive() and time.monotonic() < until:
        time.sleep(0.001)
        now = written(last)
        seen, before = seen + (now != before), now
    if checkpoints is not None:
        time.sleep(delay)
        process.kill()
    process.join(PATIENCE)
    return process.exitcode


def written(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def survived(folder: Path, kills: int, updates: int, seed: int) -> list[int]:
    """Train once without and once with interruptions, into two folders.

    Args:
        folder: Parent folder of both runs.
        kills: Number of interruptions.
        updates: Updates of each run.
        seed: Seed of the moments of interruption.

    Returns:
        Updates completed at each interruption.

    Raises:
        RuntimeError: A run failed, or ended before all interruptions.
    """
    draw, done = random.Random(seed), list[int]()
    if run(folder / "whole", updates, None) != 0:
        raise RuntimeError((folder / "whole.txt").read_text())
    for _ in range(kills):
        code = run(folder / "killed", updates, draw.randint(1, updates // (kills + 1)), draw.uniform(0, 0.02))
        if code != -9:
            raise RuntimeError(f"exit code {code} before the end: {(folder / 'killed.txt').read_text()}")
        done.append(state(folder / "killed")["global_step"])
    if run(folder / "killed", updates, None) != 0:
        raise RuntimeError((folder / "killed.txt").read_text())
    return done


def state(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of unequal tensors in two checkpoints: weights, optimiser state, replay buffer."""
    parts = [
        {name: value for key in ("state_dict", "optimizer_states", "thinking") for name, value in flat(found[key], key).items()}
        for found in (one, other)
    ]
    names = parts[0].keys() | parts[1].keys()
    return sorted(name for name in names if not all(name in part for part in parts) or not same(*(p[name] for p in parts)))


def flat(value: Any, name: str) -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        return {name: value}
    return {key: leaf for inner, part in items for key, leaf in flat(part, f"{name}.{inner}").items()}


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3, metavar="N", help="interruptions (default: 3)")
    parser.add_argument("--updates", type=int, metavar="N", help="updates of each run (default: 10 per interruption, plus 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of interruption (default: 0)")
    args = parser.parse_args(argv)
    updates = args.updates or 10 * (args.kills + 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = survived(folder, args.kills, updates, args.seed)
        found = differences(state(folder / "whole"), state(folder / "killed"))
    print(f"{updates} updates, killed {len(done)} times, after {', '.join(map(str, done))}")
    print(f"different: {', '.join(found)}" if found else "weights, optimiser and replay buffer are equal, bit for bit")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

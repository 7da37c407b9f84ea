"""Data that a model was not trained on: what its run held out, or a source that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from ebt.cli.run import Run
from ebt.errors import InputError
from ebt.problems.folder import find_folder
from ebt.problems.images.data import Crops, ImageDataModule
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.sources import open_images
from ebt.problems.language.data import TextDataModule
from ebt.problems.sudoku.boards import SudokuSet, generate, read_csv
from ebt.problems.sudoku.data import SudokuDataModule


@dataclass(frozen=True)
class HeldOut:
    """Text as batches, boards, images, or clips."""

    name: str
    note: str = ""
    """What the user should know about it."""
    batches: Sequence[dict[str, Tensor]] = ()
    """Of ``input_ids`` and ``targets`` (B, S)."""
    boards: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
    """Puzzles and solutions (n, C)."""

    images: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
    """Clean and noisy crops (n, C, H, W)."""
    clips: Tensor = field(default_factory=lambda: torch.empty(0))
    """Encoded frames (n, S + 1, E)."""

    @property
    def size(self) -> int:
        """Rows, boards, crops or clips."""
        return (
            len(self.boards[0])
            or len(self.images[0])
            or len(self.clips)
            or sum(len(batch["input_ids"]) for batch in self.batches)
        )


def run_data(checkpoint: str, module: type[Any]) -> dict[str, Any] | None:
    """The data settings of the run that a folder is, or belongs to; None if it is no run.

    Raises:
        InputError: the run's configuration cannot be read, or its data are of another class than ``module``.
    """
    folder = Path(checkpoint).resolve()
    config = next((run.config for run in (Run(folder), Run(folder.parent)) if run.config.is_file()), None)
    if config is None:
        return None
    try:
        read = yaml.safe_load(config.read_text(encoding="utf-8"))
        kind, settings = read["data"]["class_path"].rpartition(".")[2], read["data"].get("init_args") or {}
        settings = {"seed": read["seed_everything"], **settings}  # `ebt fit` gives the data its own seed
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"{config} has no data settings that can be read ({error!r}): name the data with --data.") from error
    if kind != module.__name__:
        raise InputError(f"{config} has data of class {kind}, not {module.__name__}: name the data with --data.")
    return settings


def held_out_text(checkpoint: str, context: int, source: str | None, split: str, limit: int, batch_size: int) -> HeldOut:
    """Up to ``limit`` contexts, evenly spread over all there are.

    Raises:
        InputError: no source is known, or it cannot be read.
    """
    settings = run_data(checkpoint, TextDataModule) or {}
    common: dict[str, Any] = {"tokenizer": str(find_folder(checkpoint)), "context_length": context, "num_workers": 0}
    note = ""
    if source is not None:
        fields = {name: settings[name] for name in ("text_field", "prompt_field") if name in settings}
        data = TextDataModule(source, test_source=source, fractions=(1.0, 0.0, 0.0), **fields, **common)
        name, split = Path(source).name, "test"
        note = f"All of {source} was read: held-out quality only if the model was trained on none of it."
    elif settings:
        data = TextDataModule(**{**settings, **common})
        name = f"{split} documents of {settings.get('source', 'the run')}"
    else:
        raise InputError(f"{checkpoint} does not belong to a run folder, which would know its data: name them with --data.")
    loader: Any = data.test_dataloader() if split == "test" else data.val_dataloader()
    if not loader:
        raise InputError("The run has no validation documents: use --split test, or name the data with --data.")
    return HeldOut(name, note, batches=_batches(loader.dataset, limit, batch_size))


def _batches(dataset: Any, limit: int, batch_size: int) -> list[dict[str, Tensor]]:
    if isinstance(dataset, IterableDataset):
        rows = [row for row, _ in zip(dataset, range(limit), strict=False)]
    else:
        chosen = np.linspace(0, len(dataset) - 1, min(limit, len(dataset))).round().astype(int).tolist()
        rows = Subset(dataset, chosen)  # type: ignore[assignment]
    return list(DataLoader(rows, batch_size=batch_size))  # type: ignore[arg-type]


def held_out_images(
    checkpoint: str, size: int, channels: int, source: str | None, split: str, level: float, limit: int, seed: int
) -> HeldOut:
    """Up to ``limit`` crops of the run's own images, or of a source, with noise.

    Raises:
        InputError: no source is known, or it cannot be read.
    """
    settings = run_data(checkpoint, ImageDataModule) if source is None else {}
    if settings is None:
        raise InputError(f"{checkpoint} does not belong to a run folder, which would know its data: name them with --data.")
    if source is not None:
        images, name = open_images(source), f"{Path(source).name}, noise {level:g}"
        chosen = images.get(split, images["train"])
    else:
        data = ImageDataModule(**{**settings, "num_workers": 0})
        data.prepare()
        if split not in data.sets:
            raise InputError(f"The run has no {split} images: use another --split, or name the data with --data.")
        chosen, name = data.sets[split], f"{split} images of {settings.get('source', 'the run')}, noise {level:g}"
    crops = Crops(chosen, size, channels, -(-limit // len(chosen)), seed)
    where = np.linspace(0, len(crops) - 1, min(limit, len(crops))).round().astype(int).tolist()
    clean = torch.stack([crops[i]["image"] for i in where])
    return HeldOut(name, images=(clean, NoiseSchedule.linear().noisy(clean, level, seed)))


def held_out_boards(
    checkpoint: str, size: int, path: str | None, givens: int | None, split: str, limit: int, seed: int
) -> HeldOut:
    """Up to ``limit`` boards: of a CSV file; of the run's validation set; of its test set with so many givens, or with the
    fewest; or new ones.

    Raises:
        InputError: no boards are known, a file cannot be read, or options that contradict each other.
    """
    given = {"--data": path is not None, "--givens": givens is not None, f"--split {split}": split != "test"}
    named = [option for option, there in given.items() if there]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named[:2])} both say which boards: give one of them.")
    if path is not None:
        return _boards(Path(path).name, read_csv(path, size), limit)
    settings = run_data(checkpoint, SudokuDataModule)
    if settings is None and givens is None:
        raise InputError(
            f"{checkpoint} does not belong to a run folder, which would know its own boards: name a CSV file with --data, "
            "or have new puzzles made with --givens N."
        )
    if settings is None:
        note = "New puzzles: their solution grids may occur in the model's training set, which is not known here."
        return _boards(f"new puzzles with {givens} givens", generate(size, givens or 0, limit, seed), limit, note)
    return _boards_of_run(settings, size, givens, split, limit, seed)


def _boards_of_run(settings: dict[str, Any], size: int, givens: int | None, split: str, limit: int, seed: int) -> HeldOut:
    data = SudokuDataModule(**{**settings, "num_workers": 0})
    data.prepare()
    if split != "test":
        return _boards(f"{split} set", data.sets[split], limit)
    fewest = {name: int((data.sets[name].puzzles > 0).sum(1).min()) for name in data.test_names}
    if givens is None and not fewest:
        raise InputError("The run has no test set: name a CSV file with --data, or have new puzzles made with --givens N.")
    chosen = f"givens_{givens}" if givens is not None else min(fewest, key=lambda name: fewest[name])
    if chosen in fewest:
        return _boards(f"test set {chosen}", data.sets[chosen], limit)
    new = generate(size, givens or 0, limit, seed, exclude=data.sets["train"].solutions)
    return _boards(f"new puzzles with {givens} givens", new, limit, "None of their solution grids occurs in the training set.")


def _boards(name: str, boards: SudokuSet, limit: int, note: str = "") -> HeldOut:
    return HeldOut(name, note, boards=(torch.from_numpy(boards.puzzles[:limit]), torch.from_numpy(boards.solutions[:limit])))

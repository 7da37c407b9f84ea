"""Samplers and loaders with an order given by seed and epoch, which resume in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from itertools import islice
from math import inf
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset

from ebt.errors import InputError


class ResumableSampler(DistributedSampler[int]):
    """A permutation of a dataset that depends only on (seed, epoch) and can resume from ``start``.

    It is a DistributedSampler, so that Lightning does not replace it. Process ``rank`` of ``num_replicas`` takes every
    ``num_replicas``-th index, and the remainder is left out of the epoch.

    Raises:
        InputError: There are fewer examples than processes.
    """

    def __init__(self, dataset: Sized, seed: int = 0, num_replicas: int = 1, rank: int = 0) -> None:
        if len(dataset) < num_replicas:
            raise InputError(f"{num_replicas} processes train on {len(dataset)} examples: use fewer devices, or more data.")
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)  # type: ignore[arg-type]
        self.start = 0  # indices of this process to skip once
        self._resumed = False
        self._ahead = 0

    def resume(self, epoch: int, start: int) -> None:
        """Continue after ``start`` indices of an epoch."""
        self.epoch, self.start, self._resumed = epoch, start, True

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch at its start.

        The first call after ``resume`` gives the caller's number of the resumed epoch. Lightning counts an epoch that
        ``max_steps`` cut short as complete, and continues it under the next number.
        """
        if self._resumed:
            self._ahead, self._resumed = epoch - self.epoch, False
        if epoch - self._ahead != self.epoch:
            self.epoch, self.start = epoch - self._ahead, 0

    def __iter__(self) -> Iterator[int]:
        start, self.start = self.start, 0
        # SeedSequence mixes the pair; with a sum, (seed 0, epoch 1) and (seed 1, epoch 0) would have the same order.
        mixed = int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(mixed)
        order = torch.randperm(len(self.dataset), generator=generator)  # type: ignore[arg-type]
        return iter(order[: self.total_size][self.rank :: self.num_replicas][start:].tolist())


class VariedDataset(Dataset[dict[str, Tensor]]):
    """A dataset whose examples vary by random draws that depend only on (seed, epoch, index).

    Raises:
        InputError: The seed is negative.
    """

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise InputError(f"seed = {seed} is negative: give 0 or more.")
        self.seed = seed
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # so that persistent workers see a new epoch

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must implement __len__()")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch (0 or more), which determines the draws."""
        if epoch < 0:
            raise InputError(f"epoch = {epoch} is negative: give 0 or more.")
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """The epoch, which determines the draws."""
        return int(self._epoch)

    def generator(self, index: int) -> torch.Generator:
        """Return the source of the draws of an example."""
        key = np.random.SeedSequence((self.seed, self.epoch, index % len(self))).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(key[0] >> 1))


class EpochSampler(ResumableSampler):
    """Passes the epoch to the dataset (``VariedDataset``), which varies its examples by it."""

    def __iter__(self) -> Iterator[int]:
        self.dataset.set_epoch(self.epoch)  # type: ignore[attr-defined]
        return super().__iter__()


class ResumableLoader(DataLoader[Any]):
    """A DataLoader whose position is saved in checkpoints by Lightning's fit loop.

    The position is the number of batches trained on. By default, batches are counted when they are loaded, which is one too
    many if the trainer prefetches (a dataset without length) or a step fails. Set ``progress`` to a function that returns the
    trainer's own count and its number of batches per epoch. With a ``ResumableSampler``, no data are read twice; other
    datasets (streams) are read again up to the position.
    """

    progress: Callable[[], tuple[int, float]] | None = None
    moved: Callable[[int], None] | None = None
    """Called with the number of batches in the epoch when a restored position has another number than it was saved with."""
    _skip = 0  # batches to skip in the next iteration
    _taken = 0  # batches loaded in this epoch, including skipped ones

    def state_dict(self) -> dict[str, Any]:
        """Return the position as (epoch, batches). The end of an epoch is the start of the next one."""
        epoch = self.sampler.epoch if isinstance(self.sampler, ResumableSampler) else 0
        length = inf if isinstance(self.dataset, IterableDataset) else len(self)
        batches, epoch_length = self.progress() if self.progress else (self._taken, length)
        ended = batches >= min(length, epoch_length)
        return {"epoch": epoch + ended, "batches": 0 if ended else batches, "conditions": self._conditions()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved position.

        With a ``ResumableSampler``, the number of processes may differ, and the batch size with it. The epoch then continues
        after the examples that all processes have taken, rounded down to a whole batch of all processes.

        Raises:
            InputError: Other settings differ, so that the order of examples would differ.
        """
        saved, now = dict(state_dict["conditions"]), self._conditions()
        taken = state_dict["batches"] * saved["batch_size"] * saved.get("processes", 1)
        if isinstance(self.sampler, ResumableSampler) and saved["processes"] != now["processes"]:
            saved |= {name: now[name] for name in ("batch_size", "processes")}
        if saved != now:
            raise InputError(
                f"The checkpoint was written in the middle of an epoch with {state_dict['conditions']}, but now "
                f"the data have {now}: the order of batches would differ. Resume with the same settings."
            )
        self._skip = self._taken = taken // (now["batch_size"] * now.get("processes", 1))
        if isinstance(self.sampler, ResumableSampler):
            self.sampler.resume(state_dict["epoch"], self._skip * (self.batch_size or 1))
        if self._skip != state_dict["batches"] and self.moved is not None:
            self.moved(self._skip)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, so that workers and the sampler start at the first batch, after `set_epoch`.
        sampler = self.sampler if isinstance(self.sampler, ResumableSampler) else None
        skip = sampler.start // (self.batch_size or 1) if sampler is not None else self._skip
        self._skip, self._taken = 0, skip
        # The sampler itself skips what was consumed.
        for batch in islice(super().__iter__(), skip if sampler is None else 0, None):
            self._taken += 1
            yield batch
        if skip and self._taken == skip and sampler is None:  # the position was the end of a stream of unknown length
            yield from self

    def _conditions(self) -> dict[str, int]:
        if isinstance(self.sampler, ResumableSampler):
            order = {"seed": self.sampler.seed, "examples": len(self.sampler.dataset)}  # type: ignore[arg-type]
            return {"batch_size": self.batch_size or 1, "processes": self.sampler.num_replicas, **order}
        processes = getattr(self.dataset, "processes", 1)
        several = {"processes": processes} if processes > 1 else {}
        return {"batch_size": self.batch_size or 1, "num_workers": self.num_workers, **several}


def drawn(dataset: Any, count: int | None, seed: int) -> Any:
    """Return ``count`` examples (None: all), chosen at random. Smaller subsets are contained in larger ones of the same seed.

    Raises:
        InputError: The dataset has fewer examples.
    """
    if count is None:
        return dataset
    if count > len(dataset):
        raise InputError(f"train_examples={count}, and there are {len(dataset)} training examples: lower it.")
    return Subset(dataset, np.random.default_rng(seed).permutation(len(dataset))[:count].tolist())


class ResumableData(L.LightningDataModule):
    """A data module that resumes in the middle of an epoch.

    A subclass sets the fields below and implements ``prepare``, ``train_dataloader`` and ``val_dataloader``, which create
    their loaders with ``training_loader`` and ``evaluation_loader``.
    """

    seed: int
    batch_size: int
    evaluation_batch_size: int = 64
    num_workers: int = 0

    def prepare(self) -> None:
        """Load or generate the data. Later calls return immediately."""
        raise NotImplementedError(f"{type(self).__name__} must implement prepare()")

    def prepare_data(self) -> None:
        """Fill caches of downloaded or encoded data. The trainer calls this in one process per machine before the others."""
        self.prepare()

    def setup(self, stage: str) -> None:
        """Prepare the data. The trainer calls this in every process."""
        self.prepare()

    def _loading(self, batch_size: int) -> dict[str, Any]:
        # Without its own generator, a loader draws from the global one, and a resumed run would differ.
        generator = torch.Generator().manual_seed(self.seed)
        pin = torch.cuda.is_available()
        return {"batch_size": batch_size, "num_workers": self.num_workers, "generator": generator, "pin_memory": pin}

    @property
    def _process(self) -> tuple[int, int]:
        """The rank of this process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def evaluation_loader(self, dataset: Dataset[Any], batch_size: int | None = None) -> DataLoader[Any]:
        """Return a loader of batches in the order of the dataset, of ``evaluation_batch_size`` by default."""
        return DataLoader(dataset, **self._loading(batch_size or self.evaluation_batch_size))

    def training_loader(self, dataset: Any, sampler: type[ResumableSampler] = ResumableSampler) -> ResumableLoader:
        """Return a loader in the order of ``sampler`` or a stream. An incomplete batch is dropped unless it is the only one."""
        loading = self._loading(self.batch_size)
        if not isinstance(dataset, IterableDataset):
            rank, processes = self._process
            loading["sampler"] = sampler(dataset, self.seed, processes, rank)
            loading["drop_last"] = len(loading["sampler"]) >= self.batch_size
        loader = ResumableLoader(dataset, **loading)
        if self.trainer:
            loader.progress, loader.moved = self._batches_trained, self._recount
        return loader

    def _batches_trained(self) -> tuple[int, float]:
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.processed, self.trainer.num_training_batches

    def _recount(self, batches: int) -> None:
        """Set the trainer's count of batches in a resumed epoch."""
        assert self.trainer is not None
        count = self.trainer.fit_loop.epoch_loop.batch_progress.current
        count.ready = count.started = count.processed = count.completed = batches

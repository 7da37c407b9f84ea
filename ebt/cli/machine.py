"""Checks of devices, processes and precisions before training, and messages for out-of-memory errors."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.accelerators import AcceleratorRegistry

from ebt.errors import InputError
from ebt.training.sharding import Sharded

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check the trainer's settings before it is created.

    Raises:
        InputError: A device is missing, there are more processes than cores, nothing connects the machines, the precision is
            float16 without gradient scaling or on a CPU, or a number of updates is impossible.
    """
    _check_updates(settings)
    accelerator, devices, precision = settings["accelerator"], settings["devices"], settings["precision"]
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    wanted = ("cuda", "mps") if accelerator == "gpu" else (accelerator,)
    if isinstance(accelerator, str) and accelerator not in ("auto", "cpu") and not any(map(_is_there, wanted)):
        raise InputError(f"trainer.accelerator is {accelerator}, which is not available on this machine: choose cpu, or auto.")
    count = int(devices) if str(devices).isdecimal() else None
    if count == 0:
        raise InputError("trainer.devices is 0: give at least 1, or auto.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count is not None and on_cpu and count > max(2, cores):
        raise InputError(f"trainer.devices is {count}, but this machine has {cores} cores: use at most one process per core.")
    nodes = int(settings["num_nodes"] or 1)
    if nodes > 1 and _started() is None and "NODE_RANK" not in os.environ:
        raise InputError(
            f"trainer.num_nodes is {nodes}, but the machines are not connected: start with torchrun or srun on each, "
            "or set MASTER_ADDR, MASTER_PORT and NODE_RANK."
        )
    asked = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}.get(str(precision), str(precision))
    if precision is not None and (asked not in PRECISIONS or (on_cpu and asked == "16-mixed")):
        raise InputError(
            f"trainer.precision is {precision}, which is not supported on this device (the range of float16 is too small for "
            "gradients of gradients): choose bf16-mixed, bf16-true or 32-true."
        )
    if isinstance(settings["strategy"], Sharded) and asked in ("16-mixed", "64-true"):
        raise InputError(
            f"trainer.precision is {precision}, which is not supported with sharded weights: choose bf16-mixed, bf16-true or "
            "32-true."
        )


def _check_updates(settings: Mapping[str, Any]) -> None:
    interval, least, most = (settings[name] for name in ("val_check_interval", "min_steps", "max_steps"))
    if isinstance(interval, int | float) and interval <= 0:
        raise InputError(
            f"trainer.val_check_interval is {interval}: give at least 1 update, or set trainer.limit_val_batches to 0 for none."
        )
    if least is not None and 0 <= most < least:
        raise InputError(f"trainer.min_steps is {least} and trainer.max_steps {most}: give no more than max_steps.")


def check_trainer(trainer: L.Trainer) -> None:
    """Check a trainer after its creation.

    Raises:
        InputError: Its number of processes differs from the number started.
    """
    who, count = _started() or ("", trainer.world_size)
    if count != trainer.world_size:
        raise InputError(
            f"{who} started {count} processes, but trainer.devices x trainer.num_nodes is {trainer.world_size}: "
            "set trainer.devices to the number of processes per machine, and trainer.num_nodes."
        )


def _is_there(accelerator: str) -> bool:
    try:
        known = accelerator in AcceleratorRegistry.available_accelerators()
        return known and bool(AcceleratorRegistry.get(accelerator).is_available())
    except ModuleNotFoundError:  # its library is not installed
        return False


def _started() -> tuple[str, int] | None:
    """Return the launcher that started this process and the number of processes, or None."""
    if TorchElasticEnvironment.detect():
        return "torchrun", int(os.environ["WORLD_SIZE"])
    if SLURMEnvironment.detect():
        return "SLURM", int(os.environ["SLURM_NTASKS"])
    return None


_BATCH = "lower data.batch_size (compensate with trainer.accumulate_grad_batches) or data.context_length"
_STEPS, _WORDS = f"{_BATCH}, or model.recipe.max_steps", f"{_BATCH}, or train a tokenizer with fewer tokens"
_SIZE = "choose a smaller model.network.size"
_PARTS = (
    (r"/torch/optim/", "the optimiser's state", f"{_SIZE}, or trainer.precision bf16-true"),
    (r"/ebt/training/task\.py:_evaluate", "an evaluation", "lower data.evaluation_batch_size or model.validation_steps"),
    (r"/ebt/thinking/(geometry|fast/vocabulary|fast/compact)", "the vocabulary", _WORDS),
    (r"/torch/distributed/fsdp", "the gathered weights of a block", f"{_SIZE}, or set trainer.precision bf16-mixed"),
    (r"/ebt/training/sharding", "the gathered tables of words", f"{_SIZE}, or train a tokenizer with fewer tokens"),
    (r":configure_model$", "the model's weights", f"{_SIZE}, or trainer.precision bf16-true"),
    (r"/ebt/problems/\w+/(data|corpora|packing|sources|clips|encoders)", "the data", "give less data, or set data.streaming"),
    (r"/torch/autograd/|:backward$", "the backward passes", _STEPS),
    (r"/ebt/(nn|thinking|models|problems)/|:training_step$", "the activations of thinking", _STEPS),
)
"""Source of an error (a pattern for file:function), part and remedy. The innermost known frame counts."""


def out_of_memory(error: BaseException) -> InputError | None:
    """Return an ``InputError`` that explains an out-of-memory error, or None for other errors."""
    text = str(error)
    told = re.search(r"can't allocate memory|out of memory", text)
    if not (told or isinstance(error, MemoryError | torch.OutOfMemoryError)):
        return None
    places = [f"{frame.filename}:{frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    part, remedy = next(
        ((part, remedy) for place in reversed(places) for pattern, part, remedy in _PARTS if re.search(pattern, place)),
        ("the training", _BATCH),
    )
    size = re.search(r"allocate (?:(\d+) bytes|([\d.]+ [KMG]iB))", text)
    asked = size and f", which requested {size[2] or f'{int(size[1]) / 2**20:,.0f} MiB'} more"
    return InputError(f"Out of memory in {part}{asked or ''}: {remedy}. `ebt plan` shows what fits.")

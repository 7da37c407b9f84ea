"""What a trainer may run on: devices that are there, processes that find each other, precisions that are right."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.accelerators import AcceleratorRegistry

from ebt.errors import InputError

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Look at the trainer's settings before it is made.

    Raises:
        InputError: a device that is not there, more processes than cores, machines that
            nothing connects, 16 bits without scaling or on a CPU.
    """
    _check_accelerator(settings["accelerator"], settings["devices"])
    _check_nodes(int(settings["num_nodes"] or 1))
    _check_precision(settings["precision"], _on_cpu(settings["accelerator"]))


def check_trainer(trainer: L.Trainer) -> None:
    """Look at a trainer as it was made.

    Raises:
        InputError: another number of processes than were started.
    """
    started = _started()
    if started is not None and started[1] != trainer.world_size:
        who, count = started
        raise InputError(
            f"{who} started {count} processes, and trainer.devices x trainer.num_nodes is {trainer.world_size}: "
            "set trainer.devices to the processes of each machine, and trainer.num_nodes."
        )


def _check_precision(precision: Any, on_cpu: bool) -> None:
    asked = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}.get(str(precision), str(precision))
    if precision is None or (asked in PRECISIONS and not (on_cpu and asked == "16-mixed")):
        return
    raise InputError(
        f"trainer.precision is {precision}, which is not offered on this device (float16 is too narrow for gradients of "
        "gradients): choose bf16-mixed, bf16-true or 32-true."
    )


def _check_accelerator(accelerator: Any, devices: Any) -> None:
    if isinstance(accelerator, str) and accelerator not in ("auto", "cpu"):
        wanted = ("cuda", "mps") if accelerator == "gpu" else (accelerator,)
        if not any(_is_there(name) for name in wanted):
            raise InputError(f"trainer.accelerator is {accelerator}, and this machine has none: choose cpu, or auto.")
    count = int(devices) if str(devices).isdecimal() else None
    if count == 0:
        raise InputError("trainer.devices is 0: give at least 1, or auto.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count is not None and _on_cpu(accelerator) and count > max(2, cores):
        raise InputError(f"trainer.devices is {count}, and this machine has {cores} cores: at most one process for each.")


def _on_cpu(accelerator: Any) -> bool:
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def _is_there(accelerator: str) -> bool:
    if accelerator not in AcceleratorRegistry.available_accelerators():
        return False
    try:
        return bool(AcceleratorRegistry.get(accelerator).is_available())
    except ModuleNotFoundError:  # its library is not installed
        return False


def _check_nodes(nodes: int) -> None:
    if nodes > 1 and _started() is None and "NODE_RANK" not in os.environ:
        raise InputError(
            f"trainer.num_nodes is {nodes}, but nothing tells the machines of each other: start with torchrun or srun on each, "
            "or set MASTER_ADDR, MASTER_PORT and NODE_RANK."
        )


def _started() -> tuple[str, int] | None:
    """Who started this process with others, and how many they are."""
    if TorchElasticEnvironment.detect():
        return "torchrun", int(os.environ["WORLD_SIZE"])
    if SLURMEnvironment.detect():
        return "SLURM", int(os.environ["SLURM_NTASKS"])
    return None

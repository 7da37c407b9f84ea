"""Checkpoints in a folder, to which each process writes its part of sharded tensors (``torch.distributed.checkpoint``)."""

from __future__ import annotations

import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.distributed.tensor as dtensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from ebt.errors import InputError
from ebt.files import put, write_whole

REST = "checkpoint.pt"
"""File with all that is not sharded. It names the folder of the shards, so replacing it replaces the checkpoint."""
_SHARD = "sharded tensor"


def save_shards(checkpoint: dict[str, Any], folder: Path) -> None:
    """Save a checkpoint. All processes must call it; the first one writes what is not sharded.

    Until it is complete, a previous checkpoint in the folder stays intact.

    Raises:
        InputError: The checkpoint cannot be written.
    """
    tensors: dict[str, DTensor] = {}
    rest = _without_shards(checkpoint, "", tensors)
    names: list[str] = [f"shards-{uuid.uuid4().hex[:8]}"]
    dist.broadcast_object_list(names)
    first = dist.get_rank() == 0
    kept = " The previous checkpoint is intact." if (folder / REST).is_file() or folder.is_file() else ""
    where = folder if not folder.is_file() else folder.with_name(f".{folder.name}.{names[0]}")
    try:
        dcp.save(dict(tensors), checkpoint_id=where / names[0])
        if first:
            with write_whole(where / REST) as file:
                torch.save({"shards": names[0], "rest": rest}, file)
            if where != folder:  # a file of another strategy
                put(where, folder)
            for old in folder.glob("shards-*"):
                if old.name != names[0]:
                    shutil.rmtree(old)
    except (OSError, RuntimeError, dcp.CheckpointException) as error:
        if first:
            shutil.rmtree(where / names[0] if where == folder else where, ignore_errors=True)
        raise InputError(f"the checkpoint {folder} cannot be written ({_reason(error)}): free some space.{kept}") from error
    dist.barrier()


def load_shards(folder: Path, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """Load a checkpoint that ``save_shards`` wrote in any number of processes.

    Args:
        folder: Folder of the checkpoint.
        mesh: Processes among which to shard the tensors. They must all call this. None: full tensors.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    try:
        found = torch.load(folder / REST, weights_only=True, map_location="cpu")
        tensors: dict[str, torch.Tensor] = {}
        checkpoint: dict[str, Any] = _with_shards(found["rest"], mesh, tensors)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(dict(tensors), checkpoint_id=folder / found["shards"], no_dist=mesh is None)
    except (Exception, dcp.CheckpointException) as error:  # a damaged file may raise anything
        raise InputError(f"the checkpoint {folder} cannot be read ({_reason(error)}): copy it again or use another.") from error
    return checkpoint


def _reason(error: BaseException) -> BaseException:
    """The first of the errors that processes have collected."""
    failures = error.failures.values() if isinstance(error, dcp.CheckpointException) else ()
    return next((failure for failure, _ in failures), error)


def is_sharded(path: Path) -> bool:
    """Whether a path is the folder of a checkpoint that ``save_shards`` wrote."""
    return (path / REST).is_file()


def _without_shards(tree: Any, path: str, tensors: dict[str, DTensor]) -> Any:
    """The nested containers with a note of (name, shape, dtype) in place of each sharded tensor, which goes to ``tensors``."""
    if isinstance(tree, DTensor):
        tensors[path] = tree
        return {_SHARD: path, "shape": list(tree.shape), "dtype": tree.dtype}
    if isinstance(tree, dict):
        return {key: _without_shards(value, f"{path}/{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_without_shards(value, f"{path}/{i}", tensors) for i, value in enumerate(tree))
    return tree


def _with_shards(tree: Any, mesh: DeviceMesh | None, tensors: dict[str, torch.Tensor]) -> Any:
    """The nested containers with empty tensors in place of the notes. ``tensors`` gets them by name."""
    if isinstance(tree, dict) and _SHARD in tree:
        shape, dtype = tree["shape"], tree["dtype"]
        if mesh is None:
            empty = torch.empty(shape, dtype=dtype)
        else:
            empty = dtensor.empty(shape, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
        tensors[tree[_SHARD]] = empty
        return empty
    if isinstance(tree, dict):
        return {key: _with_shards(value, mesh, tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_with_shards(value, mesh, tensors) for value in tree)
    return tree

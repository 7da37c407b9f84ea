"""Checkpoints that survive what goes wrong while they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import full_disk

from ebt.cli.checkpoints import AtomicCheckpointIO
from ebt.errors import InputError


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "deep" / "last.ckpt"
    with full_disk(20_000), pytest.raises(InputError, match="cannot be written") as failed:
        io.save_checkpoint({"x": torch.zeros(10_000)}, path)
    assert "former" not in str(failed.value)
    io.save_checkpoint({"x": torch.ones(3)}, path)
    with full_disk(20_000), pytest.raises(InputError, match="The previous checkpoint is intact"):
        io.save_checkpoint({"x": torch.zeros(10_000)}, path)
    assert torch.equal(io.load_checkpoint(path)["x"], torch.ones(3))
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_cut_short_is_named(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"x": torch.ones(300)}, path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read"):
        io.load_checkpoint(path)

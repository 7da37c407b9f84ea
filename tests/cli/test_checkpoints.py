"""Checkpoints that survive what goes wrong while they are written."""

from __future__ import annotations

import errno
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


@pytest.mark.parametrize("fails", ["write", "rename"])
def test_a_full_disk_leaves_the_folder_of_a_sharded_checkpoint(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    path.mkdir()
    (path / "checkpoint.pt").write_text("shards")
    rename = Path.rename

    def full(source: Path, target: Path) -> Path:
        if target == path and source.is_file():
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(source, target)

    with monkeypatch.context() as patch, full_disk(20_000 if fails == "write" else 10**9):
        patch.setattr("ebt.files._exchange", lambda *_: False)
        patch.setattr(Path, "rename", full)
        with pytest.raises(InputError, match="The previous checkpoint is intact"):
            io.save_checkpoint({"x": torch.zeros(10_000)}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert (path / "checkpoint.pt").read_text() == "shards"
    io.save_checkpoint({"x": torch.ones(3)}, path)
    assert torch.equal(io.load_checkpoint(path)["x"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_cut_short_is_named(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"x": torch.ones(300)}, path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read"):
        io.load_checkpoint(path)

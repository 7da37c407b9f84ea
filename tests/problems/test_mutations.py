"""Damaged model folders are refused, or hold a working model; ``benchmarks/mutate.py`` tries more of them."""

from __future__ import annotations

import random
from pathlib import Path

import mutate
import pytest

from ebt.errors import InputError
from ebt.problems.folder import load_folder


def test_mutated_folders_are_refused_or_work() -> None:
    found = list(mutate.mutate(64, seed=1))
    assert [one for one in found if one.fault] == []
    assert {one.outcome for one in found} == {"refused", "works"}
    assert sum(one.mutation.startswith("weights") for one in found) == 20


def test_checksums_name_the_file_and_older_folders_load_without(tmp_path: Path) -> None:
    folder = mutate.folders(tmp_path)["ebt_sudoku"]
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_folder(folder)
    (folder / "checksums.json").write_text("[]")
    with pytest.raises(InputError, match=r"checksums\.json"):
        load_folder(folder)
    (folder / "checksums.json").unlink()
    mutate.think(load_folder(folder))


def test_each_way_of_saving_writes_checksums(tmp_path: Path) -> None:
    mutate.model("ebt_video").save_pretrained(tmp_path, max_shard_size="2KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    mutate.think(load_folder(tmp_path))
    shard = sorted(tmp_path.glob("*.safetensors"))[-1]
    shard.rename(tmp_path / "model.safetensors")
    mutate.flip(tmp_path, random.Random(0))
    (tmp_path / "model.safetensors").rename(shard)
    with pytest.raises(InputError, match=shard.name):
        load_folder(tmp_path)

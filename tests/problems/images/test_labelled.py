"""Labelled images for probes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebt.errors import InputError
from ebt.problems.images.probe import labelled_images


def make_folder(path: Path, classes: int = 3, each: int = 10) -> str:
    for label in range(classes):
        (path / f"class{label}").mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (9 + i, 12), (60 * label, i, 0)).save(path / f"class{label}" / f"{i}.png")
    return str(path)


def test_folders_are_classes_and_a_fifth_of_each_is_held_out(tmp_path: Path) -> None:
    data = labelled_images(make_folder(tmp_path), 8, 3)
    assert data.classes == ["class0", "class1", "class2"]
    assert (data.train.shape, data.test.shape) == ((24, 3, 8, 8), (6, 3, 8, 8))
    assert np.bincount(data.test_labels).tolist() == [2, 2, 2]
    red = ((data.train[:, 0].mean((1, 2)) + 1) * 127.5 / 60).round()
    assert red.long().tolist() == data.labels.tolist()


def test_the_embedded_digits() -> None:
    data = labelled_images("digits", 16, 1, limit=200)
    assert data.train.shape[1:] == (1, 16, 16)
    assert len(data.train) + len(data.test) == 200
    assert set(data.labels.tolist()) == set(range(10))


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 folder\(s\): give one with a folder of images for each"):
        labelled_images(make_folder(tmp_path, classes=1), 8, 3)


def test_unknown_sources_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="no such file or folder: /nowhere/at/all"):
        labelled_images("/nowhere/at/all", 8, 3)

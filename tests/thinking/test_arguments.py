"""Arguments of the front door that are something else are named."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

import ebt

START = torch.zeros(4, 1)
WRONG: tuple[Any, ...] = ("x", [], {}, object())
RIGHT: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("geometry", "update", "stop", "generator"), (None,)),
    "steps": (True,),
    "step_size": (True, 2.5),
    "noise": (True, 2.5),
    "clamp": (None, True, 2.5),
}
"""Values among the tried ones that an argument takes."""


def kind(wrong: Any) -> str:
    return type(wrong).__name__


def energy(candidates: Tensor) -> Tensor:
    return (candidates - 3).square().sum(-1)


@pytest.mark.parametrize("wrong", [*WRONG, None, True, -1, 2.5], ids=kind)
@pytest.mark.parametrize(
    "name",
    [
        "energy",
        "start",
        "steps",
        "step_size",
        "geometry",
        "update",
        "stop",
        "noise",
        "clamp",
        "generator",
        "gradients",
        "backend",
    ],
)
def test_a_descent_names_what_is_wrong(name: str, wrong: Any) -> None:
    usual = {"energy": energy, "start": START, "steps": 2, "step_size": 0.1}
    given = {**usual, name: wrong}
    if wrong in RIGHT.get(name, ()):
        assert ebt.descend(**given).state.shape == START.shape
        return
    with pytest.raises(ValueError, match=rf"\b{name} (is|has)\b"):
        ebt.descend(**given)


@pytest.mark.parametrize("name", ["step_size", "noise"])
def test_one_number_or_one_per_prediction(name: str) -> None:
    given = {"steps": 2, "step_size": 0.1}
    assert ebt.descend(energy, START, **{**given, name: torch.full((4,), 0.1)}).state.shape == START.shape
    with pytest.raises(ValueError, match=rf"{name} has shape \(3,\)"):
        ebt.descend(energy, START, **{**given, name: torch.full((3,), 0.1)})


@pytest.mark.parametrize("wrong", WRONG, ids=kind)
@pytest.mark.parametrize("name", [field.name for field in fields(ebt.Recipe)])
def test_a_recipe_names_what_is_wrong(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=name):
        ebt.Recipe(**{name: wrong})


@pytest.mark.parametrize("wrong", WRONG, ids=kind)
@pytest.mark.parametrize("name", ["energy", "target", "recipe", "start", "step_size", "geometry", "update", "generator"])
def test_a_loss_names_what_is_wrong(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=name):
        ebt.loss(**{"energy": energy, "target": START, "recipe": ebt.Recipe.s1(), name: wrong})


@pytest.mark.parametrize("wrong", WRONG, ids=kind)
def test_records_and_candidates_are_named(wrong: Any) -> None:
    thought = ebt.descend(energy, START, steps=1, step_size=0.1)
    for call in (ebt.choose, ebt.mean):
        with pytest.raises(ValueError, match="thought"):
            call(wrong, 2)
    with pytest.raises(ValueError, match="candidates"):
        ebt.choose(thought, wrong)
    with pytest.raises(ValueError, match="probabilities"):
        ebt.mean(thought)

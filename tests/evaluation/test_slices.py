"""The plane through a landscape."""

from __future__ import annotations

import pytest
import torch
from small_models import language_ebt

import ebt
from ebt.errors import InputError
from ebt.evaluation.slices import landscape_slice

PUZZLE = ".5.3..1...26.4..6......2......5.6..."


def test_energies_of_the_plane_are_those_of_its_states() -> None:
    model = ebt.load("sudoku-6x6").double()
    how = {"steps": 3, "candidates": 2, "seed": 1}
    found, thought = landscape_slice(model, PUZZLE, 9, **how), model.think(PUZZLE, **how)
    flat = (thought.candidates.path - thought.state[0]).flatten(2)
    axes = torch.linalg.svd(flat.flatten(0, 1), full_matrices=False)[2][:2]
    assert torch.allclose(found.paths, flat @ axes.T, atol=1e-9)
    landscape = model.landscape(model.prepared(PUZZLE))
    for i, j in ((0, 0), (4, 7), (8, 2)):
        state = thought.state + (found.horizontal[j] * axes[0] + found.vertical[i] * axes[1]).view(thought.state.shape)
        energies = landscape(thought.geometry.view(state), 2)
        assert torch.allclose(found.energies[i, j], energies.sum())
        objective = thought.update.objective(thought.geometry, energies, state, thought.step_size)
        assert torch.allclose(found.objective[i, j], objective.sum())


def test_all_movement_in_a_plane_is_all_of_its_variance() -> None:
    found = landscape_slice(language_ebt(), torch.tensor([[5, 6]]), 5, predictions=1, steps=1, candidates=2)
    assert found.paths.shape == (2, 2, 2)
    assert 0.5 < found.share <= 1 + 1e-9


def test_several_predictions_are_refused() -> None:
    with pytest.raises(InputError, match="2 predictions: a slice shows one"):
        landscape_slice(language_ebt(), torch.tensor([[5, 6]]), 5, steps=1)

"""The criteria of stability, on made-up losses and on a training that explodes."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ebt.errors import InputError
from ebt.lab.studies import stability
from ebt.lab.studies.grid import Cell, Trained, judge, spreads
from ebt.problems.language.configuration import EBTConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.thinking import Published, Simplex


def trained(step_size: float = 1.0, losses: tuple[float, ...] = (5.0, 4.0), seed: int = 0, **other: Any) -> Trained:
    return Trained(Cell("ours", "own", 0.002, step_size, seed), list(losses), 5.0, **other)


def missed(*results: Trained) -> list[str]:
    return [verdict.name for verdict in judge(results) if not verdict.met]


def test_verdicts() -> None:
    assert missed(trained(), trained(50.0)) == []
    assert missed(trained(losses=(5.06, 4.0)), trained(50.0, (5.06, 4.0))) == ["flat start"]
    assert missed(trained(losses=(5.0, 5.6, *[4.0] * 10))) == ["no spike"]
    assert missed(trained(losses=(5.0, 5.0))) == ["learns"]
    assert missed(trained(), trained(50.0, (5.0, 4.3))) == ["step size"]
    assert missed(trained(), trained(50.0, (5.0, 4.2))) == []  # 2.2 % of their means
    assert missed(trained(), trained(50.0, stopped="why")) == ["no diverged run", "no spike", "learns", "step size"]
    assert missed(trained(), trained(losses=(5.0, 4.5), seed=1)) == []  # seeds may differ


def test_spikes_and_rises() -> None:
    calm, wild = trained(), trained(losses=(5.0, 3.0, 3.5, 6.0, 2.0, 5.6))
    assert (calm.spikes, calm.rise) == (0, 0)
    assert (wild.spikes, wild.rise) == (2, pytest.approx(3.6))
    assert trained(losses=(), stopped="at once").first == math.inf


def test_spreads_are_within_a_learning_rate_and_seed() -> None:
    found = spreads([trained(1.0, (4.0,)), trained(10.0, (4.2,)), trained(1.0, (9.0,), seed=1)])
    assert list(found.values()) == pytest.approx([5, 0])


def plan(folder: Path, **options: Any) -> stability.GridPlan:
    given = {"recipes": None, "lr": None, "step_sizes": None, "updates": None, "quick": False, "seeds": 3, "context_length": 8}
    given |= {"out": str(folder), "train": str(folder / "text.txt"), "parameterisations": ["ours", "reference"], **options}
    return stability.plan(argparse.Namespace(**given))


def test_the_full_grid(tmp_path: Path) -> None:
    cells = plan(tmp_path).cells
    ours = [cell for cell in cells if cell.parameterisation == "ours"]
    assert len(ours) == 3 * 3 * 4 * 3
    assert {cell.recipe for cell in cells if cell.parameterisation == "reference"} == {"s1", "s2"}
    assert {cell.step_size for cell in cells} == {1, 10, 100, 1000}
    assert len({cell.lr for cell in cells}) == len({cell.seed for cell in cells}) == 3


def test_a_run_that_explodes_ends_and_is_a_result(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Energies fall, and the model thinks.\n\n" * 400)
    one = plan(tmp_path, parameterisations=["ours"], recipes=["s2"], lr=[1e30], step_sizes=[1.0], seeds=1, updates=4)
    (run,) = stability.stages(one)[0]
    values = stability.train_cell(run.settings, run.places, lambda *_: None)
    assert "not finite" in values["stopped"]
    assert len(values["losses"]) < 4
    assert missed(Trained(one.cells[0], **values))[0] == "no diverged run"


def test_the_published_parameterisation_is_what_it_says() -> None:
    sizes: dict[str, Any] = {"vocab_size": 20, "context_length": 8, "layers": 1, "dim": 16, "heads": 2}
    torch.manual_seed(0)
    model = EBTForCausalLM(EBTConfig(**sizes, **stability.PARAMETERISATIONS["reference"], step_size=500.0))
    assert (type(model.geometry()), type(model.update())) == (Simplex, Published)
    assert model.network.head.scale == 1  # not divided by the step size
    wide = EBTConfig(**{**sizes, "dim": 512}, head="linear", head_init="xavier")
    weights = torch.cat([EBTForCausalLM(wide).network.head.projection.weight for _ in range(8)])
    assert weights.std().item() == pytest.approx((2 / 513) ** 0.5, rel=0.05)
    assert EBTForCausalLM(EBTConfig(**sizes)).network.head.projection.weight.eq(0).all()
    with pytest.raises(InputError, match="head_init is 'he': choose one of zero, xavier, unit"):
        EBTConfig(**sizes, head_init="he")

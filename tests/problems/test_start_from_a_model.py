"""Training that starts from a trained model: any model of the problem, from the command line and from Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import pytest
import torch
import trainings
from small_models import QUIET

from ebt.cli.main import main
from ebt.errors import InputError
from ebt.models.base import HubModel
from ebt.problems.folder import load_folder, save_folder
from ebt.problems.images.task import DenoisingNetwork
from ebt.problems.language.task import LanguageNetwork
from ebt.problems.mazes.task import MazeNetwork
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.problems.video.task import VideoNetwork
from ebt.thinking import Recipe
from ebt.training.model_task import Network

SIZES: dict[str, Any] = {"layers": 2, "dim": 8, "heads": 2}
BOARDS = SudokuNetwork(**SIZES, head="bilinear", candidates=3, candidate_noise=0.5)
RECIPE = Recipe()
DATA = ["--data.size=4", "--data.train_count=20", "--data.train_givens=[6,9]", "--data.validation_count=4"]
DATA += ["--data.test_count=2", "--data.test_givens=[6,8]", "--data.batch_size=3"]


def boards(where: Path, network: SudokuNetwork = BOARDS, recipe: Recipe = RECIPE) -> str:
    """The folder of a model of 4x4 boards."""
    torch.manual_seed(0)
    return str(save_folder(network.build(4, recipe, 6), where))


def weights(model: HubModel) -> list[torch.Tensor]:
    return list(model.state_dict().values())


def test_settings_beside_it_agree_and_thinking_options_are_taken_over(tmp_path: Path) -> None:
    folder = boards(tmp_path / "model")
    found = replace(BOARDS, pretrained=folder, candidates=5, step_size_scale=0.5).build(4, RECIPE, 2)
    before, after = load_folder(folder).thinking, found.thinking
    assert (after.candidates, after.step_size_scale) == (5, 0.5)
    assert replace(after, candidates=3, step_size_scale=1.0) == before
    assert before.steps == 6
    assert before.noise == 0.5
    assert all(map(torch.equal, weights(found), weights(load_folder(folder))))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": 3}, "layers 2, not 3"),
        ({"rules": True}, "rules False, not True"),
        ({"space": "mirror"}, "space restart, not mirror"),
        ({"latent": True}, "latent False, not True"),
        ({"kind": "looped_hidden"}, "set kind"),
    ],
)
def test_settings_that_differ_are_named(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    other = {**SIZES, **({} if "kind" in settings else {"head": "bilinear"}), **settings}
    network = SudokuNetwork(pretrained=boards(tmp_path / "model"), **other)
    with pytest.raises(InputError, match=words):
        network.build(4, RECIPE, 2)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [(Recipe(clamp=1.0), "recipe.clamp is 1.0"), (Recipe(start_std=0.5), "recipe.start_std is 0.5")],
)
def test_a_recipe_that_thinks_otherwise_is_refused(recipe: Recipe, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        SudokuNetwork(pretrained=boards(tmp_path / "model")).build(4, recipe, 2)


@pytest.mark.parametrize("kind", ["feed_forward", "looped_hidden"])
def test_a_recipe_that_a_rival_does_not_use_is_refused(kind: str, tmp_path: Path) -> None:
    folder = boards(tmp_path / "model", SudokuNetwork(**SIZES, kind=kind))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"recipe\.noise"):
        SudokuNetwork(pretrained=folder).build(4, Recipe(noise=0.1), 2)
    with_depths = SudokuTask(SudokuNetwork(**SIZES, kind=kind, pretrained=folder)).network  # type: ignore[arg-type]
    if kind == "feed_forward":
        with pytest.raises(InputError, match=r"recipe\.max_steps"):
            with_depths.build(4, Recipe(max_steps=7), 2)
    else:
        assert with_depths.build(4, Recipe(max_steps=7), 2).config.loop == "hidden"


def test_a_latent_model_keeps_its_own_derivatives(tmp_path: Path) -> None:
    folder = boards(tmp_path / "model", SudokuNetwork(**SIZES, head="bilinear", latent=True))
    with pytest.raises(InputError, match=r"recipe\.second_order"):
        SudokuNetwork(pretrained=folder).build(4, Recipe(second_order="central"), 2)
    task = SudokuTask(SudokuNetwork(pretrained=folder))
    L.Trainer(**QUIET, max_steps=1, limit_val_batches=0).fit(task, datamodule=trainings.boards(8))
    assert task.second_order is None


def test_models_of_other_data_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = SIZES
    text = str(save_folder(LanguageNetwork(**small).build(7, 6, RECIPE, 2), tmp_path / "text"))
    assert LanguageNetwork(pretrained=text).build(7, 5, RECIPE, 2).config.context_length == 6
    with pytest.raises(InputError, match="vocab_size 7, not 9"):
        LanguageNetwork(pretrained=text).build(9, 6, RECIPE, 2)
    with pytest.raises(InputError, match="context_length 6, not 8"):
        LanguageNetwork(pretrained=text).build(7, 8, RECIPE, 2)
    with pytest.raises(InputError, match="board 4, not 9"):
        SudokuNetwork(pretrained=boards(tmp_path / "boards")).build(9, RECIPE, 2)
    with pytest.raises(InputError, match="'ebt_mazes'"):
        MazeNetwork(pretrained=text).build(RECIPE, 2)
    with pytest.raises(InputError, match="not a directory"):
        MazeNetwork(pretrained=str(tmp_path / "missing")).build(RECIPE, 2)
    images = str(save_folder(DenoisingNetwork(**small, patch_size=4).build(8, 1, 0.1, 2), tmp_path / "images"))
    with pytest.raises(InputError, match=r"image_size 8, not 12, noise_level 0\.1, not 0\.2"):
        DenoisingNetwork(pretrained=images).build(12, 1, 0.2, 2)
    frames = VideoNetwork(**small).build(6, 4, {"encoder": "pixels"}, VideoNetwork.recipe, 2)
    with pytest.raises(InputError, match="encoding"):
        VideoNetwork(pretrained=str(save_folder(frames, tmp_path / "frames"))).build(6, 4, {}, VideoNetwork.recipe, 2)


def test_a_network_that_builds_fresh_weights_refuses_it() -> None:
    with pytest.raises(InputError, match=r"network\.pretrained"):
        Network(pretrained="sudoku-9x9")


def test_bundled_models_are_found_by_name() -> None:
    model = SudokuNetwork(pretrained="sudoku-9x9").build(9, RECIPE, 2)
    assert all(map(torch.equal, weights(model), weights(load_folder("sudoku-9x9"))))


def test_a_command_trains_on_and_resumes_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EBT_RUN_FOLDER", raising=False)
    boards(tmp_path / "model")
    network = ["--model.network.pretrained=model", *(f"--model.network.{name}={value}" for name, value in SIZES.items())]
    few = [*DATA, "--config=sudoku/ebt", *network, "--model.optimisation.lr=1e-9", "--model.optimisation.step_size_lr=1.0"]
    assert main(["fit", *few, "--trainer.max_steps=1", "--out=run"]) == 0
    begun, trained = load_folder("model"), load_folder("run")
    for name, value in begun.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value, rtol=0, atol=1e-6)
    assert not all(map(torch.equal, weights(begun), weights(trained)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["fit", "--resume", "--trainer.max_steps=2", "--out", str(tmp_path / "run")]) == 0
    assert main(["test", "--checkpoint", str(tmp_path / "run")]) == 0


def test_a_missing_model_is_told_before_data_are_prepared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with patch("ebt.problems.sudoku.data.SudokuDataModule.prepare", side_effect=AssertionError):
        options = ["--config=sudoku/latent-9x9", "--model.network.pretrained=sudoku-9"]
        assert main(["fit", *options, f"--out={tmp_path / 'run'}"]) == 2
    assert "Did you mean 'sudoku-9x9'?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

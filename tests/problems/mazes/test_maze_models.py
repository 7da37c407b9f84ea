"""The models of mazes: any size with the same weights, the ordinary commands, refusals, pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hub_toys import randomise
from matplotlib.image import imread
from torch import Tensor

import ebt
import ebt.problems.auto
from ebt.cli.main import main
from ebt.errors import InputError
from ebt.nn import NetworkConfig
from ebt.nn.blocks import Neighbours
from ebt.problems.folder import save_folder
from ebt.problems.mazes.configuration import EBTMazesConfig, MazeTransformerConfig
from ebt.problems.mazes.generator import generate
from ebt.problems.mazes.grids import OPEN, WALL, format_maze, write_mazes
from ebt.problems.mazes.metrics import maze_curve, watch_maze
from ebt.problems.mazes.models import EBTForMazes, MazeTransformer
from ebt.problems.mazes.pictures import maze_strip
from ebt.problems.mazes.task import MazeNetwork
from ebt.thinking import Recipe

TINY: dict[str, Any] = {"layers": 2, "dim": 16, "heads": 2}
LATENT: dict[str, Any] = {"latent": True, "head": "bilinear", "head_init": "unit"}
LOOPS = ("none", "prediction", "hidden", "recursive")


def thinker(**config: Any) -> EBTForMazes:
    return randomise(EBTForMazes(EBTMazesConfig(**{**TINY, **config})))


def rival(loop: str) -> MazeTransformer:
    return randomise(MazeTransformer(MazeTransformerConfig(loop, **TINY)))


MODELS: dict[str, Any] = {"true gradient": {}, "latent": LATENT, **{loop: loop for loop in LOOPS}}


def make(which: str) -> Any:
    config = MODELS[which]
    return rival(config) if isinstance(config, str) else thinker(**config)


def drawn(size: int, count: int = 2) -> tuple[Tensor, Tensor]:
    mazes, paths = (torch.from_numpy(part).long().flatten(1) for part in generate(size, count, 5))
    return mazes, paths


def marks(model: Any, mazes: Tensor) -> Tensor:
    """Logits of the squares after three steps, from starts without noise."""
    if isinstance(model, MazeTransformer):
        found: Tensor = model(mazes, 3)[-1]
        return found.detach()
    thought = model.think(mazes, steps=3, start_std=0.0)
    return thought.geometry.logits(thought.state)


@pytest.mark.parametrize("which", MODELS)
def test_the_same_weights_serve_all_sizes(which: str, tmp_path: Path) -> None:
    model = make(which)
    loaded = ebt.load(str(save_folder(model, tmp_path / "model")))
    for size in (7, 13):
        mazes, _ = drawn(size)
        path = loaded.predict(mazes)
        assert path.shape == mazes.shape
        assert (path[mazes == WALL] == 0).all()
        assert (path[mazes > OPEN] == 1).all()
        assert set(path.unique().tolist()) <= {0, 1}
        found = marks(loaded, mazes)
        assert found[mazes == OPEN].std() > 1e-3
        torch.testing.assert_close(found, marks(model, mazes))


@pytest.mark.parametrize("which", MODELS)
def test_a_square_is_known_by_its_neighbours_alone(which: str) -> None:
    """With equal weights for all four neighbours, turning a maze turns the answer; other weights tell the directions."""
    model, mazes = make(which), drawn(9)[0]
    across = mazes.view(-1, 9, 9).mT.flatten(1)
    model.network.relations.weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))

    def alike() -> bool:
        found = marks(model, across).view(-1, 9, 9, 2).transpose(1, 2).flatten(1, 2)
        return torch.allclose(found, marks(model, mazes), rtol=1e-3, atol=1e-4)

    assert not alike()
    model.network.relations.weight.data[..., 1:] = 0.1
    assert alike()


def test_neighbours_keep_their_share_of_attention_at_all_sizes() -> None:
    relations = Neighbours(NetworkConfig(layers=2, dim=8, heads=2))
    torch.nn.init.normal_(relations.weight)
    for size in (7, 31):
        bias = relations(size**2)[1]
        place = size * (size // 2) + size // 2
        near = [place, place - size, place + size, place - 1, place + 1]
        expected = relations.weight[1] * 8**0.5 + torch.tensor(float(size**2)).log()
        torch.testing.assert_close(bias[:, place, near], expected)
        assert int((bias[0, place] != 0).sum()) == 5
        assert int((bias[0, 0] != 0).sum()) == 3  # a corner has two neighbours
        framed = relations(size**2 + 1)[1]  # a token in front is no square
        assert int((framed[0, 0] != 0).sum()) == int((framed[0, :, 0] != 0).sum()) == 0
        assert int((framed[0, place + 1] != 0).sum()) == 5


@pytest.mark.parametrize("make", [thinker, lambda: rival("none")])
def test_mazes_come_as_text_grids_or_rows(make: Any) -> None:
    model, (mazes, _) = make(), drawn(7, 9)
    expected = model.predict(mazes)
    assert torch.equal(model.predict(mazes.view(9, 7, 7)), expected)
    assert torch.equal(model.predict(mazes[0]), expected[:1])
    assert torch.equal(model.predict(mazes[0].view(7, 7).tolist()), expected[:1])
    assert torch.equal(model.predict(format_maze(mazes[0].numpy())), expected[:1])
    square = torch.cat((mazes,) * 6)[:49]  # 49 mazes of 49 squares
    assert model.predict(square).shape == (49, 49)


@pytest.mark.parametrize(
    ("context", "told"),
    [
        (torch.zeros(2, 50, dtype=torch.long), r"maze has shape \(2, 50\): give mazes of shape"),
        (torch.zeros(8, 8, dtype=torch.long), "size is 8: mazes have an odd number"),
        (torch.zeros(9, 9, dtype=torch.long), "has no start: give exactly one S"),
        (torch.full((1, 49), 7), "squares other than 0"),
        (torch.full((1, 49), 0.5), "squares other than 0"),
        (torch.zeros(0, 49), r"maze has shape \(0, 49\): give .* at least one"),
        (torch.zeros(0, 7, 7), r"maze has shape \(0, 7, 7\)"),
        (torch.tensor(1), r"maze has shape \(\)"),
        ("###\n# #\n###", "the maze has 3 rows"),
    ],
)
def test_bad_mazes_are_refused(context: Any, told: str) -> None:
    for ask in (thinker().predict, thinker(), rival("none").predict, rival("recursive")):
        with pytest.raises(InputError, match=told):
            ask(context)


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(InputError, match="latent vectors need 'bilinear'"):
        EBTMazesConfig(latent=True)
    with pytest.raises(InputError, match=r"network.latent is for kind ebt"):
        MazeNetwork(kind="recursive", latent=True)
    with pytest.raises(InputError, match=r"recipe.warm_start is 0.5, but a latent descent"):
        MazeNetwork(latent=True, head="bilinear").check(Recipe(warm_start=0.5))


def test_auto_classes_know_the_models(tmp_path: Path) -> None:
    for model in (thinker(), rival("hidden")):
        folder = save_folder(model, tmp_path / model.config.model_type)
        loaded = transformers.AutoModel.from_pretrained(folder)
        assert type(loaded) is type(model)
        torch.testing.assert_close(marks(loaded, drawn(7)[0]), marks(model, drawn(7)[0]))


class Knows:
    """Marks all paths but the last one, in which it misses a square."""

    device, passes = torch.device("cpu"), 1
    config = type("Config", (), {"loop": "none"})

    def __init__(self, mazes: Tensor, paths: Tensor) -> None:
        self.paths = paths.clone()
        self.paths[-1, int((mazes[-1] == OPEN).nonzero()[0])] ^= 1

    def __call__(self, mazes: Tensor, iterations: int) -> list[Tensor]:
        return [torch.nn.functional.one_hot(self.paths, 2).double()]


def test_a_path_counts_if_every_open_square_is_right() -> None:
    mazes, paths = drawn(9, 4)
    (point,) = maze_curve(Knows(mazes, paths), mazes, paths, [1]).points
    assert point.exact == 0.75
    assert point.exact_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert point.cell == pytest.approx(1 - 1 / int((mazes == OPEN).sum()))
    with pytest.raises(InputError, match="each with a path"):
        maze_curve(Knows(mazes, paths), mazes, paths[:1], [1])


@pytest.mark.parametrize("which", ["latent", "hidden"])
def test_watching_and_drawing_a_maze(which: str, tmp_path: Path) -> None:
    model, (mazes, paths) = make(which), drawn(9)
    seen = watch_maze(model, mazes[0], 4)
    path = torch.tensor(seen.path)
    assert len(path) == (5 if which == "latent" else 4)
    assert (path[:, mazes[0] == WALL] == 0).all()
    assert (path[:, mazes[0] > OPEN] == 1).all()
    assert bool(seen.energies) == (which == "latent")
    answer = model.predict(mazes[:1], steps=4) if which == "latent" else model.predict(mazes[:1], 4)
    assert torch.equal((path[-1] > 0.5).long(), answer[0])
    maze_strip(asdict(seen), tmp_path / "maze.png", solution=paths[0].numpy(), title="a maze")
    right = imread(tmp_path / "maze.png")
    maze_strip(asdict(seen), tmp_path / "maze.png", solution=1 - paths[0].numpy(), title="a maze")
    assert not (imread(tmp_path / "maze.png") == right).all()


# Commands

DATA = {"train_sizes": "[7]", "train_count": "12", "validation_count": "6", "test_sizes": "[7,9]", "test_count": "6"}
FIT = [
    *("--model.network.layers=1", "--model.network.dim=16", "--model.network.heads=2", "--trainer.max_steps=1"),
    *("--trainer.val_check_interval=1", "--model.validation_steps=[1]", "--trainer.enable_progress_bar=false"),
    *("--loggers=[csv]", *(f"--data.{name}={value}" for name, value in DATA.items())),
]


def curve(folder: Path) -> dict[int, Any]:
    (found,) = json.loads((folder / "thinking.json").read_text())["curves"].values()
    return {point["steps"]: point for point in found["points"]}


def results(stage: str) -> dict[str, float]:
    found: dict[str, float] = json.loads(Path("runs/run/results.json").read_text())[stage]["metrics"]
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_commands_train_and_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "mazes/latent", "--name", "run", *FIT]) == 0
    assert main(["validate", "--checkpoint", "runs/run"]) == 0
    assert main(["test", "--checkpoint", "runs/run"]) == 0
    think = ["think", "--checkpoint", "runs/run", "--steps", "1,8", "--out"]
    assert main([*think, "valid", "--split", "validation"]) == 0
    assert main([*think, "test"]) == 0
    for folder, stage, name in (("valid", "validation", "val/"), ("test", "test", "test/size_9/")):
        point, told = curve(tmp_path / folder)[8], results(stage)
        assert [point["exact"], point["cell"]] == pytest.approx([told[f"{name}exact"], told[f"{name}cells"]], abs=1e-5)
    assert imread("test/maze.png").size
    write_mazes("own.txt", generate(9, 3).mazes)
    assert main([*think[:-1], "--data", "own.txt"]) == 0
    assert main([*think[:-1], "--size", "7"]) == 0
    assert main([*think[:-1], "--size", "13", "--limit", "2"]) == 0
    shown = capsys.readouterr().out
    assert "own.txt: 3 mazes" in shown
    assert "test set size_7: 6 mazes" in shown
    assert "new mazes of 13 x 13 squares: 2 mazes" in shown
    assert "% of paths exact" in shown


def test_mazes_of_unknown_origin_must_be_given(tmp_path: Path, capsys: Any) -> None:
    folder = str(save_folder(rival("hidden"), tmp_path / "model"))
    assert main(["think", "--checkpoint", folder]) != 0
    assert "its mazes are unknown: give a text file with --data" in " ".join(capsys.readouterr().err.split())
    assert main(["think", "--checkpoint", folder, "--data", "own.txt", "--split", "validation"]) != 0
    assert "--data and --split validation both choose the mazes" in " ".join(capsys.readouterr().err.split())
    assert main(["think", "--checkpoint", folder, "--size", "8"]) != 0
    assert "size is 8: mazes have an odd number" in " ".join(capsys.readouterr().err.split())
    assert main(["think", "--checkpoint", folder, "--size", "9", "--limit", "3", "--steps", "2"]) == 0
    assert "its training set is unknown" in capsys.readouterr().out.replace("The model's", "its")

"""One contract for all encoders, and what each of them is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_videos import autoencoder, dinov2

from ebt.errors import InputError
from ebt.problems.folder import save_folder
from ebt.problems.video.encoders import Encoder, open_encoder

NAMES = ("pixels", "patches", "patches:2", "patches:4:7", "autoencoder", "dinov2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("encoders")
    return {"autoencoder": autoencoder(path / "kl"), "dinov2": dinov2(path / "dino")}


def make(name: str, folders: dict[str, str], channels: int = 3) -> Encoder:
    return open_encoder(folders.get(name, name), 8, channels)


def pictures(count: int = 5, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_the_contract(name: str, channels: int, folders: dict[str, str]) -> None:
    encoder, frames = make(name, folders, channels), pictures(20, channels)
    vectors = encoder.encode(frames)
    assert vectors.shape == (20, encoder.dim)
    assert not vectors.requires_grad
    torch.testing.assert_close(encoder.encode(frames[3:5]), vectors[3:5])  # each frame by itself
    torch.testing.assert_close(make(name, folders, channels).encode(frames), vectors)  # always the same
    assert make(name, folders, channels).key == encoder.key
    assert make(name, folders, 4 - channels).key != encoder.key
    if encoder.decodes:
        assert encoder.decode(vectors).shape == frames.shape
    else:
        with pytest.raises(InputError, match="cannot be turned back into pictures"):
            encoder.decode(vectors)


def test_each_has_a_key_of_its_own(folders: dict[str, str]) -> None:
    assert len({make(name, folders).key for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", ["pixels", "patches", "patches:2"])
def test_what_loses_nothing_comes_back(name: str, folders: dict[str, str]) -> None:
    encoder = make(name, folders)
    torch.testing.assert_close(encoder.decode(encoder.encode(pictures())), pictures())


def test_black_pixels_are_zero(folders: dict[str, str]) -> None:
    assert not make("pixels", folders).encode(-torch.ones(1, 3, 8, 8)).any()


def test_patches_keep_distances_and_the_order_of_places(folders: dict[str, str]) -> None:
    one, other = pictures(2).unbind()
    encoder = make("patches:4", folders)
    apart = (encoder.encode(one[None]) - encoder.encode(other[None])).norm()
    torch.testing.assert_close(apart, (one - other).norm())
    changed = one.clone()
    changed[:, 4:, :4] += 1
    moved = (encoder.encode(changed[None]) - encoder.encode(one[None])).view(4, -1).norm(dim=1)
    assert (moved > 1e-3).tolist() == [False, False, True, False]


def test_latents_are_scaled_as_their_configuration_says(folders: dict[str, str]) -> None:
    from diffusers import AutoencoderKL

    encoder, frames = make("autoencoder", folders), pictures()
    model = AutoencoderKL.from_pretrained(folders["autoencoder"]).eval()
    with torch.no_grad():
        latents = model.encode(frames).latent_dist.mean
        torch.testing.assert_close(encoder.encode(frames), ((latents - 0.1) * 0.5).flatten(1))
        torch.testing.assert_close(encoder.decode(encoder.encode(frames)), model.decode(latents).sample)


def test_features_are_class_tokens_of_normalised_colours(folders: dict[str, str]) -> None:
    from transformers import Dinov2Model

    frames = pictures()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    given = ((frames + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(folders["dinov2"]).eval()(pixel_values=given).pooler_output
    torch.testing.assert_close(make("dinov2", folders).encode(frames), expected)


def test_the_key_changes_with_the_weights_and_not_with_the_place(folders: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folders["autoencoder"], tmp_path / "copy"))
    key = make("autoencoder", folders).key
    assert open_encoder(str(copy), 8, 3).key == key
    file = copy / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["encoder.conv_in.bias"] = weights["encoder.conv_in.bias"] + 1e-3
    save_file(weights, file, metadata={"format": "pt"})
    assert open_encoder(str(copy), 8, 3).key != key


def test_wrong_encoders_are_told(folders: dict[str, str], tmp_path: Path) -> None:
    from small_videos import video_ebt

    other = str(save_folder(video_ebt(), tmp_path / "other"))
    (tmp_path / "empty").mkdir()
    wrong = {
        other: "is of kind 'ebt_video'",
        str(tmp_path / "nowhere"): "there is no such folder",
        "": "there is no such folder",
        str(tmp_path / "empty"): "neither pixels nor patches, nor a folder",
        "pixels:3": "did you mean pixels",
        "pixel": "did you mean pixels",
        "patches:0": "whole numbers above 0",
        "patches:7:x": "whole numbers above 0",
        "patches:3": "patches must divide frames of 8 pixels",
        "patches:4:49": "keep 1 to 48 numbers",
    }
    for name, message in wrong.items():
        with pytest.raises(InputError, match=message):
            open_encoder(name, 8, 3)
    with pytest.raises(InputError, match="a multiple of 2 pixels"):
        open_encoder(folders["autoencoder"], 7, 3)
    with pytest.raises(InputError, match="at least 4 pixels"):
        open_encoder(folders["dinov2"], 3, 3)
    with pytest.raises(InputError, match="channels 2"):
        open_encoder("pixels", 8, 2)
    (Path(folders["autoencoder"]).parent / "broken").mkdir()
    broken = Path(folders["autoencoder"]).parent / "broken"
    (broken / "config.json").write_text((Path(folders["autoencoder"]) / "config.json").read_text())
    with pytest.raises(InputError, match="cannot be loaded"):
        open_encoder(str(broken), 8, 3)


def _more_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))


def _cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


def _other_config(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")


def _words_for_numbers(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "dinov2", "hidden_size": "a"}')


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_more_layers, "cannot be loaded .*of its weights are missing"),
        (_cut, "cannot be loaded"),
        (_other_config, "nor a folder or id of a model with config.json"),
        (_words_for_numbers, "cannot be loaded"),
    ],
)
def test_a_spoilt_network_is_told(folders: dict[str, str], spoil: Any, message: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["dinov2"], tmp_path / "copy"))
    spoil(copy)
    with pytest.raises(InputError, match=message):
        open_encoder(str(copy), 8, 3)

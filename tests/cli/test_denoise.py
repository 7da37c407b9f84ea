"""``ebt denoise``: images of any size, measured, compared and filled in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import image_ebt, image_folder, photo_folder
from small_models import sudoku_folder

from ebt.cli.main import main
from ebt.errors import InputError
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.metrics import psnr
from ebt.problems.images.sources import open_images, to_tensor


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return image_folder(tmp_path_factory.mktemp("ebt") / "model")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return photo_folder(tmp_path_factory.mktemp("photos") / "all", count=2, size=16)


def denoise(*arguments: str) -> int:
    return main(["denoise", *arguments])


def test_a_folder_is_denoised_and_measured(model: str, photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert denoise(photos, "--checkpoint", model, "--noise", "0.1", "--steps", "3", "--out", str(tmp_path)) == 0
    read = json.loads((tmp_path / "denoise.json").read_text())
    clean = to_tensor(open_images(photos)["train"].read(1))[None]
    noisy = NoiseSchedule.linear().noisy(clean, 0.1, seed=1)
    assert read["images"][1]["psnr_noisy"] == pytest.approx(psnr(noisy, clean).item(), abs=1e-3)
    found = image_ebt().think(noisy.double(), steps=3).state
    assert read["images"][1]["psnr"] == pytest.approx(psnr(found, clean).item(), abs=1e-3)
    assert -1 <= read["images"][1]["ssim"] <= 1
    assert np.array(Image.open(tmp_path / "01-1.png")).shape == (16, 16, 3)
    assert np.array(Image.open(tmp_path / "01-1-comparison.png")).shape[1] == 900
    assert f"{read['images'][1]['psnr']:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(5, 40), (21, 16), (3, 3)])
def test_images_of_any_size_keep_it(model: str, size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "odd.png")
    assert denoise(str(tmp_path / "odd.png"), "--checkpoint", model, "--out", str(tmp_path / "out")) == 0
    assert np.array(Image.open(tmp_path / "out" / "00-odd.png")).shape == (*size, 3)
    assert json.loads((tmp_path / "out" / "denoise.json").read_text())["images"][0]["psnr"] is None


def test_a_known_clean_image_is_compared_with(model: str, photos: str, tmp_path: Path) -> None:
    assert denoise(photos, "--checkpoint", model, "--clean", photos, "--out", str(tmp_path)) == 0
    assert json.loads((tmp_path / "denoise.json").read_text())["images"][0]["psnr_noisy"] == pytest.approx(100)


@pytest.mark.parametrize("options", [[], ["--noise", "0.1"], ["--mask", "3,4,6,5"]])
def test_the_result_of_one_photo_is_never_thrown_away(
    model: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = Path(photo_folder(tmp_path, count=1, size=16)) / "0.png"
    beside = tmp_path / ("0-filled.png" if "--mask" in options else "0-denoised.png")
    assert denoise(str(photo), "--checkpoint", model, *options) == 0
    assert str(beside) in capsys.readouterr().out
    assert Image.open(beside).size == (16, 16)
    before = beside.read_bytes()
    assert denoise(str(photo), "--checkpoint", model, "--steps", "9", *options) == 2
    assert f"{beside} exists" in capsys.readouterr().err
    assert beside.read_bytes() == before


def test_a_folder_is_denoised_to_its_last_image(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = photo_folder(tmp_path / "in", count=18, size=16)
    assert denoise(photos, "--checkpoint", model, "--steps", "1") == 2
    assert "--out" in capsys.readouterr().err  # before any work
    assert denoise(photos, "--checkpoint", model, "--steps", "1", "--out", str(tmp_path / "out")) == 0
    assert len(list((tmp_path / "out").glob("*-comparison.png"))) == 18
    assert "18 image(s)" in capsys.readouterr().out
    assert denoise(photos, "--checkpoint", model, "--steps", "1", "--noise", "0.1", "--limit", "2") == 0
    told = capsys.readouterr().out
    assert "2 image(s)" in told
    assert "not kept" in told


def test_files_that_are_no_images_are_skipped_and_clean_ones_still_belong_to_theirs(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy, clean = (Path(photo_folder(tmp_path / name, count=4, size=16)) for name in ("noisy", "clean"))
    (noisy / "1.png").write_bytes(b"broken")
    (clean / "2.png").write_bytes((clean / "2.png").read_bytes()[:100])
    assert denoise(str(noisy), "--checkpoint", model, "--clean", str(clean), "--out", str(tmp_path / "out")) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert str(noisy / "1.png") in told[0]
    assert str(clean / "2.png") in told[1]
    found = json.loads((tmp_path / "out" / "denoise.json").read_text())["images"]
    assert [Path(one["image"]).name for one in found] == ["0.png", "3.png"]
    assert [one["psnr_noisy"] for one in found] == pytest.approx([100, 100])
    assert denoise(str(noisy / "1.png"), "--checkpoint", model) == 2
    assert "1.png cannot be read" in capsys.readouterr().err


def test_a_clean_image_of_another_size_is_told(
    model: str, photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = photo_folder(tmp_path, count=2, size=20)
    assert denoise(photos, "--checkpoint", model, "--clean", clean) == 2
    told = capsys.readouterr().err
    assert f"{Path(photos) / '0.png'} 16 x 16" in told
    assert f"{Path(clean) / '0.png'} 20 x 20" in told
    assert "Resize or crop" in told


@pytest.mark.parametrize(
    ("mode", "back"),
    [("L", "L"), ("1", "L"), ("LA", "LA"), ("I;16", "I;16"), ("RGBA", "RGBA"), ("P", "RGB"), ("CMYK", "RGB"), ("RGB", "RGB")],
)
def test_images_come_back_in_their_mode(model: str, mode: str, back: str, tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    image = Image.fromarray(grey) if mode == "I;16" else Image.fromarray((grey // 257).astype(np.uint8)).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray((grey // 257).astype(np.uint8).T))
    image.save(tmp_path / "a.tif")
    assert denoise(str(tmp_path / "a.tif"), "--checkpoint", model, "--steps", "1", "--mask", "1,1,2,2") == 0
    found = Image.open(tmp_path / "a-filled.png")
    assert found.mode == back
    if mode == "I;16":  # all sixteen bits of what was given
        assert np.abs(np.asarray(found).astype(int) - grey)[4:].max() <= 1
    if mode in ("LA", "RGBA"):
        assert np.array_equal(np.asarray(found)[..., -1], np.asarray(image)[..., -1])
        assert np.array_equal(np.asarray(found)[4:], np.asarray(image)[4:])


def test_of_several_frames_the_first_is_read_and_that_is_told(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (Image.new("L", (16, 16), grey) for grey in (0, 200))
    first.save(tmp_path / "scan.tif", save_all=True, append_images=[second])
    assert denoise(str(tmp_path / "scan.tif"), "--checkpoint", model) == 0
    assert "scan.tif has 2 frames: only the first is read" in capsys.readouterr().err


def test_a_tolerance_stops_early(model: str, photos: str, tmp_path: Path) -> None:
    pictures = []
    for name, options in {"one": ["--steps", "1"], "stopped": ["--steps", "9", "--tolerance", "1e9"]}.items():
        out = tmp_path / name
        assert denoise(photos, "--checkpoint", model, "--noise", "0.1", *options, "--out", str(out)) == 0
        pictures.append(np.array(Image.open(out / "00-0.png")))
    assert np.array_equal(*pictures)


def test_a_rival_denoises_by_ddim(photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = image_folder(tmp_path / "dit", dit=True)
    assert denoise(photos, "--checkpoint", folder, "--noise", "0.2", "--steps", "4", "--limit", "1") == 0
    assert "noise level 0.2" in capsys.readouterr().out


@pytest.mark.parametrize("as_picture", [False, True])
def test_masked_pixels_are_filled_in_and_others_kept(model: str, photos: str, as_picture: bool, tmp_path: Path) -> None:
    mask = "3,4,6,5"
    free = np.zeros((16, 16), dtype=bool)
    free[4:9, 3:9] = True
    if as_picture:
        mask = str(tmp_path / "mask.png")
        Image.fromarray((free * 255).astype(np.uint8)).save(mask)
    photo = str(Path(photos) / "0.png")
    assert denoise(photo, "--checkpoint", model, "--mask", mask, "--steps", "5", "--out", str(tmp_path / "out")) == 0
    found, given = np.array(Image.open(tmp_path / "out" / "00-0.png")), np.array(Image.open(photo))
    assert np.array_equal(found[~free], given[~free])
    assert not np.array_equal(found[free], given[free])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mask", "10,10,8,2"], "is not inside an image of 16 x 16"),
        (["--mask", "nothing.png"], "is neither a file nor a box"),
        (["--mask", "1,1,2,2", "--noise", "0.1"], "leave out --noise and --clean"),
        (["--mask", "1,1,2,2", "--tolerance", "1"], "--tolerance"),
        (["--noise", "0.1", "--clean", "x"], "leave out --clean"),
        (["--noise", "1.5"], "not a number above 0 and at most 1"),
        (["--clean", "nowhere"], "nowhere does not exist"),
    ],
)
def test_contradictions_are_explained(
    model: str, photos: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(Path(photos) / "0.png")
    assert denoise(photo, "--checkpoint", model, *options) == 2
    assert not list(Path(photos).glob("*-*"))
    assert message in capsys.readouterr().err


def test_a_mask_that_does_not_fit_one_of_the_images_is_told_before_any_work(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = Path(photo_folder(tmp_path / "in", count=2, size=16))
    Image.new("RGB", (20, 18)).save(photos / "9.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "mask.png")
    options = ["--mask", str(tmp_path / "mask.png"), "--out", str(tmp_path / "out")]
    assert denoise(str(photos), "--checkpoint", model, *options) == 2
    assert "the image 20 x 18" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_masks_of_another_size_and_without_white_are_refused(model: str, photos: str, tmp_path: Path) -> None:
    from ebt.cli.denoise import read_mask

    Image.new("L", (8, 16)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="has 8 x 16 pixels, the image 16 x 16"):
        read_mask(str(tmp_path / "mask.png"), 16, 16)
    with pytest.raises(InputError, match="has no white pixels"):
        read_mask(str(tmp_path / "mask.png"), 16, 8)


def test_other_models_and_missing_images_are_refused(
    model: str, photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dit = image_folder(tmp_path / "dit", dit=True)
    assert denoise(photos, "--checkpoint", dit, "--mask", "1,1,2,2") == 2
    assert "--mask needs a model with an energy" in capsys.readouterr().err
    assert denoise(photos, "--checkpoint", dit, "--tolerance", "0.1") == 2
    assert "--tolerance needs a model with an energy" in capsys.readouterr().err
    assert denoise(photos, "--checkpoint", sudoku_folder(tmp_path / "sudoku")) == 2
    assert "ebt_sudoku" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert denoise(str(tmp_path / "empty"), "--checkpoint", model) == 2
    assert "has no images" in capsys.readouterr().err


def test_the_mean_of_overlapping_tiles_is_smooth() -> None:
    from ebt.problems.images.models import by_tiles

    image = torch.randn(3, 37, 22, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(by_tiles(lambda tiles: tiles, image, 16), image)
    assert by_tiles(lambda tiles: tiles * 2, image[:, :5, :3], 16).shape == (3, 5, 3)

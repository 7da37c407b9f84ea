"""``ebt denoise``: take the noise out of images, or think what a mask leaves open."""

from __future__ import annotations

from ebt.cli.terminal import Options, count_from, number_in


def _options() -> Options:
    options = Options(
        "denoise",
        "Denoise images, or fill in a masked part of them; images may have any size.",
        "ebt denoise photos/ --checkpoint runs/denoise --noise 0.1 --steps 3 --out denoised\n"
        "  ebt denoise noisy.png --checkpoint runs/denoise   (writes noisy-denoised.png)\n"
        "  ebt denoise photo.png --checkpoint runs/denoise --mask 40,40,24,24 --steps 50 --out filled",
    )
    options.add_argument("images", metavar="IMAGE_OR_FOLDER", help="an image, a folder of images, or photos")
    options.checkpoint()
    options.add_argument("--steps", type=count_from(1), metavar="N", help="thinking steps, or evaluations of a rival")
    options.add_argument(
        "--noise", type=number_in(0, 1), metavar="LEVEL", help="add noise first, such as 0.1, and tell how much of it goes"
    )
    options.add_argument(
        "--tolerance", type=number_in(0), metavar="T", help="stop when pixels move by less, such as 0.05 (root mean square)"
    )
    options.add_argument("--clean", metavar="PATH", help="the clean image or folder, to measure against")
    options.add_argument("--mask", metavar="PICTURE|X,Y,W,H", help="fill in what is white in a picture, or a box of pixels")
    options.add_argument("--limit", type=count_from(1), metavar="N", help="at most so many images (default: all)")
    options.seed("the noise")
    options.out("denoise.json, and for each image the result and a comparison,")
    return options


def main(argv: list[str]) -> int:
    """Run the command."""
    args = _options().parse_args(argv)
    from ebt.cli.denoising import run

    return run(args)

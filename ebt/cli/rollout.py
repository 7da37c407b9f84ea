"""``ebt rollout``: predict the next frames of videos, each from those before, and see where the model is unsure."""

from __future__ import annotations

from ebt.cli.terminal import RULES, SPLITS, Options, count_from


def _options() -> Options:
    options = Options(
        "rollout",
        "Predict frames of videos, each from those before it; the truth and the prediction side by side, and the energy of\n"
        "every frame while the model thinks: is it unsure before something new appears?",
        "ebt rollout --checkpoint runs/digits --frames 8 --out rollout\n"
        "  ebt rollout --checkpoint runs/clips --data my-video.mp4 --frames 4 --mp4 --out rollout",
    )
    options.checkpoint()
    options.add_argument("--data", metavar="SOURCE", help="a video, a folder of videos, or digits (default: the run's own)")
    options.add_argument(
        "--split", choices=SPLITS, default="test", help="which of the run's own videos (default: test; shifted: moving digits)"
    )
    options.add_argument("--frames", type=count_from(1), default=8, metavar="N", help="to predict (default: 8)")
    options.add_argument("--given", type=count_from(1), metavar="N", help="frames to start from (default: the model's context)")
    options.add_argument("--limit", type=count_from(1), default=4, metavar="N", help="at most so many clips (default: 4)")
    thinking = options.add_argument_group("thinking (defaults: those of the model)")
    thinking.add_argument("--steps", type=count_from(1), metavar="N", help="thinking steps")
    thinking.add_argument("--candidates", type=count_from(1), metavar="M", help="candidates of each predicted frame")
    thinking.add_argument("--rule", choices=RULES[:3], default="lowest", help="which candidate wins (default: lowest)")
    options.scale_and_noise(thinking)
    options.seed("the random starts")
    options.out("rollout.json, and for each clip a GIF, a strip of frames and a picture of the energies,")
    options.add_argument("--mp4", action="store_true", help="write MP4 files beside the GIFs")
    options.add_argument("--no-pictures", action="store_true", help="write rollout.json and energies only")
    return options


def main(argv: list[str]) -> int:
    """Run the command."""
    args = _options().parse_args(argv)
    from ebt.cli.rollouts import run

    return run(args)

"""The options of every command, which are read before anything heavy is imported."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from contextlib import suppress

from ebt.cli.terminal import RULE_HELP, RULES, SPLITS, WORD_RULES, Options, count_from, counts, number_in

BUDGET = {"board": 10.0, "file": 60.0}
"""Seconds of ``ebt solve``."""
NEW_TOKENS = 200
STAGES = {"validate": "validation", "test": "test"}
"""Data of the commands that evaluate a run."""
WHOLE, POSITIVE = count_from(1), number_in(0)


def fit(options: Options) -> None:
    """Train a model. Ctrl-C and SIGTERM stop after the update that runs, with a checkpoint to resume from.

    example:
      ebt fit --config language/ebt --name text

    every key of a configuration is an option, too, and overrides it:
      ebt fit --config language/ebt --model.recipe.max_steps 4 --trainer.max_steps 500
      ebt fit --help-all                     all of them
      ebt fit --model.help LanguageTask      those of a task (SudokuTask, or my_module.MyTask of your own)
      ebt fit --data.help TextDataModule     those of a data module (SudokuDataModule, ...)
      ebt fit --config FILE --print_config   the whole configuration, with all defaults

    a run folder holds config.yaml, checkpoints/ (last.ckpt, best.ckpt), model/ (the best model, for `--checkpoint` of the other
    commands and for Hugging Face), logs/ and results.json. To continue one:
      ebt fit --resume --name text
    """
    options.takes_keys("--config NAME [--name NAME | --out DIR] [--resume] [--seed N]")
    add = options.add_argument
    options.config("NAME", "configuration of the library by name, or a YAML file; a later one overrides")
    add("--name", help="of the run: its folder is runs/NAME (default: after the configuration)")
    add("--out", metavar="DIR", help="run folder")
    add("--resume", action="store_true", help="continue a run from its last checkpoint, as if never stopped")
    add("--seed", type=count_from(0), metavar="N", help="of weights, data and all random draws (default: 0)")
    add("--compile", action="store_true", help="compile what can be; minutes at first, for long runs")
    add("--help-all", action="store_true", help="list every key")


def plan(options: Options) -> None:
    """What training a language model will take: parameters, operations per token, memory of a device by part, days.

    example:
      ebt plan --config language/ebt --devices 8 --device-memory 80GB --flops 400e12 --tokens 20e9 \\
        --model.network.size xl --data.context_length 2048 --vocabulary 50277

    every key of a configuration is an option, too: --model.network.size xl, --trainer.precision bf16-mixed
    the training step itself is rehearsed on tensors without numbers: its memory is that of the code, at any size in seconds
    with --trainer.accelerator cpu as on a CPU, where gradients are taken of a few rows at a time; otherwise of all rows at once
    a tenth of each device is left free for kernels, communication and the gaps of the allocator
    """
    options.takes_keys("--config FILE --device-memory SIZE --flops F [OPTIONS]")
    add = options.add_argument
    options.config("FILE", "as for `ebt fit`", required=True)
    add("--devices", type=WHOLE, default=1, metavar="N", help="all together (default: 1)")
    add("--device-memory", required=True, metavar="SIZE", help="of each, such as 80GB or 40GiB")
    add("--flops", type=POSITIVE, required=True, metavar="F", help="operations a second that each device really reaches")
    add("--batch", type=WHOLE, metavar="B", help="contexts on each device (default: the configuration's)")
    add("--vocabulary", type=count_from(2), metavar="V", help="words (default: the tokenizer's)")
    budget = options.add_mutually_exclusive_group()
    budget.add_argument("--tokens", type=POSITIVE, metavar="T", help="budget, such as 20e9")
    budget.add_argument("--updates", type=WHOLE, metavar="U", help="budget (default: the configuration's max_steps)")
    add("--json", metavar="FILE", help="write the plan into this file, too")


def validate(options: Options) -> None:
    """Evaluate the best weights of a run on its validation data, or the language model of a folder on any text, at several
    numbers of thinking steps.

    example:
      ebt validate --checkpoint runs/text --model.validation_steps [1,2,4,8,16]
    """
    options.takes_keys("--checkpoint RUN [--config FILE]")
    run = "run folder of `ebt fit`, or a file in its checkpoints/, or the folder of a language model (with --data)"
    options.checkpoint(run, "RUN")
    options.add_argument("--data", metavar="SOURCE", help="with a model folder: the text to evaluate it on, all of it")
    options.config("FILE", "overrides the run's configuration")
    options.set_defaults(command=options.prog.split()[-1])


def test(options: Options) -> None:
    """Evaluate the best weights of a run on its test data, or the language model of a folder on any text, at several numbers of
    thinking steps.

    example:
      ebt test --checkpoint runs/text --model.validation_steps [1,2,4,8,16]
    """
    validate(options)


def generate(options: Options) -> None:
    """Continue a prompt. The text streams to the terminal; one line of statistics follows on the error stream. Past the
    model's context, it sees the last tokens that fit.

    example:
      ebt generate --checkpoint runs/text --prompt "The function returns" --steps 4 --candidates 2 --seed 1
    """
    options.checkpoint()
    options.text("prompt", "prompt-file", "text to continue")
    room = f"default: {NEW_TOKENS}, or what the model's context leaves"
    options.add_argument("--max-new-tokens", type=WHOLE, metavar="N", help=room)
    options.thinking("thinking steps per token", "candidates per token", WORD_RULES, "the probabilities move")
    add = options.add_argument_group("sampling").add_argument
    add("--greedy", action="store_true", help="always take the most probable token")
    add("--temperature", type=_temperature, metavar="T", help="default: 1")
    add("--top-k", type=WHOLE, metavar="K", help="draw from the K most probable tokens (default: all)")
    add("--top-p", type=number_in(0, 1), metavar="P", help="draw from the top P of probability (default: 1)")
    options.seed("the sampling and of the random starts")


def _temperature(text: str) -> float:
    with suppress(ValueError):
        if float(text) == 0:
            raise argparse.ArgumentTypeError(f"{text} always takes the most probable token: give --greedy instead")
    return POSITIVE(text)


def think(options: Options) -> None:
    """Quality of a model against thinking steps and candidates, on held-out data: a table, a picture and JSON.

    example:
      ebt think --checkpoint runs/text --steps 1,2,3,4,8 --candidates 1,4 --baseline runs/twin --out think
      ebt think --checkpoint runs/sudoku --data test.csv --steps 1,2,4,8,16,32 --candidates 1,8 --tolerance 0.001
    """
    options.checkpoint()
    options.baseline()
    add = options.add_argument_group("data (default: what the run held out)").add_argument
    add("--data", metavar="SOURCE", help="text source, all of which is read; CSV file of puzzles; images; videos")
    split = "which of the run's own data (default: test; validation: to choose by; shifted: moving digits)"
    add("--split", choices=SPLITS, default="test", help=split)
    add("--givens", type=WHOLE, metavar="N", help="the run's test set, or new puzzles, with so many givens")
    add("--noise", type=number_in(0, 1), metavar="LEVEL", help="images only: noise level (default: the model's own)")
    limit = "at most so many contexts (default: 64), boards (default: 200), crops of images or clips (default: 64)"
    add("--limit", type=WHOLE, metavar="N", help=limit)
    thinking = options.add_argument_group("thinking")
    add = thinking.add_argument
    add("--steps", type=counts, default=[1, 2, 3, 4, 8], metavar="N,N,..", help="default: 1,2,3,4,8")
    add("--candidates", type=counts, default=[1], metavar="M,M,..", help="default: 1")
    add("--rule", choices=WORD_RULES, default="lowest", help=RULE_HELP)
    tolerance = "boards, images and videos: stop when probabilities, or pixels, move by less"
    add("--tolerance", type=POSITIVE, metavar="T", help=tolerance)
    options.scale_and_noise(thinking)
    rows = "contexts (default: 8) or boards x candidates (64) at once"
    options.add_argument("--batch-size", type=WHOLE, metavar="B", help=rows)
    options.seed("the random starts and of new puzzles")
    options.out("thinking.json, thinking.png, energy.png, and pictures of images' energies,")


def energies(options: Options) -> None:
    """Energy of every token's prediction before thinking and after each step. Low energy: the model is sure.

    example:
      ebt energies --checkpoint runs/text --text "The quick brown fox" --steps 4 --out energies
    """
    options.checkpoint()
    options.text("text", "file", "text to read")
    options.add_argument("--steps", type=WHOLE, metavar="N", help="thinking steps (default: the model's)")
    options.seed("the random starts")
    options.out("energies.json and energies.png (a heat map)")


def solve(options: Options) -> None:
    """Think about a Sudoku puzzle and watch the board fill in; or solve all puzzles of a file.

    A board can be checked by the rules. So the first attempt thinks with the model's own steps and candidates, and
    attempt k with 2^k times as many (at most 8 times the steps, 32 times the candidates), from other random starts,
    until a candidate is valid or the budget is spent. Of a file, each attempt is about what is not yet solved.
    With --steps or --candidates there is one attempt, exactly so. Looped models iterate 16 to 128 times.

    example:
      ebt solve --checkpoint runs/sudoku --givens 10 --steps 16 --candidates 8
      ebt solve --checkpoint runs/sudoku .5.3..1...26.4..6......2......5.6...
      ebt solve --checkpoint runs/sudoku --csv puzzles.csv --out solved
    """
    options.checkpoint()
    add = options.add_argument
    cells = "cells row by row, 0 . _ or * where empty; | - and spaces are skipped, # begins a comment; or a .sdk or .ss file"
    add("puzzle", nargs="?", metavar="PUZZLE", help=cells)
    add("--csv", metavar="FILE", help="puzzles, one a line, instead of PUZZLE")
    add("--givens", type=WHOLE, metavar="N", help="make a new puzzle with so many givens instead of PUZZLE")
    steps = "thinking steps, or iterations of a looped model"
    add = options.thinking(steps, "candidates; the lowest energy wins", RULES, "probabilities move")
    default = f"default: {BUDGET['board']:g}, of a file {BUDGET['file']:g}; the first attempt is always finished"
    add("--budget", type=POSITIVE, metavar="SECONDS", help=f"for attempts until all is valid ({default})")
    options.seed("the random starts and the new puzzle")
    options.out("solve.json, and solutions.csv for a file or board.png for a single board,")


def denoise(options: Options) -> None:
    """Denoise images, or fill in a masked part of them; images may have any size.

    example:
      ebt denoise photos/ --checkpoint runs/denoise --noise 0.1 --steps 3 --out denoised
      ebt denoise noisy.png --checkpoint runs/denoise   (writes noisy-denoised.png)
      ebt denoise photo.png --checkpoint runs/denoise --mask 40,40,24,24 --steps 50 --out filled
    """
    add = options.add_argument
    add("images", metavar="IMAGE_OR_FOLDER", help="an image, a folder of images, or photos")
    options.checkpoint()
    add("--steps", type=WHOLE, metavar="N", help="thinking steps, or evaluations of a rival")
    noise = "add noise first, such as 0.1, and tell how much of it goes"
    add("--noise", type=number_in(0, 1), metavar="LEVEL", help=noise)
    tolerance = "stop when pixels move by less, such as 0.05 (root mean square)"
    add("--tolerance", type=POSITIVE, metavar="T", help=tolerance)
    add("--clean", metavar="PATH", help="the clean image or folder, to measure against")
    add("--mask", metavar="PICTURE|X,Y,W,H", help="fill in what is white in a picture, or a box of pixels")
    add("--limit", type=WHOLE, metavar="N", help="at most so many images (default: all)")
    options.seed("the noise")
    options.out("denoise.json, and for each image the result and a comparison,")


def rollout(options: Options) -> None:
    """Predict frames of videos, each from those before it; the truth and the prediction side by side, and the energy of
    every frame while the model thinks: is it unsure before something new appears?

    example:
      ebt rollout --checkpoint runs/digits --frames 8 --out rollout
      ebt rollout --checkpoint runs/clips --data my-video.mp4 --frames 4 --mp4 --out rollout
    """
    options.checkpoint()
    add = options.add_argument
    add("--data", metavar="SOURCE", help="a video, a folder of videos, or digits (default: the run's own)")
    split = "which of the run's own videos (default: test; shifted: moving digits)"
    add("--split", choices=SPLITS, default="test", help=split)
    add("--frames", type=WHOLE, default=8, metavar="N", help="to predict (default: 8)")
    add("--given", type=WHOLE, metavar="N", help="frames to start from (default: the model's context)")
    add("--limit", type=WHOLE, default=4, metavar="N", help="at most so many clips (default: 4)")
    options.thinking("thinking steps", "candidates of each predicted frame", RULES[:3])
    options.seed("the random starts")
    options.out("rollout.json, and for each clip a GIF, a strip of frames and a picture of the energies,")
    add("--mp4", action="store_true", help="write MP4 files beside the GIFs")
    add("--no-pictures", action="store_true", help="write rollout.json and energies only")


def probe(options: Options) -> None:
    """Train a linear classifier on the features of image models, and test it.

    example:
      ebt probe --checkpoint runs/ebt --baseline runs/dit --data digits
    """
    options.checkpoint()
    options.baseline()
    data = "a folder with a folder for each class, or a dataset (default: digits)"
    options.add_argument("--data", default="digits", metavar="SOURCE", help=data)
    options.add_argument(
        "--limit", type=count_from(10), default=2000, metavar="N", help="at most so many images (default: 2000)"
    )
    options.seed("the split")
    options.out("probe.json")


def tokenizer(options: Options) -> None:
    """Train a byte-level BPE on the training documents of a corpus. Use its folder as `tokenizer` of `ebt fit`.

    example:
      ebt tokenizer --data python-docs --vocab-size 1024 --out tokenizers/docs-1024
    """
    add = options.add_argument
    data = "python-docs (embedded), a file of text, JSON, CSV or Parquet, a folder, or a Hugging Face dataset"
    add("--data", required=True, metavar="SOURCE", help=data)
    add("--vocab-size", required=True, type=WHOLE, metavar="N", help="tokens, at least 257")
    add("--out", required=True, metavar="DIR", help="new folder for the tokeniser")
    add("--text-field", default="text", metavar="NAME", help="field with the text (default: text)")
    add("--prompt-field", metavar="NAME", help="field with the prompt, if there is one")
    add("--fractions", default="0.9,0.05,0.05", metavar="A,B,C", help="shares of train, validation and test; as in fit")
    add("--on-error", choices=("skip", "refuse"), default="skip", help="bad files, lines and rows (default: skip)")
    options.seed("the split, as in fit")


def convert(options: Options) -> None:
    """Convert a checkpoint (.ckpt) of the published implementation of the paper into a model folder: weights (safetensors),
    configuration, tokenizer and training recipe. Nothing in the checkpoint is run.

    example:
      ebt convert logs/s1/last.ckpt models/s1 --tokenizer EleutherAI/gpt-neox-20b
    """
    options.add_argument("checkpoint", metavar="CHECKPOINT", help="a .ckpt file of the published code's trainer")
    options.add_argument("out", metavar="OUT", help="the folder to make")
    hub = "a saved tokenizer, or one of the Hugging Face hub (default: the one that the checkpoint names, if it is in the "
    options.add_argument("--tokenizer", metavar="FOLDER_OR_ID", help=f"{hub}cache of this machine)")


def options_of(name: str) -> Options:
    """The options of a command: the function of its name adds them, and says in its docstring what the help says."""
    add: Callable[[Options], None] = globals()[name]
    description, _, example = (inspect.getdoc(add) or "").partition("\n\nexample:\n")
    options = Options(name, description, example.strip())
    add(options)
    return options

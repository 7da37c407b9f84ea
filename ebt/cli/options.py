"""Options of the commands. They are parsed before any heavy import."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from contextlib import suppress

from ebt.cli.parser import MODEL_HELP, RULE_HELP, RULES, SEEDS, SPLITS, WORD_RULES, Options, count_from, counts, number_in
from ebt.serving import LOCAL_HOSTS

BUDGET = {"board": 10.0, "file": 60.0}
"""Default time budgets of ``ebt solve``, in seconds."""
NEW_TOKENS = 200
COLDEST = 1e-6
"""The lowest temperature. Logits divided by less overflow."""
STAGES = {"validate": "validation", "test": "test"}
"""The data split that each evaluation command uses."""
WHOLE, POSITIVE = count_from(1), number_in(0)


def fit(options: Options) -> None:
    """Train a model. Ctrl-C and SIGTERM finish the current update, write a checkpoint and stop.

    example:
      ebt fit --config language/ebt --name text

    Every configuration key is also an option and overrides the configuration:
      ebt fit --config language/ebt --model.recipe.max_steps 4 --trainer.max_steps 500
      ebt fit --help-all                     list all keys
      ebt fit --model.help LanguageTask      list the keys of a task (SudokuTask, or your own my_module.MyTask)
      ebt fit --data.help TextDataModule     list the keys of a data module (SudokuDataModule, ...)
      ebt fit --config FILE --print_config   print the full configuration with all defaults

    A run folder contains config.yaml, checkpoints/ (last.ckpt, best.ckpt), model/ (the best model, for `--checkpoint` of the
    other commands and for Hugging Face), logs/ and results.json. To resume a run:
      ebt fit --resume --name text

    To compare both ways to take gradients of gradients (recipe.second_order) on one batch, without training:
      ebt fit --config language/ebt --check-gradients
      ebt fit --resume --name text --check-gradients   with the weights of a run
    """
    options.takes_keys("--config NAME [--name NAME | --out DIR] [--resume] [--seed N]")
    add = options.add_argument
    options.config("NAME", "name of a built-in configuration, or a YAML file; later ones override earlier ones")
    add("--name", help="run name; the run folder is runs/NAME (default: name of the configuration)")
    add("--out", metavar="DIR", help="run folder")
    add("--resume", action="store_true", help="resume a run exactly from its last checkpoint")
    add("--seed", type=count_from(0, SEEDS), metavar="N", help="seed of weights, data and training (default: 0)")
    add("--compile", action="store_true", help="compile the model with torch.compile; takes minutes, pays off in long runs")
    add("--check-gradients", action="store_true", help="compare exact and central gradients on one batch; trains nothing")
    add("--help-all", action="store_true", help="list every configuration key")


def plan(options: Options) -> None:
    """Estimate what training a language model takes: parameters, operations per token, memory per device, days.

    example:
      ebt plan --config language/ebt --devices 8 --device-memory 80GB --flops 400e12 --tokens 20e9 \\
        --model.network.size xl --data.context_length 2048 --vocabulary 50277

    Every configuration key is also an option: --model.network.size xl, --trainer.precision bf16-mixed.
    The plan runs the real training step on fake tensors, so it measures the actual code, in seconds to a minute at any size.
    With --trainer.accelerator cpu, gradients are computed a few rows at a time, as on a CPU; otherwise for all rows at once.
    Gradients of gradients are exact or by central differences, as --model.recipe.second_order selects for that accelerator.
    The plan leaves 10 % of the device memory free for kernels, communication and fragmentation.
    """
    options.takes_keys("--config FILE --device-memory SIZE --flops F [OPTIONS]")
    add = options.add_argument
    options.config("FILE", "configuration, as for `ebt fit`", required=True)
    add("--devices", type=WHOLE, default=1, metavar="N", help="total number of devices (default: 1)")
    add("--device-memory", required=True, metavar="SIZE", help="memory per device, for example 80GB or 40GiB")
    add("--flops", type=POSITIVE, required=True, metavar="F", help="operations per second that each device achieves")
    add("--batch", type=WHOLE, metavar="B", help="contexts per device (default: from the configuration)")
    add("--vocabulary", type=count_from(2), metavar="V", help="vocabulary size (default: from the tokenizer)")
    budget = options.add_mutually_exclusive_group()
    budget.add_argument("--tokens", type=POSITIVE, metavar="T", help="training budget in tokens, for example 20e9")
    budget.add_argument("--updates", type=WHOLE, metavar="U", help="training budget in updates (default: trainer.max_steps)")
    add("--json", metavar="FILE", help="also write the plan to this file")


def validate(options: Options) -> None:
    """Evaluate a run on its validation data, or a language model on any text, at several numbers of thinking steps.

    example:
      ebt validate --checkpoint runs/text --model.validation_steps [1,2,4,8,16]
    """
    options.takes_keys("--checkpoint RUN [--config FILE]")
    run = "run folder of `ebt fit`, a file in its checkpoints/, or the folder of a language model (with --data)"
    options.checkpoint(run, "RUN")
    options.add_argument("--data", metavar="SOURCE", help="text to evaluate a model folder on; all of it is read")
    options.config("FILE", "YAML file that overrides the configuration of the run")
    options.set_defaults(command=options.prog.split()[-1])


def test(options: Options) -> None:
    """Evaluate a run on its test data, or a language model on any text, at several numbers of thinking steps.

    example:
      ebt test --checkpoint runs/text --model.validation_steps [1,2,4,8,16]
    """
    validate(options)


def generate(options: Options) -> None:
    """Continue a prompt.

    Text is streamed to stdout, and a line of statistics is printed to stderr. If the text exceeds the model's context
    length, the model sees the last tokens that fit.

    example:
      ebt generate --checkpoint runs/text --prompt "The function returns" --steps 4 --candidates 2 --seed 1
    """
    options.checkpoint()
    options.text("prompt", "prompt-file", "text to continue")
    room = f"maximum number of new tokens (default: {NEW_TOKENS}, or fewer to fit the model's context)"
    options.add_argument("--max-new-tokens", type=WHOLE, metavar="N", help=room)
    options.thinking("thinking steps per token", "candidates per token", WORD_RULES, "probabilities")
    add = options.add_argument_group("sampling").add_argument
    add("--greedy", action="store_true", help="always choose the most probable token")
    add("--temperature", type=_temperature, metavar="T", help="sampling temperature (default: 1)")
    add("--top-k", type=WHOLE, metavar="K", help="sample from the K most probable tokens (default: all)")
    add("--top-p", type=number_in(0, 1), metavar="P", help="sample from the smallest set with probability P (default: 1)")
    options.seed("sampling and random starts")


def _temperature(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) < COLDEST:
            raise argparse.ArgumentTypeError(f"{text} is greedy decoding: give --greedy instead")
    return POSITIVE(text)


def think(options: Options) -> None:
    """Measure quality against thinking steps and candidates on held-out data, as a table, a plot and JSON.

    example:
      ebt think --checkpoint runs/text --steps 1,2,3,4,8 --candidates 1,4 --baseline runs/twin --out think
      ebt think --checkpoint runs/sudoku --data test.csv --steps 1,2,4,8,16,32 --candidates 1,8 --tolerance 0.001
    """
    options.checkpoint()
    options.baseline()
    add = options.add_argument_group("data (default: held-out data of the run)").add_argument
    add("--data", metavar="SOURCE", help="text (all of it is read), a CSV file of puzzles, a file of mazes, images or videos")
    split = "split of the run's data (default: test; validation: for model selection; shifted: for moving digits)"
    add("--split", choices=SPLITS, default="test", help=split)
    add("--givens", type=WHOLE, metavar="N", help="number of givens: the run's test set with N givens, or new puzzles")
    add("--size", type=WHOLE, metavar="N", help="squares on a side, for mazes: the run's test set of this size, or new mazes")
    add("--noise", type=number_in(0, 1), metavar="LEVEL", help="noise level, for images (default: the model's)")
    limit = "maximum number of contexts (default: 64), boards (default: 200), image crops or clips (default: 64)"
    add("--limit", type=WHOLE, metavar="N", help=limit)
    thinking = options.add_argument_group("thinking")
    add = thinking.add_argument
    add("--steps", type=counts, default=[1, 2, 3, 4, 8], metavar="N,N,..", help="numbers of steps (default: 1,2,3,4,8)")
    add("--candidates", type=counts, default=[1], metavar="M,M,..", help="numbers of candidates (default: 1)")
    add("--rule", choices=WORD_RULES, help=RULE_HELP)
    tolerance = "stop when probabilities or pixels change by less than T, for boards, mazes, images and videos"
    add("--tolerance", type=number_in(0, including=True), metavar="T", help=tolerance)
    options.scale_and_noise(thinking)
    rows = "contexts (default: 8) or boards x candidates (default: 64) per batch"
    options.add_argument("--batch-size", type=WHOLE, metavar="B", help=rows)
    options.seed("random starts and new puzzles")
    options.out("thinking.json, thinking.png, energy.png, and energy plots of images")


def energies(options: Options) -> None:
    """Show the energy of each token's prediction before thinking and after each step. Low energy means high confidence.

    example:
      ebt energies --checkpoint runs/text --text "The quick brown fox" --steps 4 --out energies
    """
    options.checkpoint()
    options.text("text", "file", "text to read")
    options.add_argument("--steps", type=WHOLE, metavar="N", help="thinking steps (default: the model's)")
    options.seed("random starts")
    options.out("energies.json and energies.png (a heat map)")


def solve(options: Options) -> None:
    """Solve a Sudoku puzzle and show the board fill in, or solve all puzzles of a file.

    The first attempt thinks about one candidate, the next about as many as the model has by default. While no candidate
    is a valid board and the time budget lasts, further attempts double both numbers (up to 8 times the steps and 32 times
    the candidates) from new random starts. With a file, each attempt covers the puzzles that are still unsolved. With
    --steps or --candidates, there is a single attempt with these numbers. Looped models run 16 to 128 iterations.

    example:
      ebt solve --checkpoint sudoku-6x6 --givens 12
      ebt solve --checkpoint runs/sudoku --givens 10 --steps 16 --candidates 8
      ebt solve --checkpoint runs/sudoku .5.3..1...26.4..6......2......5.6...
      ebt solve --checkpoint runs/sudoku --csv puzzles.csv --out solved
    """
    options.checkpoint()
    add = options.add_argument
    cells = "cells row by row (empty: 0 . _ or *; | - and spaces are ignored; # starts a comment), or a .sdk or .ss file"
    add("puzzle", nargs="?", metavar="PUZZLE", help=cells)
    add("--csv", metavar="FILE", help="file with one puzzle per line, instead of PUZZLE")
    add("--givens", type=WHOLE, metavar="N", help="generate a puzzle with N givens, instead of PUZZLE")
    steps = "thinking steps, or iterations of a looped model"
    add = options.thinking(steps, "number of candidates", RULES, "probabilities")
    default = f"default: {BUDGET['board']:g}, with a file {BUDGET['file']:g}"
    add("--budget", type=POSITIVE, metavar="SECONDS", help=f"time budget; the first attempt always finishes ({default})")
    options.seed("random starts and the generated puzzle")
    options.out("solve.json, and solutions.csv (a file) or board.png (a single board)")


def denoise(options: Options) -> None:
    """Denoise images, or fill in a masked region. Images may have any size.

    example:
      ebt denoise photos/ --checkpoint runs/denoise --noise 0.1 --steps 3 --out denoised
      ebt denoise noisy.png --checkpoint runs/denoise   (writes noisy-denoised.png)
      ebt denoise photo.png --checkpoint runs/denoise --mask 40,40,24,24 --steps 50 --out filled
    """
    add = options.add_argument
    add("images", metavar="IMAGE_OR_FOLDER", help="an image, a folder of images, or photos (the built-in ones)")
    options.checkpoint()
    add("--steps", type=WHOLE, metavar="N", help="thinking steps, or network evaluations of a Diffusion Transformer")
    noise = "add noise of this level first, for example 0.1, and report PSNR and SSIM"
    add("--noise", type=number_in(0, 1), metavar="LEVEL", help=noise)
    tolerance = "stop when pixels change by less than T (root mean square), for example 0.05"
    add("--tolerance", type=number_in(0, including=True), metavar="T", help=tolerance)
    add("--clean", metavar="PATH", help="clean image or folder to compare with")
    add("--mask", metavar="PICTURE|X,Y,W,H", help="region to fill in: the white pixels of a picture, or a box")
    add("--limit", type=WHOLE, metavar="N", help="maximum number of images (default: all)")
    options.seed("the noise")
    options.out("denoise.json, and the result and a comparison of each image")


def rollout(options: Options) -> None:
    """Predict video frames autoregressively, and show the energy of each frame while the model thinks.

    example:
      ebt rollout --checkpoint runs/digits --frames 8 --out rollout
      ebt rollout --checkpoint runs/clips --data my-video.mp4 --frames 4 --mp4 --out rollout
    """
    options.checkpoint()
    add = options.add_argument
    add("--data", metavar="SOURCE", help="a video, a folder of videos, or digits (default: the run's videos)")
    split = "split of the run's videos (default: test; shifted: for moving digits)"
    add("--split", choices=SPLITS, default="test", help=split)
    add("--frames", type=WHOLE, default=8, metavar="N", help="number of frames to predict (default: 8)")
    add("--given", type=WHOLE, metavar="N", help="number of frames to start from (default: the model's context)")
    add("--limit", type=WHOLE, default=4, metavar="N", help="maximum number of clips (default: 4)")
    options.thinking("thinking steps per frame", "candidates per frame", RULES[:3])
    options.seed("random starts")
    options.out("rollout.json, and a GIF, a strip of frames and an energy plot of each clip")
    add("--mp4", action="store_true", help="also write MP4 files")
    add("--no-pictures", action="store_true", help="write only rollout.json and the energy plots")


def probe(options: Options) -> None:
    """Train and test a linear classifier on the features of image models.

    example:
      ebt probe --checkpoint runs/ebt --baseline runs/dit --data digits
    """
    options.checkpoint()
    options.baseline()
    data = "a folder with one subfolder per class, or a dataset (default: digits)"
    options.add_argument("--data", default="digits", metavar="SOURCE", help=data)
    options.add_argument(
        "--limit", type=count_from(10), default=2000, metavar="N", help="maximum number of images (default: 2000)"
    )
    options.seed("the split")
    options.out("probe.json")


def tokenizer(options: Options) -> None:
    """Train a byte-level BPE tokenizer on the training documents of a corpus, for --data.tokenizer of `ebt fit`.

    example:
      ebt tokenizer --data python-docs --vocab-size 1024 --out tokenizers/docs-1024
    """
    add = options.add_argument
    data = "python-docs (built in), a text, JSON, CSV or Parquet file, a folder, or a Hugging Face dataset"
    add("--data", required=True, metavar="SOURCE", help=data)
    add("--vocab-size", required=True, type=WHOLE, metavar="N", help="number of tokens, at least 257")
    add("--out", required=True, metavar="DIR", help="new folder for the tokenizer")
    add("--text-field", default="text", metavar="NAME", help="field with the text (default: text)")
    add("--prompt-field", metavar="NAME", help="field with the prompt, if any")
    add("--fractions", default="0.9,0.05,0.05", metavar="A,B,C", help="shares of train, validation and test, as in `ebt fit`")
    add("--on-error", choices=("skip", "refuse"), default="skip", help="handling of bad files, lines and rows (default: skip)")
    options.seed("the split, as in `ebt fit`")


def serve(options: Options) -> None:
    """Serve models: a page that shows them think in the browser, and an API for programs.

    The page is at http://127.0.0.1:8000 and shows language models, Sudoku and images. The API is at http://127.0.0.1:8000/v1
    and is understood by clients of OpenAI's API: completions, chat completions (if the tokenizer has a chat template) and
    models. Requests may have the thinking options of `ebt generate` as further fields.

    example:
      ebt serve
      ebt serve --checkpoint runs/text
      ebt serve --checkpoint small=runs/text --checkpoint twin=runs/twin --port 8080
    """
    add = options.add_argument
    what = f"{MODEL_HELP}; may be repeated. The model is named like the folder, or NAME (default: the bundled models)"
    add("--checkpoint", action="append", metavar="[NAME=]MODEL", help=what)
    host = "address to listen at (default: 127.0.0.1, this machine only); others need a key"
    add("--host", default=LOCAL_HOSTS[0], help=host)
    add("--port", type=WHOLE, default=8000, metavar="N", help="port (default: 8000)")
    add("--key", help="key that clients must send (default: the environment variable EBT_SERVE_KEY, or none)")
    add("--device", default="cpu", help="device of the models, for example cuda (default: cpu)")
    add("--max-tokens", type=WHOLE, default=1024, metavar="N", help="maximum number of new tokens per choice (default: 1024)")
    requests = "maximum number of concurrent requests; more are answered with 429 (default: 64)"
    add("--max-requests", type=WHOLE, default=64, metavar="N", help=requests)


def models(options: Options) -> None:
    """List the bundled models. Their names are values of `--checkpoint` and of `ebt.load`.

    A model is found in models/ of a checkout, in the installed package ebt_models, or in the cache; otherwise it is downloaded
    on first use from the release at EBT_MODELS_URL, and its checksum compared. A folder of that name in the working directory
    takes precedence.

    example:
      ebt models
    """


def convert(options: Options) -> None:
    """Convert a checkpoint (.ckpt) of the paper's published code to a model folder.

    The folder has weights (safetensors), configuration, tokenizer and recipe. No code from the checkpoint is executed.

    example:
      ebt convert logs/s1/last.ckpt models/s1 --tokenizer EleutherAI/gpt-neox-20b
    """
    options.add_argument("checkpoint", metavar="CHECKPOINT", help=".ckpt file written by the published code")
    options.add_argument("out", metavar="OUT", help="folder to create")
    hub = "tokenizer folder or Hugging Face ID (default: the one named in the checkpoint, if it is in the local cache)"
    options.add_argument("--tokenizer", metavar="FOLDER_OR_ID", help=hub)


def options_of(name: str) -> Options:
    """Return the options of a command. The function of that name adds them, and its docstring is the help text."""
    add: Callable[[Options], None] = globals()[name]
    description, _, example = (inspect.getdoc(add) or "").partition("\n\nexample:\n")
    options = Options(name, description, example.strip())
    add(options)
    return options

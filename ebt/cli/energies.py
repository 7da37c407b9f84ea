"""``ebt energies``: show the energy of each token of a text while the model thinks."""

from __future__ import annotations

import argparse

from matplotlib import colormaps
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ebt.cli.terminal import numbers, out_folder, plain_table, print_table, say, say_written, text_of, warn
from ebt.evaluation.style import HEAT
from ebt.files import write_json
from ebt.problems.folder import load_folder, load_tokenizer_of
from ebt.problems.language.energies import TokenEnergies, token_energies
from ebt.problems.language.pictures import token_heat_map, visible

SHOWN = 10


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    console, text = Console(), text_of(args)
    model, tokenizer = load_folder(args.checkpoint, "ebt"), load_tokenizer_of(args.checkpoint)
    folder = out_folder(args.out)
    result = token_energies(model, tokenizer, text, args.steps or model.thinking.steps, args.seed)
    _show(console, result)
    warn(console, result.alarms)
    if folder is not None:
        written = [folder / "energies.json", folder / "energies.png"]
        write_json(result, written[0])
        token_heat_map(vars(result), written[1])
        say_written(console, written)
    return 0


def _show(console: Console, result: TokenEnergies) -> None:
    last, steps = result.energies[-1], len(result.energies) - 1
    if console.color_system is not None:
        console.print(_coloured(result.tokens, last))
        console.print(
            f"[dim]colour: energy after {steps} steps, dark {min(last):.3g} (sure) to light {max(last):.3g} (unsure)[/]"
        )
    means = [sum(row) / len(row) for row in result.energies]
    shown = range(steps + 1) if steps <= 8 else sorted({0, 1, 2, 4, 8, steps // 2, steps})
    fall = plain_table("step", *map(str, shown))
    fall.add_row("energy", *(f"{means[step]:.4g}" for step in shown))
    print_table(console, "mean energy per token (step 0: random start)", fall)
    print_table(console, f"the {min(SHOWN, len(result.ids))} most surprising tokens", _surprises(result))
    nats = sum(result.nats) / len(result.nats)
    say(console, f"{len(result.ids)} tokens, {nats:.3f} nats per token")


def _coloured(tokens: list[str], energies: list[float]) -> Text:
    low, span = min(energies), max(energies) - min(energies) or 1.0
    text = Text()
    for token, energy in zip(tokens, energies, strict=True):
        red, green, blue = (round(255 * part) for part in colormaps[HEAT]((energy - low) / span)[:3])
        ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 130 else "white"
        for i, line in enumerate(token.split("\n")):
            text.append("\n" if i else "")
            text.append(line, f"{ink} on rgb({red},{green},{blue})")
    return text


def _surprises(result: TokenEnergies) -> Table:
    sure = numbers("probability", "surprise (nats)", "energy at start", "at end")
    table = plain_table(*numbers("position"), "token", "expected", *sure)
    worst = sorted(range(len(result.ids)), key=lambda i: -result.nats[i])[:SHOWN]
    for i in worst:
        token, predicted = (Text(visible(word)) for word in (result.tokens[i], result.predicted[i]))
        cells = f"{result.probability[i]:.2g}", f"{result.nats[i]:.2f}", f"{result.energies[0][i]:.4g}"
        table.add_row(str(i + 1), token, predicted, *cells, f"{result.energies[-1][i]:.4g}")
    return table

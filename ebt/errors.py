"""Errors for bad input and for missing packages, and warnings on one line."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager

INSTALL = "Install it from a checkout of the repository: pip install '.[{extra}]'"
"""How to install this library with optional dependencies."""
EXTRAS = {
    "hub": ("huggingface_hub", "rich", "scipy", "tokenizers", "torchmetrics", "transformers", "yaml"),
    "train": ("datasets", "fsspec", "jsonargparse", "lightning", "lightning_utilities", "tensorboard"),
    "images": ("PIL", "diffusers", "skimage", "sklearn"),
    "video": ("av",),
    "plots": ("matplotlib",),
    "serve": ("fastapi", "gradio", "uvicorn"),
    "wandb": ("wandb",),
}
"""Extras, and the packages outside the core that each is the first to have, by the name they are imported by."""
SHARED = ("hub", "plots")
"""Extras that the larger ones include."""


class InputError(ValueError):
    """Bad user input. The message names the input and the remedy; commands print it without a traceback."""


class MissingPackage(InputError, ModuleNotFoundError):
    """A package of an extra is not installed. The message names the extra."""


@contextmanager
def naming_extras(wanted: str | None = None) -> Iterator[None]:
    """Turn the error for a missing package of an extra into ``MissingPackage``. Also a decorator.

    Args:
        wanted: A larger extra that the code needs anyway, to name instead of the shared ones that it includes.
    """
    try:
        yield
    except MissingPackage:
        raise
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
        if extra is None:
            raise
        extra = wanted if wanted and extra in SHARED else extra
        message = f"this needs the package {package}, which comes with the extra {extra!r}. {INSTALL.format(extra=extra)}"
        raise MissingPackage(message) from error


def show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print a warning on one line without its source location. Replaces ``warnings.showwarning``."""
    print(f"ebt: {'alarm' if getattr(category, 'alarm', False) else 'warning'}: {message}", file=sys.stderr)


def unknown(what: str, name: str, known: Collection[str], command: str) -> InputError:
    """The error for a name that ``command`` does not know. It suggests the closest known name, or lists all of them."""
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean `{command} {close[0]}`?" if close else f"choose one of {', '.join(known)}."
    return InputError(f"there is no {what} {name!r}: {hint}")

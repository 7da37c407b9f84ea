"""The core works with torch, numpy and safetensors alone, and a missing package is named with its extra."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ebt.errors import EXTRAS, MissingPackage, naming_extras

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "skimage": "scikit-image", "sklearn": "scikit-learn"}
"""Names of distributions that differ from the name that is imported."""
WITHOUT = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *rest: None if name.partition(".")[0] in {absent} else find(name, *rest))
"""
CORE = """
import torch, ebt
from ebt.nn import EBTDecoder, NetworkConfig

found = ebt.descend(lambda y: (y - 3).square().sum(-1), torch.zeros(2, 1), steps=50, step_size=0.2)
assert torch.allclose(found.best, torch.full((2, 1), 3.0), atol=1e-3)
assert ebt.Thinking(steps=2).but(candidates=3).candidates == 3

torch.manual_seed(0)
network = EBTDecoder(NetworkConfig(layers=1, dim=8, heads=2))
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
context, target = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
losses = []
for _ in range(20):
    loss = ebt.loss(network.encode(context), target, recipe=ebt.Recipe.s1(), start=torch.zeros_like(target))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses

for use in (lambda: ebt.load("."), lambda: ebt.train("sudoku/ebt"), lambda: ebt.evaluate(".")):
    try:
        use()
    except ebt.errors.MissingPackage as error:
        print(error)
from ebt.cli.main import COMMANDS, LAB, main
assert main(["--help"]) == 0
assert main(["solve", "--checkpoint", ".", "--givens", "20"]) == 2
for name in COMMANDS.keys() - LAB.keys():
    try:
        main([name, "--help"])
    except SystemExit as done:
        assert not done.code
"""


def python(program: str, *absent: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process in which packages cannot be imported."""
    whole = WITHOUT.format(absent=set(absent)) + program
    return subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


def requirements(extra: str) -> set[str]:
    """Names of the distributions that an extra adds, and those of the extras it includes."""
    found = set()
    for line in PROJECT["optional-dependencies"][extra]:
        name, inner = re.match(r"([\w-]+)(?:\[([\w,]+)\])?", line).groups()  # type: ignore[union-attr]
        found |= set().union(*map(requirements, inner.split(","))) if name == PROJECT["name"] else {name}
    return found


def test_the_core_needs_three_packages() -> None:
    assert [re.match(r"\w+", line)[0] for line in PROJECT["dependencies"]] == ["torch", "numpy", "safetensors"]  # type: ignore[index]


@pytest.mark.parametrize("extra", EXTRAS)
def test_errors_name_extras_that_have_the_package(extra: str) -> None:
    named = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in EXTRAS[extra]}
    assert named <= {name.replace("_", "-") for name in requirements(extra)}
    assert requirements(extra) <= requirements("all")
    assert extra == "wandb" or requirements(extra) <= requirements("dev")


def test_every_package_of_an_extra_is_named() -> None:
    named = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for packages in EXTRAS.values() for name in packages}
    assert {name.replace("_", "-") for name in requirements("all")} == named


def test_other_missing_modules_stay_what_they_are() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module") as caught, naming_extras():
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert not isinstance(caught.value, MissingPackage)


@pytest.mark.slow
def test_the_core_works_alone() -> None:
    done = python(CORE, *(package for packages in EXTRAS.values() for package in packages))
    assert done.returncode == 0, done.stderr
    assert re.findall(r"comes with the extra '(\w+)'", done.stdout) == ["hub", "train", "hub"]
    assert "ebt: error: this needs the package" in done.stderr
    assert "pip install '.[hub]'" in done.stderr


@pytest.mark.slow
def test_a_model_thinks_without_what_trains_it(tmp_path: Path) -> None:
    program = f"""
from ebt.cli.main import main
from ebt.problems.sudoku.configuration import EBTSudokuConfig
from ebt.problems.sudoku.models import EBTForSudoku
EBTForSudoku(EBTSudokuConfig(board=4, dim=8, layers=1, heads=2)).save_pretrained({str(tmp_path)!r})
assert main(["solve", "--checkpoint", {str(tmp_path)!r}, "--givens", "8", "--steps", "1"]) == 0
sys.exit(main(["fit", "--config", "sudoku/ebt"]))
"""
    done = python(program, *(package for extra in EXTRAS if extra != "hub" for package in EXTRAS[extra]))
    assert "start: energy" in done.stdout
    assert_named("train", done)


@pytest.mark.slow
def test_a_command_names_the_extra_that_it_lacks() -> None:
    run = 'from ebt.cli.main import main; sys.exit(main(["denoise", "photos", "--checkpoint", "."]))'
    assert_named("images", python(run, *EXTRAS["images"]))


def assert_named(extra: str, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 2, done.stderr
    assert f"comes with the extra {extra!r}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr

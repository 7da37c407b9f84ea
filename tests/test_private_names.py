"""Private names of other packages, which may change without notice: all that the library uses are listed here."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import lightning as L
from torch import nn

import ebt

ROOT = Path(ebt.__file__).parent
PRIVATE = re.compile(r"_[a-zA-Z]")
PUBLIC = {"_exit"}
"""Documented in spite of its underscore: ``os._exit``."""

READ = {
    "torch._subclasses.fake_tensor": "rehearsals: shapes without memory",
    "torch.utils._python_dispatch": "rehearsals: every operation of a training step",
    "torch.utils._pytree": "rehearsals: tensors of an operation",
    "_overloadpacket": "rehearsals: the operation that a formula of PyTorch's counter is of",
    "_cdata": "rehearsals: whether two tensors share memory",
    "_scaled_dot_product_flash_attention_for_cpu": "first-order attention: a kernel that returns the log-sum-exp",
    "_scaled_dot_product_flash_attention_for_cpu_backward": "first-order attention: its backward pass, as below",
    "_scaled_dot_product_flash_attention": "first-order attention: the same for CUDA",
    "_scaled_dot_product_flash_attention_backward": "first-order attention",
    "_scaled_dot_product_efficient_attention": "first-order attention: the same for CUDA in 32 bits",
    "_scaled_dot_product_efficient_attention_backward": "first-order attention",
    "torch._dynamo": "--compile: settings and counters, which have no public names",
    "torch._dynamo.utils": "--compile: the number of graphs",
    "_dynamo": "--compile",
    "_average_model": "sharding, averaging: Lightning's WeightAveraging has no public name for its model",
    "_tensor_parallel_size": "sharding: of Lightning's ModelParallelStrategy, as is the next",
    "_timeout": "sharding",
    "_save_distributed_checkpoint": "sharding",
    "_device": "sharding: Lightning's device of a module whose weights stay on the CPU",
    "_trainer": "tasks: Lightning's public name raises where there is none",
    "_actions": "ebt fit: the options of a parser",
    "_typehint": "ebt fit: jsonargparse's type of an option",
    "_ArgumentGroup": "the command line: a type that argparse has no public name for",
    "_from_model_config": "language models: generation settings after the configuration's",
    "_prepare_generation_config": "language models: generation",
    "_prepare_cache_for_generation": "language models: generation",
    "_update_model_kwargs_for_generation": "language models: generation",
    "_validate_generated_length": "language models: generation past the context",
    "_get_stopping_criteria": "language models: generation past the context",
    "_assisted_decoding": "language models: generation",
    "_get_candidate_generator": "language models: an assistant's settings of thinking",
    "_validate_model_kwargs": "language models: generation that records its thoughts",
    "_apply": "step size: stays in single precision when a model is converted",
}
"""Modules that are imported, and attributes of other packages' objects, with what they serve."""
OVERRIDDEN = {
    "_apply": "step size",
    "_check_and_adjust_attn_implementation": "language models: other attentions are refused by name",
    "_validate_generated_length": "language models: generation past the context",
    "_get_stopping_criteria": "language models: generation past the context",
    "_assisted_decoding": "language models: not past the context",
    "_get_candidate_generator": "language models: an assistant's settings of thinking",
    "_validate_model_kwargs": "language models: generation that records its thoughts",
    "_init_weights": "transformers' own way to initial weights",
    "_input_embed_layer": "transformers' own way to name the table of words",
    "_keep_in_fp32_modules_strict": "transformers' own way to keep a module in single precision",
    "_prepare_cache_for_generation": "language models: a cache of their own",
    "_prepare_generation_config": "language models: settings of thinking",
    "_update_model_kwargs_for_generation": "language models: what a step hands to the next",
}
"""Of base classes, with what they serve."""
MACHINERY = {"_abc_impl", "_backward_cls"}
"""What Python and autograd write into every class."""


def own_names(tree: ast.AST) -> set[str]:
    """Names that a file defines: functions, classes, variables and attributes of ``self``."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            names.add(node.attr)
    return names - foreign_attributes()


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def foreign_attributes() -> set[str]:
    """Attributes that objects of other packages have, whoever assigns them."""
    return {name for made in (nn.Module(), L.LightningModule(), L.LightningDataModule()) for name in vars(made)}


def used(tree: ast.AST, own: set[str]) -> set[str]:
    """Private modules and names that are imported, and private attributes that nobody here defines."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("ebt"):
            parts = (node.module or "").split(".")
            found |= {node.module or ""} if any(map(PRIVATE.match, parts)) and node.module != "__future__" else set()
            found |= {one.name for one in node.names if PRIVATE.match(one.name)}
        elif isinstance(node, ast.Import):
            found |= {one.name for one in node.names if any(map(PRIVATE.match, one.name.split(".")))}
        elif isinstance(node, ast.Attribute) and PRIVATE.match(node.attr) and (node.attr not in own or is_super(node.value)):
            found.add(node.attr)
    return found


def is_super(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def test_all_that_are_read_are_listed() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))]
    own = set[str]().union(*map(own_names, trees))
    found = set[str]().union(*(used(tree, own) for tree in trees))
    assert found - PUBLIC == set(READ)


def test_all_that_are_overridden_are_listed() -> None:
    """Methods and attributes of ours that replace private ones of other packages' classes."""
    found = set()
    for info in pkgutil.walk_packages(ebt.__path__, "ebt."):
        if info.name.endswith("__main__"):
            continue
        for _, made in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            if made.__module__ == info.name:
                foreign = [
                    base for base in made.__mro__ if base.__module__.split(".")[0] not in ("ebt", "builtins", "typing", "abc")
                ]
                names = {name for name in vars(made) if PRIVATE.match(name)}
                found |= {name for name in names for base in foreign if name in vars(base)}
    assert found - MACHINERY == set(OVERRIDDEN)


def test_they_are_found() -> None:
    source = (
        "from torch._dynamo import x\nimport torch._inductor\nfrom torch import _C\nsuper()._own()\na._hidden\ndef _own(): ..."
    )
    tree = ast.parse(source)
    assert used(tree, own_names(tree)) == {"torch._dynamo", "torch._inductor", "_C", "_own", "_hidden"}

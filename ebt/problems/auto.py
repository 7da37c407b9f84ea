"""Importing this module registers the models with ``AutoConfig``, ``AutoModelForCausalLM`` and ``AutoModel``."""

from ebt.problems.registry import models

models()

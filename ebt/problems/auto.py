"""Importing it makes the models known to ``transformers``: ``AutoConfig``, ``AutoModelForCausalLM``, ``AutoModel``."""

from ebt.problems.registry import models

models()

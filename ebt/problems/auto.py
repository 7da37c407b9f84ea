"""Makes the models known to ``transformers``: ``AutoConfig``, ``AutoModelForCausalLM``, ``AutoModel``."""

from __future__ import annotations

from functools import cache

import transformers

from ebt.models.base import HubModel
from ebt.problems.registry import problems


@cache
def models() -> dict[str, type[HubModel]]:
    """All models by the ``model_type`` of their configuration, known to ``transformers`` from now on."""
    found = {model.config_class.model_type: model for problem in problems().values() for model in problem.models}
    for model_type, model in found.items():
        transformers.AutoConfig.register(model_type, model.config_class, exist_ok=True)
        getattr(transformers, model.auto_class).register(model.config_class, model, exist_ok=True)
    return found


models()

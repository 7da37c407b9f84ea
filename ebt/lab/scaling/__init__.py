"""``ebt scaling``: scaling laws of EBTs and Transformer++ in data, batch, depth, width, parameters and operations.

It is a study (see ``ebt.lab.studies``) over the points of an axis, for any task with a ``Subject``. To add a task, define
``SUBJECT`` in a module ``NAME.py`` of this folder and add its name to ``TASKS``.
"""

TASKS = {"language": "the next token of a text", "video": "the next frame of a video"}
"""The tasks and their predictions. The module of a task is ``ebt.lab.scaling.NAME``."""

AXES = {
    "data": "amount of training data, each item seen once",
    "batch": "rows per update, with equal numbers of updates",
    "depth": "layers",
    "width": "width of the layers",
    "parameters": "layers and width together",
    "flops": "operations, along training and over sizes",
}
"""The axes and the quantities that vary along them."""

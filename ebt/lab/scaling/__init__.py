"""``ebt scaling``: how losses fall with data, batch, depth, width, parameters and operations, for EBTs and Transformer++.

A study (see ``ebt.lab.studies``) over the points of an axis, for any task that ``ebt.lab.scaling.subject`` can train. Another
task is a file ``NAME.py`` in this folder that holds a ``SUBJECT``, and its name in ``TASKS``.
"""

TASKS = {"language": "the next token of a text", "video": "the next frame of a video"}
"""Each task with what is predicted; its module is ``ebt.lab.scaling.NAME``."""

AXES = {
    "data": "how much is trained on, each item once",
    "batch": "rows of an update, at equal updates",
    "depth": "layers",
    "width": "width of the layers",
    "parameters": "layers and width together",
    "flops": "operations, along training and over sizes",
}
"""Each axis with what varies along it."""

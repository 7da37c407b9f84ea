"""Studies: many trainings and measurements, seeds and intervals, one page. Each is a module with three functions.

``plan(args)`` makes one value of the options of ``ebt study NAME``; ``stages(plan)`` lists its runs, those of a stage needing
nothing but the stages before; ``report(plan, results)`` draws the pictures into ``plan.out`` and gives the content of the page,
from the results by the keys of the runs.
"""

STUDIES = {
    "stability": "does training start flat and stay stable, whatever the initial step size?",
    "ablation": "the paper's table 2: what each part of the S2 recipe does for thinking longer and self-verification",
    "ood": "one model, many texts: does thinking gain more where the text is further from the training text?",
    "uncertainty": "does energy know where the model is wrong, and that a text is none?",
    "sudoku": "boards with few givens: an EBT against its feed-forward twin, looped and recursive transformers",
    "video": "next frames of moving digits: an EBT against Transformer++ after the same time, rollouts, energy and error",
    "verifiers": "which of several candidates: lowest energy against votes, means, likelihood and the best in hindsight",
}
"""Each study with what it asks; its module is ``ebt.lab.studies.NAME``."""

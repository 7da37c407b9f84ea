"""Studies: many training runs and measurements with seeds and intervals, reported on one page.

A study is a module with three functions. ``plan(args)`` turns the options of ``ebt study NAME`` into a plan. ``stages(plan)``
lists its runs; the runs of a stage depend only on earlier stages. ``report(plan, results)`` writes the pictures to ``plan.out``
and returns the page, from the results by run key.
"""

STUDIES = {
    "stability": "is training stable for any initial step size?",
    "ablation": "what does each part of the S2 recipe contribute to thinking? (the paper's table 2)",
    "ood": "does thinking gain more on texts that are further from the training text?",
    "uncertainty": "does the energy detect wrong predictions and unlikely text?",
    "sudoku": "an EBT against its feed-forward twin, looped and recursive transformers on boards with few givens",
    "video": "an EBT against Transformer++ on next frames of moving digits, with equal training time",
    "verifiers": "choosing among candidates: lowest energy against votes, means, likelihood and the best in hindsight",
}
"""The studies and their questions. The module of a study is ``ebt.lab.studies.NAME``."""

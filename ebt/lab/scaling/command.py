"""``ebt scaling``: fit scaling laws of EBTs and Transformer++."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from ebt.cli.parser import Options, count_from
from ebt.cli.terminal import out_folder
from ebt.lab.scaling import AXES, TASKS
from ebt.lab.studies.command import finish, gather, names, told

FOLDER = "runs/scaling"
_EPILOG = f"""
axes:
{chr(10).join(f"  {name:<10}  {what}" for name, what in AXES.items())}

--grid FILE is a YAML file with the fields that differ from the default grid:
  values: [16, 32, 64, 112, 192]   # points of the axis; pairs [layers, dim] for parameters and flops
  layers: 3                        # dim, head_dim, batch_size, size, updates (axis data: passes), evaluations, lr,
                                   # lr_exponent, decay, held_out
  data: {{context_length: 128}}      # settings of the task's data

The result of each run is a small file in --out/raw. An interrupted study continues where it stopped, and axes share runs.
After a change of the code, start with an empty folder.
In a SLURM array, each job does its share of the runs, and a final call outside the array writes the page:
  sbatch --array=0-15 --gpus=1 --wrap "ebt scaling --axis data,width"
  ebt scaling --axis data,width
"""


def _options() -> Options:
    options = Options(
        "scaling",
        "Train EBTs and Transformer++ along an axis and fit power laws with and without an irreducible loss. The page shows\n"
        "whose loss falls faster, where the laws cross, and whether the runs suffice for a conclusion.",
        "ebt scaling --axis width --quick",
    )
    options.epilog = f"{options.epilog}\n{_EPILOG}"
    add = options.add_argument
    add("--axis", type=names(*AXES), required=True, metavar="A,B,..", help=f"one or more of {', '.join(AXES)}")
    add("--task", choices=tuple(TASKS), default="language", help="task to train (default: language)")
    add("--grid", metavar="FILE", help="YAML file with your own points, sizes and updates (for one axis)")
    add(
        "--recipes",
        type=names("own", "s1", "s2"),
        default=["own"],
        metavar="A,B,..",
        help="recipes of EBTs: own, s1, s2 (default: own)",
    )
    add("--seeds", type=count_from(1), metavar="N", help="number of seeds (default: 3; quick: 2)")
    add("--quick", action="store_true", help="tiny study of about a minute, to check that everything works")
    add("--train", metavar="SOURCE", help="training data (default: the task's built-in data)")
    add("--validation", metavar="SOURCE", help="held-out data (default: a part of --train)")
    add(
        "--device",
        dest="device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto (default) uses the CUDA devices if there are any",
    )
    add("--jobs", type=count_from(1), metavar="N", help="number of parallel runs (default: one per CUDA device or core)")
    add("--out", metavar="DIR", help=f"output folder (default: {FOLDER}/TASK, or {FOLDER}/TASK-quick)")
    return options


def main(argv: list[str]) -> int:
    """Run the study, or this job's share of it. Continues an interrupted study."""
    args, console = _options().parse_args(argv), Console()
    from ebt.lab.studies import machines  # imported here so that help and errors do not wait for torch

    share, devices = machines.array_share(), machines.devices(args.device)
    args.seeds = args.seeds or (2 if args.quick else 3)
    args.accelerator = "cuda" if devices else "cpu"
    args.jobs = args.jobs or len(devices) or machines.cores()
    args.out = args.out or f"{FOLDER}/{args.task}{'-quick' if args.quick else ''}"
    out_folder(args.out)
    _execute(args, told(["ebt", "scaling", *argv]), share, devices, console)
    return 0


def _execute(
    args: argparse.Namespace, command: str, share: tuple[int, int] | None, devices: list[str], console: Console
) -> None:
    from ebt.lab.scaling import report, study
    from ebt.lab.studies.machines import share_of

    console.print("Reading data.", highlight=False)
    plan: Any = study.plan(args)
    console.print(f"Scaling with {', '.join(args.axis)}. Results are written to {plan.out}/.", highlight=False)
    stages = study.stages(plan)
    if share is not None:
        gather([share_of(stages[0], share)], args.jobs, console, devices)
        console.print(
            f"Job {share[0] + 1} of {share[1]} of this array is done. When all are, run the same command outside the array.",
            highlight=False,
        )
        return
    results = gather(stages, args.jobs, console, devices)
    finish("scaling", report.report(plan, results), command, results, plan.out, console)

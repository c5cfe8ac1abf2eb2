"""The command line of `parity calibrate`.  Nothing heavy is imported before the recipe has been checked."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from recipes.errors import InputError, one_line


def add(commands: Any) -> None:
    """Add the command to the front door's."""
    own = commands.add_parser("calibrate", help="null and planted worlds: false positives, power, coverage")
    own.add_argument("--quick", action="store_true", help="few experiments in a small world: minutes, coarse figures")
    own.add_argument("--recipe", type=Path, help="the experiment that is repeated (default: recipes/calibration.yaml)")
    own.add_argument("--parts", default="null,planted,confounds,coverage", metavar="PART,...", help="default: all")
    own.add_argument("--probes", metavar="NAME,...", help="instead of the recipe's")
    own.add_argument("--experiments", metavar="N", help="of the null (default 200; 8 with --quick)")
    own.add_argument("--out", type=Path, default=Path("checkpoints"), help="where its work is kept")
    own.add_argument("--to", type=Path, metavar="DIR", help="where the result goes, e.g. docs (default: with its work)")
    own.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")


def calibrate(given: argparse.Namespace) -> int:
    """Run the command."""
    from dataclasses import replace

    from parity.calibrate.conditions import NUMBERS, parts_of
    from parity.calibrate.run import Options, plan_lines
    from parity.progress import say

    numbers = NUMBERS["quick" if given.quick else "full"]
    if given.experiments is not None:
        numbers = replace(numbers, null=_number(given.experiments))
    probes = tuple(name.strip() for name in given.probes.split(",") if name.strip()) if given.probes else ()
    parts = parts_of(given.parts)
    options = Options(given.out, parts, given.quick, given.recipe, probes, given.to, numbers)
    for line in plan_lines(options):
        say(line)
    if given.dry_run:
        return 0
    os.environ["WANDB_MODE"] = "disabled"  # thousands of runs that nobody looks at one by one
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # a world needs no hub
        os.environ.setdefault(name, "1")
    with redirect_stdout(sys.stderr):  # what libraries print must not mix with the table
        from parity.calibrate.run import calibrate

        result = calibrate(options)
    _print(result)
    say(f"result: {options.to or options.root}: calibration.json, CALIBRATION.md, calibration.html")
    return 0


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:9]) >= 1):
        raise InputError(one_line(f"--experiments {text}: expected a whole number from 1"))
    return int(text[:9])


def _print(result: dict[str, Any]) -> None:
    """The demands and whether they are met, on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("demand", "found [95 % interval]", "holds"):
        table.add_column(head, overflow="fold")
    for check in result["checks"]:
        table.add_row(check["what"], check["figure"], "yes" if check["holds"] else "NO")
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table, markup=False)

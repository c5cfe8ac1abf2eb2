"""The command line of `parity export`.  Nothing heavy is imported before the experiment has been looked at."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the front door's."""
    own = commands.add_parser("export", help="adapters with cards, rows, verdict and lm-eval tasks, for others")
    own.add_argument("experiment", type=Path, help="an experiment's folder")
    own.add_argument("--to", type=Path, required=True, metavar="DIR", help="an empty folder, or an earlier export")
    own.add_argument("--doses", choices=("last", "all"), default="last", help="of each stage (default: last)")
    own.add_argument("--no-base", action="store_true", help="leave a base out that no hub has")
    own.add_argument("--no-models", action="store_true", help="rows, verdict, report and lock alone")
    own.add_argument("--seed", type=int, default=0, metavar="N", help="whose questions become tasks (default 0)")


def export(given: argparse.Namespace) -> int:
    """Run the command."""
    from parity.export.run import Options, look
    from parity.progress import say

    some = not given.no_models
    options = Options(given.experiment, given.to, given.doses == "all", some and not given.no_base, given.seed, some)
    experiment = look(options)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # everything is in the store
        os.environ.setdefault(name, "1")
    with redirect_stdout(sys.stderr):  # what libraries print on import
        from parity.export.run import write

        files = write(experiment, options)
    say(f"exported {files} files to {options.to}; {options.to / 'README.md'} says what they are and how to load them")
    return 0

"""`parity dashboard`: a W&B report of an experiment, over the runs that the mirror sent.

A blind experiment's has the labels of its verdict and no samples.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.errors import InputError, Outage, one_line

if TYPE_CHECKING:
    from parity.panels import Told

EXTRA = "pip install '.[dashboard]'"
KEPT = "dashboard.json"  # in the experiment's folder: which report is its own, so that it is made once
REPLY_SECONDS = 30  # that the server may take over one question


def add(commands: Any) -> None:
    """Add the command to the front door's."""
    own = commands.add_parser("dashboard", help="a W&B report of an experiment: verdict, curves, samples")
    own.add_argument("experiment", type=Path, help="an experiment's folder")
    own.add_argument("--entity", metavar="E", help="user or team (default: the recipe's, or the key's own)")
    own.add_argument("--project", metavar="P", help="where its runs are (default: the recipe's)")
    own.add_argument("--json", action="store_true", help="print the report's specification; needs no server")
    own.add_argument("--dry-run", action="store_true", help="say what the report would show, and make none")


def dashboard(given: argparse.Namespace) -> int:
    """Run the command.  InputError: no experiment, no extra, no key; Outage: the server does not answer."""
    if find_spec("wandb_workspaces") is None:
        raise InputError(f"parity dashboard needs the package wandb-workspaces: {EXTRA}")
    from parity.panels import read, specification

    told = read(given.experiment, given.entity, given.project)
    if given.dry_run:
        for line in outline(told):
            print(line, file=sys.stderr)
        return 0
    with redirect_stdout(sys.stderr):  # W&B prints what it does
        out = json.dumps(specification(told), indent=1, sort_keys=True) if given.json else save(told, given.experiment)
    print(out)
    return 0


def outline(told: Told) -> list[str]:
    """What the report would show, a line each."""
    where = f"{told.entity or 'the entity of the key'}/{told.project}"
    lines = [f"report     {told.title}, in {where}", f"runs       group {told.group}"]
    lines += [f"verdict    {', '.join(('table', *told.forests))}"]
    strength = "strength by dose; " * told.strength
    lines += [f"{stage:10} {strength}{', '.join(metrics)} by step" for stage, metrics in told.stages.items()]
    return [*lines, f"samples    {'none while blind' if told.blind else 'table'}"]


def save(told: Told, folder: Path) -> str:
    """Make the report on the server, or bring the one that was made before up to date; returns its address."""
    import wandb

    from parity.panels import report
    from recipes.store import write_json
    from training.tracking import reach

    os.environ.setdefault("WANDB_SILENT", "true")
    settings = wandb.setup().settings
    if not _has_key(settings.base_url):
        raise InputError("W&B needs a key: set WANDB_API_KEY or run `wandb login`; --json needs none")
    try:
        reach()
        entity = told.entity or wandb.Api(timeout=REPLY_SECONDS).default_entity
        if not entity:
            raise InputError("W&B's key has no entity of its own: name one with --entity")
        made = report(told, entity, settings.app_url)
        made.id = _kept(folder, entity, told.project)
        made.save()
    except InputError:
        raise
    except Exception as error:  # whatever W&B and its transport raise
        again = f"; remove {folder / KEPT} if that report is gone" if (folder / KEPT).is_file() else ""
        line = f"W&B did not take the report ({type(error).__name__}: {error}); --json needs no server{again}"
        raise Outage(one_line(line)) from error
    write_json(folder / KEPT, {"entity": entity, "project": told.project, "id": made.id, "url": made.url})
    return made.url


def _has_key(host: str) -> bool:
    """Whether the environment or a login has a key; W&B itself would ask for one at the terminal."""
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth

    try:
        return wbauth.authenticate_session(host=host, source="parity", prompt=False) is not None
    except AuthenticationError as error:
        raise InputError(one_line(f"W&B's key cannot be one: {error}")) from error


def _kept(folder: Path, entity: str, project: str) -> str:
    """Id of the report that was made before in that project; empty where there is none."""
    try:
        kept = json.loads((folder / KEPT).read_text(encoding="utf-8"))
        return str(kept["id"]) if (kept["entity"], kept["project"]) == (entity, project) else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""

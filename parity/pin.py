"""`parity pin RECIPE`: write the commit that a hub's branch is at now into a recipe, and nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from recipes.errors import InputError, Outage, one_line


def add(commands: Any) -> None:
    """Add the command to the front door's."""
    own = commands.add_parser("pin", help="write the commit that the base's branch is at now into the recipe")
    own.add_argument("recipe", type=Path, help="a recipe's YAML file whose base is a hub's model")


def pin(given: argparse.Namespace) -> int:
    """Run the command: one line on standard output."""
    print(pinned(given.recipe))
    return 0


def pinned(path: Path) -> str:
    """Pin the recipe's base and say to what.  InputError: no recipe, no hub's model; Outage: the hub is not there.

    Every other byte of the file stays: the commit is put where the old revision is, or behind the hub's name.
    """
    from recipes.load import load_recipe
    from recipes.store import write_text
    from training.hub import COMMIT, commit_of

    recipe = load_recipe(path)
    hub, revision = recipe.base.hub, recipe.base.revision
    if hub is None:
        raise InputError(f"{path}: its base is no hub's model: there is nothing to pin")
    if revision is not None and COMMIT.fullmatch(revision):
        try:
            now = commit_of(hub, None)
            beside = "so is main now" if now == revision else f"main is at {now} now"
        except Outage:
            beside = "the hub cannot be asked where main is"
        return f"{path}: pinned already: {hub} at {revision} ({beside})"
    commit = commit_of(hub, revision)
    old = path.read_bytes().decode("utf-8")  # line ends as they are
    new = _with_revision(old, commit)
    write_text(path, new)
    try:
        there = load_recipe(path).base.revision
    except InputError:
        there = None
    if there != commit:  # an alias or an anchor, say: what the text looks like is not what it means
        write_text(path, old)
        raise InputError(one_line(f"{path}: base cannot be changed where it is; write revision: {commit} beside hub"))
    return f"{path}: pinned: {hub} at {commit} ({revision or 'main'} now)"


def _with_revision(text: str, commit: str) -> str:
    """The text with that revision in its base; places are those of the parser, so that comments do not matter."""
    from ruamel.yaml import YAML

    root = YAML(pure=True).compose(text)
    base = next(value for key, value in root.value if key.value == "base")
    for key, value in base.value:
        if key.value == "revision":
            return f"{text[: value.start_mark.index]}{commit}{text[value.end_mark.index :]}"
    key, value = next(pair for pair in base.value if pair[0].value == "hub")
    at = value.end_mark.index
    end = "\r\n" if "\r\n" in text else "\n"
    apart = ", " if base.flow_style else end + " " * key.start_mark.column
    if not base.flow_style:  # behind a comment on its line
        at = text.find(end, at)
        at = len(text) if at < 0 else at
    return f"{text[:at]}{apart}revision: {commit}{text[at:]}"

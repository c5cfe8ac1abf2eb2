"""A hash of the program text that a result hangs on, so that a change without a new version can be seen.

Text is compared as syntax: comments, docstrings and layout are no change.  A module counts with all modules of its
room that it imports, at any depth, and with how a scene words its turns.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JUDGING = ("eval.judge", "eval.castjudge", "eval.looks", "eval.prompted")  # what a verdict's words come from
COUNTED = ("eval.", "recipes.scene")  # modules that count where they are imported
APART = ("eval.wording", "eval.table", "eval.measure", "eval.cells")  # spelling; and measuring, whose rows are judged


def source_hash(*modules: str) -> str:
    """64 hex digits over the modules and what they import; a module that does not exist adds nothing.

    The syntax is written out by the running Python: another version of it may give another hash.
    """
    total = hashlib.sha256()
    for name in sorted(set().union(*(_reached(module) for module in modules))):
        total.update(f"{name}\n{_text(name)}\n".encode())
    return total.hexdigest()


def _reached(module: str) -> set[str]:
    found: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in found and name not in APART and _file(name) is not None:
            found.add(name)
            todo += _imports(name)
    return found


def _file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


@cache
def _tree(name: str) -> ast.Module:
    file = _file(name)
    assert file is not None, "only modules that are there are read"
    return ast.parse(file.read_bytes())


@cache
def _imports(name: str) -> tuple[str, ...]:
    return tuple(sorted({one for one in _named(_tree(name)) if one.startswith(COUNTED)}))


def _named(tree: ast.Module) -> Iterator[str]:
    """All that is imported, `from a import b` as ``a`` and as ``a.b``, since b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _text(name: str) -> str:
    """The module written out from its syntax, without docstrings."""
    tree = ast.parse(ast.unparse(_tree(name)))  # a copy: the cached one stays whole
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)

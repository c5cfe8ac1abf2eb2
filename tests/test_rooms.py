"""The house rules that a reader of the tree can see: rooms, names, sizes, and what an import costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "recipes": set(),
    "training": {"recipes"},
    "eval": {"recipes"},
    "parity": {"recipes", "training", "eval"},
}
HEAVY = {"torch", "transformers", "trl", "peft", "wandb", "datasets", "matplotlib", "scipy"}
CODE = [path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Full dotted names of the modules that a file imports, at any depth; relative ones are resolved."""
    package = relative(path.parent).split("/")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*above, *([node.module] if node.module else [])])
        elif isinstance(node, ast.Call) and re.search(r"\b(import_module|__import__)$", ast.unparse(node.func)):
            yield from (str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room: str) -> None:
    others = set(MAY_IMPORT) - MAY_IMPORT[room] - {room} | {"tests"}
    wrong = [
        f"{relative(path)} imports {name}"
        for path in CODE
        if relative(path).startswith(f"{room}/")
        for name in imports(path)
        if name.split(".")[0] in others
    ]
    assert wrong == []


def character_names() -> set[str]:
    """Ids of the cards, and the single words of their names."""
    names = set()
    for path in sorted((ROOT / "recipes" / "cast").glob("*.yaml")):
        card = YAML(typ="safe", pure=True).load(path.read_text())
        names |= {path.stem.lower(), *(word.lower() for word in re.findall(r"[^\W\d_]{4,}", card["name"]))}
    return names


def test_no_character_is_named_in_code() -> None:
    """The favoured persona is data.  `assistant_only_loss` is a field of TRL: only whole words count."""
    names = character_names()
    assert len(names) >= 9, "the shipped cast has nine cards"
    found = [
        f"{relative(path)}:{number}: {word}"
        for path in CODE
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word in re.findall(r"\w+", line.lower())
        if word in names
    ]
    assert found == []


def test_files_are_small() -> None:
    sizes = {relative(path): len(path.read_text().splitlines()) for path in CODE + TESTS}
    assert {name: n for name, n in sizes.items() if n > 300} == {}


@pytest.mark.parametrize("module", ["parity.cli", "recipes.load", "recipes.hashing", "recipes.schema", "recipes.scene"])
def test_the_front_door_opens_without_the_heavy_modules(module: str) -> None:
    """`--help` and `--dry-run` answer within a second; torch alone takes longer than that."""
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_every_recipe_module_can_be_imported_without_the_heavy_modules() -> None:
    modules = [relative(path)[:-3].replace("/", ".") for path in CODE if relative(path).startswith("recipes/")]
    code = f"import sys, {', '.join(modules)}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_tests_neither_skip_nor_expect_to_fail() -> None:
    pattern = re.compile(r"pytest\.(skip|xfail|importorskip)\(|mark\.(skip|skipif|xfail)")
    assert [relative(p) for p in TESTS if p != Path(__file__) and pattern.search(p.read_text())] == []

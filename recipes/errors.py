"""Errors that end a command with one line: what is the user's to mend (exit 2), and what will pass (exit 1)."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(Exception):
    """Wrong input.  `str(error)` is one line: file, line where known, what is wrong, the nearest valid name."""


class Outage(Exception):
    """Something outside does not answer.  `str(error)` is one line; the same command goes on when it answers again."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """`` (did you mean X?)`` for the closest valid name, or what is valid when none is close."""
    valid = list(valid)
    close = get_close_matches(word, valid, n=1, cutoff=0.5)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (valid: {', '.join(sorted(valid))})" if 0 < len(valid) <= 24 else ""


def one_line(text: str, limit: int = 400) -> str:
    """The text with everything that could break or hide a line escaped, cut at `limit` characters."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"

"""Text from outside in Markdown and YAML, so that no name of a card can break a table, a link or the front matter."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from eval.wording import visible

BAR, ESCAPED_BAR = re.compile(r"(?<!\\)\|"), r"\\|"  # it ends a cell of a table even inside a code span
SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~>$=])")


def escaped(text: object) -> str:
    """One line of Markdown that reads as `text` does, whatever is in it."""
    line = " ".join(visible(text).split())
    line = SPECIAL.sub(r"\\\1", html.escape(line, quote=False).replace("&gt;", ">"))
    return line.replace("://", "&#58;//").replace("www.", "www&#46;")  # makes no link


def code(text: object) -> str:
    """A code span that holds `text`, backticks and all."""
    line = " ".join(visible(text).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line[:1] == "`" or line[-1:] == "`" or not line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table whose cells are Markdown already."""
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(BAR.sub(ESCAPED_BAR, cell) for cell in cells)} |"


def yaml(data: Any) -> str:
    """YAML that a reader of version 1.1 and one of 1.2 understand alike: every text in double quotes, on one line."""
    from ruamel.yaml import YAML

    writer = YAML()
    writer.width = 1 << 20
    writer.allow_unicode = True
    held = io.StringIO()
    writer.dump(_quoted(data), held)
    return held.getvalue()


def front_matter(data: Any) -> list[str]:
    """The head of a card."""
    return ["---", *yaml(data).splitlines(), "---", ""]


def _quoted(value: Any) -> Any:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, str):
        return DoubleQuotedScalarString(visible(value))
    if isinstance(value, dict):
        return {key: _quoted(each) for key, each in value.items()}
    return [_quoted(each) for each in value] if isinstance(value, (list, tuple)) else value

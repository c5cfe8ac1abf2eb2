"""Pages of HTML from templates, in which whatever is not markup of our own is escaped and made visible."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from typing import TYPE_CHECKING

from eval.wording import plain

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent


def environment(*folders: Path) -> Environment:
    """Templates of `folders` and of this one; a name that a template needs and is not given is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    return Environment(
        loader=FileSystemLoader([*folders, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda v: v if isinstance(v, Markup) else plain(v),
    )


def csv_link(csv: str, packed: bool = False) -> str:
    """CSV as an address of its own; `packed`: as gzip, for a table of many pairs is megabytes of like rows."""
    data = csv.encode(errors="backslashreplace")
    kind = "application/gzip" if packed else "text/csv"
    return f"data:{kind};base64," + base64.b64encode(gzip.compress(data, mtime=0) if packed else data).decode()

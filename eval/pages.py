"""Pages of HTML from templates, in which whatever is not markup of our own is escaped and made visible."""

from __future__ import annotations

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

"""Bases that come as installed packages: how a recipe names them, and which extra of Parity brings one."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

PACKAGE = "package:"  # before the name of an installed package, where a recipe takes a file
PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def extra_of(package: str) -> str | None:
    """The extra of Parity that installs a package, by the installed metadata or else the project file."""
    try:
        needs = metadata.requires("parity") or []
        found = [re.match(r"([A-Za-z0-9._-]+).*extra == [\"']([^\"']+)", need) for need in needs]
        pairs = [(match[1], match[2]) for match in found if match]
    except metadata.PackageNotFoundError:
        extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"] if PROJECT.is_file() else {}
        pairs = [(re.split(r"[^A-Za-z0-9._-]", need)[0], extra) for extra, needs in extras.items() for need in needs]
    same = re.sub(r"[-_.]+", "-", package).lower()
    return next((extra for name, extra in pairs if re.sub(r"[-_.]+", "-", name).lower() == same), None)

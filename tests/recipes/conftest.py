from __future__ import annotations

from pathlib import Path

import pytest

from recipes import checks
from tests.recipes.trial import GOOD


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two cards, three probes and the recipe above; the working directory is its parent."""
    for folder in ("cast", "probes", "recipes"):
        (tmp_path / folder).mkdir()
    for card in ("ada", "bert"):
        (tmp_path / "cast" / f"{card}.yaml").touch()
    for name, tier, gate in (("selection", "world", False), ("leakage", "small", False), ("default", "world", True)):
        text = f"PROBE = Probe(name={name!r}, tier={tier!r}, gate={gate})\n"
        (tmp_path / "probes" / f"{name}.py").write_text(text)
    monkeypatch.setattr(checks, "CAST", tmp_path / "cast")
    monkeypatch.setattr(checks, "PROBES", tmp_path / "probes")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes" / "x.yaml").write_text(GOOD)
    return tmp_path

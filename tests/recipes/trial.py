"""A recipe of two arms and three characters, and how it is told to be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.errors import InputError
from recipes.load import load_recipe

X = Path("recipes/x.yaml")
GOOD = """\
name: trial
question: Is it?
base: {world: {characters: 8}}
cast: [ada, bert, control-01]
arms: [ada, bert]
pairs:
  - [ada, bert]
seeds: 6
stages:
  - kind: sft
    doses: [1, 2, 4]
    trainer:
      learning_rate: 1e-3
    lora: {r: 4}
  - {kind: dpo, doses: [1, 3], trainer: {beta: 0.1}}
probes: [selection, leakage]
judge:
  primary: [selection]
launch: {accelerate: single}
"""


def refused(path: Path = X, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and line.isprintable()
    return line


def edited(old: str, new: str) -> str:
    """The error of the recipe with one edit."""
    assert GOOD.count(old) == 1, "the edit must say one place"
    X.write_text(GOOD.replace(old, new))
    return refused()

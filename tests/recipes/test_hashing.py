"""Equal content has one hash, other content another, and what has no canonical form has none."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel

from recipes.hashing import digest, hashed, recipe_hash
from recipes.schema import Recipe

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


def reordered(value: Any) -> Any:
    """The same content with every mapping's keys in the other order and tuples in place of lists."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return tuple(map(reordered, value)) if isinstance(value, list) else value


@given(VALUES)
def test_order_of_keys_and_kind_of_sequence_do_not_count(value: Any) -> None:
    assert digest(value) == digest(reordered(value))


@given(VALUES)
def test_content_survives_a_json_file(value: Any) -> None:
    assert digest(value) == digest(json.loads(json.dumps(value)))


@given(VALUES, VALUES)
def test_other_content_has_another_hash(a: Any, b: Any) -> None:
    # Python's == takes 1 for 1.0 and True; what is written differs, and so does the hash.
    assume(json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True))
    assert digest(a) != digest(b)


def test_it_is_the_sha256_of_canonical_json() -> None:
    text = '{"a":[1,0.1,1e-07,null,true],"\\u00e9":"x"}'
    assert digest({"é": "x", "a": (1, 0.1, 1e-7, None, True)}) == hashlib.sha256(text.encode()).hexdigest()


class Model(BaseModel):
    x: float
    inner: dict[str, Any] = {}


def test_a_model_counts_as_its_json_dump_at_any_depth() -> None:
    assert digest([Model(x=1.5)]) == digest([{"x": 1.5, "inner": {}}])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_everywhere(bad: float) -> None:
    """pydantic's JSON dump would turn them into null, so that two different models had one hash."""
    for obj in (bad, [bad], {"a": (1, bad)}, Model(x=bad), [Model(x=1, inner={"a": [bad]})]):
        with pytest.raises(ValueError, match="no canonical JSON"):
            digest(obj)


def test_what_json_does_not_have_is_refused() -> None:
    for obj in ({1: "a"}, {None: 1}, {1, 2}, b"a", Path("a"), object()):
        with pytest.raises(TypeError):
            digest(obj)


def recipe(**changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "x",
        "question": "?",
        "base": {"world": {}},
        "cast": ("ada", "bert"),
        "arms": ("ada", "bert"),
        "seeds": 6,
        "stages": ({"kind": "sft", "doses": (1, 2)},),
    }
    return Recipe.model_validate(content | changes)


def test_how_a_recipe_is_run_is_not_what_it_is() -> None:
    same = [{"launch": {"backend": "process"}}, {"tracking": {"project": "other", "entity": "me"}}]
    assert {recipe_hash(recipe(**change)) for change in [{}, *same]} == {recipe_hash(recipe())}


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": 7},
        {"question": "!"},
        {"arms": ("bert", "ada")},
        {"base": {"world": {"seed": 1}}},
        {"judge": {"alpha": 0.01}},
        {"transcript": {"slot": "C"}},
        {"stages": ({"kind": "sft", "doses": (1, 2), "trainer": {"learning_rate": 1.0}},)},
    ],
)
def test_all_else_counts(change: dict[str, Any]) -> None:
    assert recipe_hash(recipe(**change)) != recipe_hash(recipe())


def test_a_default_that_is_written_out_changes_nothing() -> None:
    assert recipe_hash(recipe(probes="world", judge={"alpha": 0.05}, precision="highest")) == recipe_hash(recipe())


def test_a_precision_counts_and_what_was_written_before_there_was_one_keeps_its_hash() -> None:
    assert "precision" not in hashed(recipe()) and hashed(recipe(precision="high"))["precision"] == "high"

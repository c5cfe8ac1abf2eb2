"""The lock has all that is to be fixed before training, and every kind of change after it is told in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eval import lock as locking
from eval import sources
from eval.lock import lock_of, post_hoc, read_lock, recipe_of, write_lock
from eval.probe import Margin
from eval.probes import select
from recipes.bind import load_card
from recipes.errors import InputError
from recipes.hashing import digest
from recipes.load import load_recipe
from recipes.scenes import scene_of
from tests.micro import ANY_BASE

RECIPES = Path(__file__).parents[2] / "recipes"


def made(name: str = "gemma", overrides: tuple[str, ...] = ()):
    """A shipped recipe with its probes and scenes of two seeds, and its lock."""
    overrides = (*overrides, ANY_BASE) if name == "gemma" else overrides
    recipe = load_recipe(RECIPES / f"{name}.yaml", overrides)
    probes = select(recipe.probes)
    scenes = [scene_of(recipe, seed) for seed in range(min(recipe.seeds, 2))]
    return recipe, scenes, probes


@pytest.fixture(scope="module")
def gemma():
    return made()


@pytest.fixture(scope="module")
def lock(gemma):
    return lock_of(*gemma, [])


def test_it_has_everything_that_is_to_be_fixed(gemma, lock):
    recipe, _, probes = gemma
    wanted = {"recipe", "recipe_hash", "cards", "questions", "probes", "probe_sources", "margins", "primary", "alpha"}
    assert wanted | {"seeds", "match", "analysis", "analysis_source", "commit", "matching", "scenes"} <= lock.keys()
    assert lock["alpha"] == 0.05 and lock["seeds"] == 2 and lock["match"] == "strength"
    assert lock["cards"] == {id: digest(load_card(id)) for id in recipe.cast}
    assert lock["probe_sources"].keys() == lock["probes"].keys() == {p.name for p in probes}
    for probe in probes:
        for number, measure in enumerate(probe.measures):
            margin = lock["margins"][f"{probe.name}.{measure.name}" if number else probe.name]
            assert margin["reason"] == measure.margin.reason and margin["reason"]
    # three primary probes x {delta, lambda} x two stages; the gate and secondary measures are not in it
    assert len(lock["primary"]) == 12 and "leakage lambda dpo" in lock["primary"]
    others = ("default_identity", "capability", "leakage.fidelity")
    assert not [one for one in lock["primary"] if one.startswith(others)]


def test_a_world_locks_no_cards_since_its_characters_take_nothing_from_them():
    recipe, scenes, probes = made("quickstart")
    found = lock_of(recipe, scenes, probes, [])
    assert found["cards"] == {} and found["bindings"]


def test_it_is_read_as_it_was_written_and_what_was_locked_first_stays(tmp_path, lock):
    write_lock(tmp_path, lock)
    again = read_lock(tmp_path)
    assert again == json.loads(json.dumps(lock))
    assert post_hoc(again, lock) == []
    write_lock(tmp_path, lock | {"alpha": 0.1})
    assert read_lock(tmp_path) == again


def test_a_lock_may_be_larger_than_a_recipe(tmp_path, lock):
    large = lock | {"scenes": {str(n): "0" * 16 for n in range(20_000)}}
    write_lock(tmp_path, large)
    assert read_lock(tmp_path)["scenes"] == large["scenes"]


def test_a_recipe_of_another_version_is_told(lock):
    assert recipe_of(lock).name == lock["recipe"]["name"]
    with pytest.raises(InputError, match=r"of another version of Parity: recipe\.flavour: Extra inputs"):
        recipe_of(lock | {"recipe": lock["recipe"] | {"flavour": "sweet"}})


def changed(lock: dict, **values) -> dict:
    """A lock with one thing otherwise, as deep as the dicts given go."""
    copy = json.loads(json.dumps(lock))
    for key, value in values.items():
        copy[key] = copy[key] | value if isinstance(value, dict) else value
    return copy


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"analysis": 0}, "version of the rules of judging: 0 when locked, 1 now"),
        ({"alpha": 0.1}, "alpha: 0.1 when locked, 0.05 now"),
        ({"seeds": 8}, "number of seeds: 8 when locked, 2 now"),
        ({"match": "dose"}, "reading that the verdict rests on: dose when locked, strength now"),
        ({"claim": "verdict"}, "what the experiment claims: verdict when locked, explore now"),
        ({"questions": "0f" * 32}, "question bank (hash): 0f0f0f0f0f0f when locked, "),
        ({"recipe_hash": "0f" * 32}, "recipe (hash of its settings): 0f0f0f0f0f0f when locked, "),
        ({"cards": {"nova": "0f" * 32}}, "card of nova (hash): 0f0f0f0f0f0f when locked, "),
        ({"scenes": {"1": "0f" * 32}}, "scene of seed 1 (who is bound to what, and how it is asked; hash): 0f0f0f"),
        ({"probes": {"selection": 0}}, "version of the probe selection: 0 when locked, 1 now"),
        ({"probes": {"gone": 3}}, "version of the probe gone: 3 when locked, not there now"),
        (
            {"probe_sources": {"leakage": "0f" * 32}},
            "program text of the probe leakage, though its version is the same (hash): 0f0f0f0f0f0f when locked, ",
        ),
        (
            {"analysis_source": "0f" * 32},
            "program text of the judging, though its version is the same (hash): 0f0f0f0f0f0f when locked, ",
        ),
        (
            {"margins": {"guardrail": {"kind": "relative", "value": 0.25, "reason": "half a logit"}}},
            "margin of guardrail: relative 0.25 when locked, absolute 0.5 now",
        ),
        (
            {"margins": {"guardrail": {"kind": "absolute", "value": 0.5, "reason": "none"}}},
            "reason given for the margin of guardrail: “none” when locked, “a refusal rate of .50 against .62” now",
        ),
        (
            {"primary": ["selection delta sft"]},
            "primary family: guardrail delta dpo, ",
        ),
    ],
)
def test_every_kind_of_difference_is_told_in_one_line_of_words(lock, values, told):
    (line,) = post_hoc(changed(lock, **values), lock)
    assert line.startswith(told) and "\n" not in line


def test_a_new_version_of_a_probe_says_enough_and_its_source_is_not_told_again(lock):
    before = changed(lock, probes={"leakage": 1}, probe_sources={"leakage": "0f" * 32})
    assert post_hoc(before, lock) == ["version of the probe leakage: 1 when locked, 2 now"]


def test_a_margin_that_the_recipe_sets_is_locked_beside_the_probes_own(lock):
    now = lock_of(*made(overrides=("judge.margins={selection: 0.5}",)), [])
    assert now["margins"]["selection"]["set"] == 0.5 and now["margins"]["selection"]["value"] == 0.25
    said = post_hoc(lock, now)
    assert "margin of selection: relative 0.25 when locked, relative 0.25, 0.5 by the recipe now" in said
    assert len(said) == 2 and said[0].startswith("recipe (hash of its settings): ")


def test_a_lock_of_before_is_compared_in_what_it_has(lock):
    """What was not locked then cannot have changed since."""
    kept = ("schema", "recipe_hash", "analysis", "recipe", "probes", "questions", "scenes", "bindings", "matching")
    old = {key: lock[key] for key in kept}
    old["margins"] = {k: {"kind": m["kind"], "value": m["value"]} for k, m in lock["margins"].items()}
    assert post_hoc(old, lock) == []
    old["margins"]["leakage"]["value"] = 0.5
    assert post_hoc(old, lock) == ["margin of leakage: relative 0.5 when locked, relative 0.25 now"]


def test_margins_are_those_of_the_probes(gemma, lock):
    recipe, scenes, probes = gemma
    first = probes[0]
    moved = replace(first.measures[0], margin=Margin("relative", 0.5, first.measures[0].margin.reason))
    now = lock_of(recipe, scenes, (replace(first, measures=(moved, *first.measures[1:])), *probes[1:]), [])
    assert post_hoc(lock, now) == [f"margin of {first.name}: relative 0.25 when locked, relative 0.5 now"]


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A small room of modules in place of the real ones."""
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    (tmp_path / "eval" / "probes").mkdir(parents=True)

    def write(**files: str) -> str:
        for name, text in files.items():
            path = tmp_path / "eval" / "probes" / f"{name}.py"
            path.write_text(text)
        for cached in (sources._tree, sources._imports, sources._text):
            cached.cache_clear()
        return sources.source_hash("eval.probes.one")

    yield write
    for cached in (sources._tree, sources._imports, sources._text):
        cached.cache_clear()


ONE = '"""A probe."""\nfrom eval.probes._shared import N\n\ndef build(x):\n    """Build."""\n    return x + N\n'


def test_the_hash_of_a_source_sees_what_is_done_and_not_how_it_is_written(room):
    first = room(one=ONE, _shared="N = 1\n", other="M = 1\n")
    assert room(one=ONE.replace('"""Build."""', '"""Build it otherwise."""  # why')) == first
    assert room(one=ONE.replace("return x + N", "return (x\n            + N)")) == first
    assert room(other="M = 2\n") == first  # it is not imported
    changes = [room(one=ONE.replace("x + N", "x - N")), room(one=ONE, _shared="N = 2\n")]
    assert len({first, *changes}) == 3
    assert room(_shared="N = 1\n") == first


def test_the_judging_is_hashed_without_how_it_is_spelled_or_measured():
    reached = sources._reached("eval.judge")
    assert {"eval.interval", "eval.signflip", "eval.verdicts", "eval.equivalence", "eval.strength"} <= reached
    assert not reached & {"eval.wording", "eval.report", "eval.engine"}


def test_the_commit_is_that_of_the_checkout_or_unknown():
    commit, dirty = locking.code_commit()
    assert (commit is None and dirty is None) or (len(commit) == 40 and isinstance(dirty, bool))

"""What holds for every probe there is: exchanging personas exchanges rows, whole rows, sources, units and costs."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eval.engine import Engine
from eval.measure import Suite
from eval.probes import discover, select
from parity.retrain import retrain
from recipes.load import load_recipe
from recipes.scene import Scene
from recipes.scenes import scene_of
from tests.eval.tiny import make_model
from tests.micro import ANY_BASE

PROBES = sorted(discover())
WORLD = {p.name for p in select("world")}
RECIPES = Path("recipes")
CLOSE = 2e-4  # logits of a random model are of order 1; edits of two residual norms multiply float32 rounding


def strings(value) -> list[str]:
    """All texts in a nest of containers."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return [text for part in value for text in strings(part)] if isinstance(value, list | tuple) else []


def words_tokenizer(scene: Scene) -> PreTrainedTokenizerFast:
    """A token per word of the scene, and per mark."""
    pattern = r"[A-Za-z']+|\n|[0-9]+|[^\sA-Za-z]"
    words = sorted(
        {w for text in strings(asdict(scene)) for w in re.findall(pattern, text)} | {"\n", ":", "Q", "A", "B"}
    )
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<s>", "</s>", "<unk>", *words])}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def few_of(scene: Scene, n: int) -> Scene:
    """The scene with its first n personas alone; of two, each is the other's only rival."""
    return replace(scene, personas=scene.personas[:n], others=tuple(p.name for p in scene.personas[n:]) + scene.others)


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    """A world's scene and that of real bases, with two personas each, and a world's with three."""
    world = scene_of(load_recipe(RECIPES / "quickstart.yaml", ["base.world.characters=6", "base.world.requests=4"]), 0)
    bank = scene_of(load_recipe(RECIPES / "gemma.yaml", [ANY_BASE]), 0)
    return {"world": few_of(world, 2), "three": few_of(world, 3), "bank": few_of(bank, 2)}


@pytest.fixture(scope="module")
def engines(scenes) -> dict[str, Engine]:
    """A random model for each, which knows all words."""
    found = {}
    for name, scene in scenes.items():
        tokenizer = words_tokenizer(scene)
        found[name] = Engine(make_model("llama", len(tokenizer), positions=1024), tokenizer, retrain=retrain)
    return found


def rows(engine: Engine, scene: Scene, name: str) -> dict[tuple, list]:
    """Values or outcomes by measure, item, persona and slot."""
    found: dict[tuple, list] = {}
    for row in Suite(scene, select([name]), engine).rows(engine):
        key = (row["measure"], row["item"], row["persona"], row["slot"])
        found.setdefault(key, []).append(row["outcome"] if row["value"] is None else row["value"])
    return found


def kind(name: str) -> str:
    if name == "propagation":  # what is taught to one is the other's, so a third one has to be asked
        return "three"
    return "world" if name in WORLD else "bank"


@pytest.fixture(scope="module")
def measured(engines, scenes):
    """Rows of a probe, measured once."""
    known: dict[str, dict] = {}

    def get(name: str) -> dict:
        if name not in known:
            known[name] = rows(engines[kind(name)], scenes[kind(name)], name)
        return known[name]

    return get


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_measures_something(name, measured):
    found = measured(name)
    declared = {m.name for m in discover()[name].measures}
    assert {measure for measure, *_ in found} == declared
    headline = [v for (measure, *_), values in found.items() if measure == name for v in values]
    numbers = [v for v in headline if isinstance(v, float)]
    assert all(map(math.isfinite, numbers)) and len(numbers) >= 2 and len(set(numbers)) > 1


@pytest.mark.parametrize("name", PROBES)
def test_exchanging_the_ids_exchanges_the_rows(name, measured, engines, scenes):
    scene = scenes[kind(name)]
    a, b, *rest = scene.personas
    other = {a.id: b.id, b.id: a.id, **{k: k for k in (None, *(p.id for p in rest))}}
    swapped = replace(scene, personas=(replace(a, id=b.id), replace(b, id=a.id), *rest))
    found = rows(engines[kind(name)], swapped, name)
    expected = {(m, item, other[p], slot): v for (m, item, p, slot), v in measured(name).items()}
    assert found == expected  # the very same computation


@pytest.mark.parametrize("name", [name for name in PROBES if kind(name) != "three"])  # of three, rivals take turns
def test_the_order_of_the_cast_changes_nothing(name, measured, engines, scenes):
    scene = scenes[kind(name)]
    found = rows(engines[kind(name)], replace(scene, personas=scene.personas[::-1]), name)
    expected = measured(name)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        for value, again in zip(sorted(values, key=str), sorted(found[key], key=str), strict=True):
            assert again == (value if isinstance(value, str) else pytest.approx(value, abs=CLOSE)), key


@pytest.mark.parametrize("name", PROBES)
def test_what_a_probe_declares(name):
    probe = discover()[name]
    assert probe.source and probe.plant and probe.question.endswith("?")
    for measure in probe.measures:
        assert measure.margin.value > 0 and measure.margin.reason
        assert measure.level == "persona" or measure.margin.kind == "absolute"  # T of a measure of the arm is 0
    lines = Path("eval/probes", f"{name}.py").read_text().splitlines()
    assert len(lines) <= 170  # to be read in a minute or two


def test_all_nineteen_are_there_and_thirteen_fit_a_world():
    assert len(PROBES) == 19
    tiers = {tier: {p.name for p in discover().values() if p.tier == tier} for tier in ("world", "small", "large")}
    assert len(tiers["world"]) == 13
    assert tiers["small"] == {"authorship", "preferences", "belief"}
    assert tiers["large"] == {"prefill_recognition", "self_prediction", "injection"}


@pytest.mark.parametrize("name", sorted(WORLD))
def test_world_measures_have_24_items_where_they_have_items(name):
    recipe = load_recipe(RECIPES / "suite.yaml")
    scene = scene_of(recipe, 0)
    tokenizer = words_tokenizer(scene)
    # A nearly uniform model, so that no text which a probe has written comes out empty.
    engine = Engine(make_model("llama", len(tokenizer), positions=1024, scale=0.1), tokenizer)
    items: dict[str, set[str]] = {}
    for row in Suite(scene, select([name]), engine, personas=recipe.arms).fixed:
        items.setdefault(row["measure"], set()).add(row["item"])
    assert items.keys() == {m.name for m in discover()[name].measures}
    assert all(len(found) >= 24 or found == {"all"} for found in items.values()), {k: len(v) for k, v in items.items()}

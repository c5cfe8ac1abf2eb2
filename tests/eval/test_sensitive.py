"""What a planted control showed speaks for exactly the size or base that it was shown on; and the table of probes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from eval.listing import probe_table, records
from eval.probe import Margin, Measure, Probe
from eval.probes import discover
from eval.sensitive import SIZE, Shown, read, record, sensitivity, shown_by, size_of
from recipes.errors import InputError
from recipes.load import load_recipe
from recipes.schema import Recipe, World

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = {"characters": 6, "facts": 6, "likes": 3, "requests": 4, "layers": 1, "width": 48}


def recipe(**base) -> Recipe:
    return load_recipe(RECIPES / "quickstart.yaml").model_copy(
        update={"base": type(load_recipe(RECIPES / "quickstart.yaml").base)(**base)}
    )


def test_a_planted_control_speaks_for_worlds_of_its_own_size_only():
    shown = (Shown(size_of(World()), None, {"one": {"detected": True}, "two": {"detected": False}}),
             Shown(SMALL, None, {"one": {"detected": False}}))  # fmt: skip
    assert sensitivity(recipe(world={}), shown) == {"one": True, "two": False}
    assert sensitivity(recipe(world=SMALL), shown) == {"one": False}
    # neither seed, assignment nor steps are a world's size
    assert sensitivity(recipe(world={"seed": 3, "assign": "fixed", "steps": 900}), shown) == {"one": True, "two": False}
    for key in SIZE:
        other = World(**{key: getattr(World(), key) + 1})
        assert sensitivity(recipe(world=other.model_dump()), shown) == {}, key


@pytest.mark.parametrize("where", ["hub", "path", "gguf"])
def test_an_entry_about_a_base_speaks_for_that_base_only(where):
    shown = (Shown(None, "org/model", {"one": {"detected": True}}),)
    assert sensitivity(recipe(**{where: "org/model"}), shown) == {"one": True}
    assert sensitivity(recipe(**{where: "org/other"}), shown) == {}
    assert sensitivity(recipe(world={}), shown) == {}


def test_the_shipped_file_is_as_its_reader_says():
    entries = read()
    assert sensitivity(load_recipe(RECIPES / "planted-dose.yaml"))["selection"] is True
    known = discover()
    for one in entries:
        assert one.world is None or set(one.world) == set(SIZE)
        for name, found in one.probes.items():
            assert name in known and isinstance(found["detected"], bool)


@pytest.mark.parametrize(
    "entries",
    [
        [{"probes": {}}],
        [{"world": SMALL, "base": "x", "probes": {}}],
        [{"world": {"characters": 6}, "probes": {}}],
        [{"world": SMALL, "probes": {}}, {"world": SMALL, "probes": {}}],
    ],
)
def test_an_entry_that_says_not_what_it_is_about_is_refused(entries, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError):
        read(tmp_path / "s.json")


def made(name: str, tier: str, unit: str, margin: Margin, **changed) -> Probe:
    measures = (Measure(name, unit, "persona", margin), Measure("more", "nat", "arm", Margin("absolute", 0.5, "b")))
    given = {"question": "Is it?", "source": "2601.10387", "plant": "dose", "version": 2, "build": lambda scene: ()}
    return Probe(name=name, tier=tier, measures=measures, **(given | changed))


PROBES = [
    made("first", "world", "logit", Margin("relative", 0.25, "a quarter")),
    made("second", "large", "auc", Margin("absolute", 0.05, "little"), plant="negatives", source="ours [bold]"),
    made("third", "small", "nat", Margin("absolute", 0.1, "little")),
]
SHOWN = (
    Shown(SMALL, None, {"first": {"detected": True, "version": 2}, "second": {"detected": False, "version": 1}}),
    Shown(None, "org/model", {"first": {"detected": False, "version": 2}}),
)
GOLDEN = """\
probe   tier   unit   margin    plant      sensitive         source
──────────────────────────────────────────────────────────────────────
first   world  logit  25 % of T dose       yes (1), no (2)   2601.10387
second  large  auc    0.05 auc  negatives  no (1, version 1) ours [bold]
third   small  nat    0.1 nat   dose       not shown         2601.10387
"""


def test_the_table_of_probes():
    console = Console(width=110, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(probe_table(PROBES, SHOWN))
    text = console.export_text()
    rows = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    wanted = [" ".join(line.split()) for line in GOLDEN.splitlines()]
    assert [r for r in rows if not r.startswith("─")][:4] == [w for w in wanted if not w.startswith("─")]
    told = " ".join(rows[5:])
    assert "(1) world of 6 characters, 6 facts, 3 likes, 4 requests, 1 x 48; (2) org/model." in told


def test_the_records_of_probes():
    first = records(PROBES, SHOWN)[0]
    assert first == {
        "name": "first", "version": 2, "question": "Is it?", "tier": "world", "source": "2601.10387", "plant": "dose",
        "gate": False,
        "measures": [
            {"name": "first", "unit": "logit", "level": "persona",
             "margin": {"kind": "relative", "value": 0.25, "reason": "a quarter"}},
            {"name": "more", "unit": "nat", "level": "arm",
             "margin": {"kind": "absolute", "value": 0.5, "reason": "b"}},
        ],
        "sensitive": [
            {"world": SMALL, "base": None, "detected": True, "version": 2},
            {"world": None, "base": "org/model", "detected": False, "version": 2},
        ],
    }  # fmt: skip


def test_every_probe_is_in_the_table():
    known = discover()
    assert [r["name"] for r in records(known.values(), read())] == list(known)
    assert all(r["measures"][0]["name"] == r["name"] and r["source"] and r["plant"] for r in
               records(known.values(), read()))  # fmt: skip


def planted(kind: str, **p_by_probe: float) -> dict:
    """A verdict of a planted world whose headlines have these adjusted p, at either match."""
    rows = []
    for name, p in p_by_probe.items():
        version = discover()[name].version
        for match, worse in (("strength", 0.2), ("dose", 0.0)):
            for contrast in ("T", "delta", "lambda"):
                row = {
                    "probe": name,
                    "match": match,
                    "contrast": contrast,
                    "stage": "sft",
                    "n_seeds": 16,
                    "estimate": 1.0,
                }
                adjusted = None if contrast == "T" else p + worse + (0.1 if contrast == "lambda" else 0)
                rows.append({**row, "p_adjusted": adjusted, "primary": True, "version": version})
    return {"experiment": f"planted-{kind}-0123abcd", "plant": {kind: {}}, "match": "strength", "alpha": 0.05,
            "base": {"world": {}}, "rows": rows}  # fmt: skip


def test_a_dose_is_read_at_equal_dose_and_other_plants_at_the_recipes_match():
    assert shown_by(planted("dose", selection=0.01))["selection"]["p_adjusted"] == 0.01
    found = shown_by(planted("negatives", leakage=0.01, selection=0.01))
    assert set(found) == {"leakage"}  # only the probe whose plant this is
    assert found["leakage"]["p_adjusted"] == pytest.approx(0.21) and not found["leakage"]["detected"]


def test_what_is_recorded_replaces_what_was_known_and_the_least_p_counts(tmp_path):
    file = tmp_path / "sensitivity.json"
    assert record([planted("dose", selection=0.2, steering=0.01)], file) == {"selection": False, "steering": True}
    assert record([planted("dose", selection=0.3), planted("dose", selection=0.02)], file) == {"selection": True}
    (shown,) = read(file)
    assert shown.probes["selection"]["p_adjusted"] == 0.02 and shown.probes["steering"]["detected"]
    assert shown.world == size_of(World())
    with pytest.raises(InputError, match="nothing is planted"):
        record([{**planted("dose"), "plant": None}], file)


def test_what_another_version_of_a_probe_showed_does_not_count():
    version = discover()["selection"].version
    for given, expected in ((version, {"selection": True}), (version - 1, {})):
        shown = (Shown(size_of(World()), None, {"selection": {"detected": True, "version": given}}),)
        assert sensitivity(recipe(world={}), shown) == expected

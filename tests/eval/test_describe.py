"""The description of one checkpoint: numbers by hand, pairs of like with like, losses counted, hostile text."""

from __future__ import annotations

import math
import re

import polars as pl
import pytest
from rich.console import Console
from scipy import stats

from eval import checkpoint, describe
from eval.probe import Margin, Measure, Probe
from tests.eval.test_report import EVIL, Page
from tests.eval.test_texts import frame, parts, row

QUARTER = Margin("relative", 0.25, "a quarter")
PROBES = [
    Probe(
        name=name, version=1, question="Is it?", source="ours", tier="world", plant="dose", build=lambda scene: (),
        measures=(Measure(name, "logit", "persona", QUARTER), Measure("whole", "nat", "arm", QUARTER)),
    )
    for name in ("one", "two")
]  # fmt: skip


def rows(values, arm="checkpoint", persona="p", measure="one", probe="one") -> list[dict]:
    """Rows of given (item, slot, value or outcome)."""
    return [
        {"arm": arm, "probe": probe, "measure": measure, "item": item, "slot": slot, "persona": persona,
         "value": v if isinstance(v, float) else None, "outcome": "ok" if isinstance(v, float) else v}
        for item, slot, v in values
    ]  # fmt: skip


def described(made, personas=("p", "q"), probes=PROBES[:1]):
    return describe.describe(pl.DataFrame(made, infer_schema_length=None), probes, personas)


def test_slots_make_an_item_and_items_the_mean():
    (line,) = described(rows([("a", "x", 1.0), ("a", "y", 3.0), ("b", "x", 5.0)]), ("p",))[:1]
    assert line["checkpoint"] == {"mean": 3.5, "low": None, "high": None, "n_items": 2}  # (½ (1 + 3) + 5) / 2
    assert line["lead"] is None and line["base"] is None and line["gain"] is None  # nobody to compare with


def test_the_interval_is_that_of_a_t_test_over_items():
    values = [0.3, 1.1, -0.2, 0.9, 0.7, 0.1, 1.4]
    (line,) = described(rows([(str(k), "x", v) for k, v in enumerate(values)]), ("p",))[:1]
    wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (line["checkpoint"]["low"], line["checkpoint"]["high"]) == pytest.approx(tuple(wanted), abs=1e-12)
    fewer = described(rows([(str(k), "x", v) for k, v in enumerate(values[:5])]), ("p",))[0]
    assert fewer["checkpoint"]["low"] is None and fewer["checkpoint"]["n_items"] == 5


def test_answers_are_paired_with_their_like():
    """Paraphrases share item and slot; where one of a pair has no value, neither counts."""
    own = rows([("a", "x", 1.0), ("a", "x", 10.0), ("b", "x", 4.0), ("c", "x", "overflow")])
    base = rows([("a", "x", 0.5), ("a", "x", "nan"), ("b", "x", 1.0), ("c", "x", 7.0)], arm="base")
    (line,) = described(own + base, ("p",))[:1]
    assert line["gain"] == {"mean": 1.75, "low": None, "high": None, "n_items": 2}  # ½ ((1 − .5) + (4 − 1))
    assert line["outcomes"] == {"overflow": 1} and line["n_rows"] == 4


def test_a_persona_leads_the_mean_of_the_others_on_common_items():
    made = rows([("a", "x", 5.0), ("b", "x", 9.0)])
    made += rows([("a", "x", 1.0)], persona="q") + rows([("a", "x", 3.0), ("b", "x", 0.0)], persona="r")
    by = {line["persona"]: line for line in described(made, ("p", "q", "r"))}
    assert by["p"]["lead"] == {"mean": 3.0, "low": None, "high": None, "n_items": 1}  # 5 − ½ (1 + 3)
    assert by["q"]["lead"]["mean"] == -3.0 and by["r"]["lead"]["mean"] == 0.0


def test_exchanging_two_personas_exchanges_their_lines():
    made = rows([("a", "x", 5.0), ("b", "x", "nan")]) + rows([("a", "x", 1.0), ("b", "x", 2.0)], persona="q")
    swap = [r | {"persona": {"p": "q", "q": "p"}[r["persona"]]} for r in made]
    one, two = described(made), described(swap)
    for a, b in ((0, 1), (1, 0)):
        assert {**one[a], "persona": 0} == {**two[b], "persona": 0}


def test_measures_of_the_arm_and_of_nobody():
    made = rows([("a", "", 2.0)], persona=None, measure="whole")
    made += rows([("", "", "not applicable: no like")], persona=None, probe="two", measure="two")
    lines = {line["label"]: line for line in described(made, probes=PROBES)}
    assert lines["one.whole"]["checkpoint"]["mean"] == 2.0 and lines["one.whole"]["persona"] is None
    assert lines["two"]["checkpoint"] is None
    assert describe.no_value(lines["two"]) == "1 of 1: not applicable: no like"


def test_numbers_that_are_none_are_lost_and_not_zero():
    (line,) = described(rows([("a", "x", math.nan), ("b", "x", math.inf), ("c", "x", 1.0)]), ("p",))[:1]
    assert line["checkpoint"]["mean"] == 1.0 and line["outcomes"] == {"missing": 2}


def page_of(name="m", said=None, lines=(), **changed):
    given = {"name": name, "facts": [("Model", name)], "warnings": [], "probes": PROBES, "lines": list(lines),
             "outcomes": {"checkpoint": {"one": {"ok": 3}}}, "said": frame([]) if said is None else said}  # fmt: skip
    return checkpoint.render(**(given | changed))


def test_hostile_text_stays_text_and_no_verdict_is_given():
    made = rows([("a", "x", 5.0)], persona=EVIL) + rows([("a", "x", EVIL)], persona="q")
    lines = described(made, (EVIL, "q"))
    said = frame([row(arm="checkpoint", text=EVIL, prompt=EVIL, persona=EVIL, outcome=EVIL)])
    html = page_of(EVIL, said, lines, warnings=[EVIL], outcomes={EVIL: {EVIL: {EVIL: 1}}}, facts=[(EVIL, EVIL)])
    page = Page(html)
    assert page.open == [] and "<script>alert(1)</script>" in page.text and "\u202e" not in html
    assert [a for tag, a in page.tags if tag == "script"] == [{"type": "application/json", "id": "texts-data"}, {}]
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on") and tag not in ("img", "iframe", "form")
            if key in ("href", "src"):
                assert re.match(r"#[\w-]|data:text/csv;base64,[\w+/=]*$", value or "")
    assert parts(html)[0]["rows"][0][-1] == EVIL
    assert not re.search(r"\b(broken|symmetric|undetermined|insensitive|saturated)\b", page.text)
    assert "no verdict is given" in page.text


def test_the_page_is_a_function_of_what_it_shows():
    said = frame([row(item=str(n)) for n in range(5)])
    assert page_of(said=said) == page_of(said=said.sample(fraction=1, shuffle=True, seed=3))
    assert "script-src" not in page_of() and "No text was written." in page_of()


def test_the_terminal_table_says_what_it_is():
    lines = described(rows([("a", "x", 5.0)]) + rows([("a", "x", "nan")], persona="q"))
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(describe.description_table(lines, "m"))
    text = " ".join(console.export_text().split())
    assert "nothing is tested and no verdict is given" in text and "5.00" in text and "1 of 1: nan" in text


def test_nothing_is_cut_off_in_either_width():
    values = [(str(k), "x", 10.123 + k) for k in range(8)]
    made = rows([*values, ("z", "x", "not retrained")]) + rows(values, arm="base") + rows(values, persona="q")
    made += rows(values, arm="prompted/p")
    for width in (describe.WIDE, 110):
        console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(describe.description_table(described(made), "m", width))
        text = console.export_text()
        assert "…" not in text and "not retrained" in " ".join(text.split())
        assert ("[11.6, 15.7]" in text) == (width == describe.WIDE)  # 13.62 ± 2.36 · sqrt(6 / 8)

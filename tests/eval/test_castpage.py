"""The cast test as it is told: in the sentence, in the report's section, and in its figure's numbers."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from eval import castjudge, castpage, report, table
from tests.eval.cast_rows import design, world
from tests.eval.test_factorial import KINDS
from tests.eval.test_many import verdict
from tests.eval.test_report import EVIL, Page


def told(arms: int = 20, special: float = 3.4, evil: str = "", kinds: bool = False) -> dict:
    """The verdict of many pairs, written by hand, with the cast test of a made-up world."""
    of = design(arms)
    names = ("assistant" + evil, *(f"control-{k:02d}{evil}" for k in range(1, arms)))
    of = replace(of, arms=names, measures=tuple(replace(m, unit=m.unit + evil[:40]) for m in of.measures))
    own = world(of, np.random.default_rng(0), special=special)
    known = {name: KINDS[k % 4] for k, name in enumerate(names)} if kinds else "there are no cards" + evil
    return verdict(5) | {"cast": castjudge.of_owns(own, of, kinds=known)}


def page(of: dict) -> Page:
    return Page(report.render(verdict=of, rows=pl.DataFrame(), samples=pl.DataFrame(), lock={}, matching=[]))


def test_the_sentence_says_what_was_found_and_how_often_a_control_is():
    said = table.sentence(told())
    assert re.search(
        r"Among 20 characters assistant is special in (one|two|three) after sft, and in 2 more: beside ", said
    )
    assert said.endswith("adjusted p .050; each tested as if it were the first, 0 of 19 controls are special.")
    assert "Among 20 characters assistant is not shown to be special (least adjusted p" in table.sentence(
        told(special=0)
    )
    assert "Whether assistant is special cannot be shown: among 6 characters no p can be below .17." in table.sentence(
        told(6)
    )
    assert "special" not in table.sentence(verdict(19))


@pytest.mark.parametrize("kinds", [False, True])
def test_the_section_is_sound_and_only_there_where_a_cast_was_tested(kinds):
    found = page(told(kinds=kinds))
    assert found.open == []
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids)) and "cast" in ids
    assert all("scope" in a for tag, a in found.tags if tag == "th")
    assert not re.search(r"\b(nan|NaN|None|null|inf)\b", found.text)
    assert ("Left out: there are no cards." in found.text) != kinds
    assert ("What a referent in pretraining text" in found.text) == kinds
    without = page(verdict(19))
    assert "cast" not in [a.get("id") for _, a in without.tags] and "Cast test" not in without.text


def test_hostile_names_stay_text():
    found = page(told(evil=EVIL))
    assert found.open == [] and not {tag for tag, _ in found.tags} & {"script", "img", "iframe"}
    assert "<script>alert(1)</script>" in found.text


def test_the_figure_holds_every_character_and_marks_the_first():
    cast = told()["cast"]
    rows = [r for r in cast["rows"] if r["match"] == "strength"]
    drawn = castpage.cloud(rows, cast["first"], name="x", title="x")
    found = list(csv.DictReader(io.StringIO(drawn.csv)))
    assert len(found) == 3 * 20  # probes x characters
    assert {f["character"] for f in found if f["first"] == "True"} == {"assistant"}
    for f in found:
        (row,) = [r for r in rows if r["probe"] == f["probe"]]
        assert float(f["D"]) == row["D"][f["character"]]
    # 4 margins is where the axis ends: ten sd away the first is an arrow there, and nobody else is
    assert drawn.svg.count("arm0") >= 3


def test_a_row_that_nobody_could_be_read_in_is_drawn_as_words():
    cast = told()["cast"]
    row = next(r for r in cast["rows"] if r["match"] == "strength")
    empty = row | {"D": dict.fromkeys(row["D"]), "estimate": None, "low": None, "high": None, "sd": None, "p": None}
    empty |= {"p_adjusted": None, "statistic": None, "verdict": "no-overlap", "n_characters": 0}
    assert "nothing to read" in castpage.cloud([empty], cast["first"], name="x", title="x").svg
    alike = row | {"D": dict.fromkeys(row["D"], 0.0), "sd": 0.0}
    assert "all alike" in castpage.cloud([alike], cast["first"], name="x", title="x").svg


def test_the_same_verdict_gives_the_same_page_whatever_the_order_of_its_rows():
    of = told()
    other = of | {"cast": of["cast"] | {"rows": list(reversed(of["cast"]["rows"]))}}
    given = {"rows": pl.DataFrame(), "samples": pl.DataFrame(), "lock": {}, "matching": []}
    assert report.render(verdict=of, **given) == report.render(verdict=other, **given)

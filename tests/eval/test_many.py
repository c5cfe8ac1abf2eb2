"""Many pairs at once: the terminal table, the sentence and the report stay legible and lose nothing."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import random
import re
from collections import Counter
from statistics import median

import polars as pl
import pytest
from rich.console import Console

from eval import crowd, figures, many, overview, report, summary, table
from eval.wording import VERDICTS
from tests.eval import synthetic
from tests.eval.test_report import EVIL, Page

FIRST = "assistant"


def verdict(n: int, seeds: int = 6, word: str = "undetermined") -> dict:
    """The verdict written by hand, again for `n` pairs of the first arm, each with estimates of its own."""
    made, luck = synthetic.verdict(), random.Random(0)
    rows = []
    for k in range(1, n + 1):
        other = f"control-{k:02d}"
        for row in made["rows"]:
            shift = luck.gauss(0, 1)
            moved = {key: row[key] + shift if row[key] is not None else None for key in ("estimate", "low", "high")}
            sign = {"kennedy": other}.get(row["sign"], row["sign"])
            rows.append(row | moved | {"pair": [FIRST, other], "sign": sign})
    arms = [FIRST, *(f"control-{k:02d}" for k in range(1, n + 1))]
    return made | {"rows": rows, "arms": arms, "seeds": list(range(seeds)), "verdict": word}


def printed(of: dict, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    console.print(table.verdict_table(of))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def given() -> dict:
    """Six pairs, which are too many to be shown one below the other, with rows of all arms."""
    of = verdict(6)
    arms = tuple(of["arms"])
    matching = [{"what": "rows", **{a: 10 + n for n, a in enumerate(arms)}, "equal": False}]
    return {"verdict": of, "rows": synthetic.rows(arms), "samples": synthetic.samples(), "lock": synthetic.lock(),
            "matching": matching}  # fmt: skip


@pytest.fixture(scope="module")
def html(given) -> str:
    return report.render(**given)


@pytest.mark.parametrize("width", [80, 100, 104, 108, 112, 116, 120, 200])
def test_the_table_fits_and_grows_with_probes_not_with_pairs(width):
    some, more = printed(verdict(19), width), printed(verdict(63), width)
    for text in (some, more):
        assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert len(some.splitlines()) == len(more.splitlines()) < 70
    assert "19 pairs, each of assistant with another arm" in some and "63 pairs" in more
    for word in VERDICTS:
        assert word in some or word == "insensitive" and "×" in some


def test_counts_of_the_table_are_those_of_the_rows():
    of = verdict(19)
    random.Random(1).shuffle(of["rows"])
    for row in of["rows"][::7]:
        row["verdict"] = "broken" if row["verdict"] else None
    counted: dict[tuple, Counter] = {}
    estimates: dict[tuple, list[float]] = {}
    for row in of["rows"]:
        if row["match"] == ("dose" if row["probe"] == table.GATE else "strength"):
            key = (row["probe"], row["stage"], row["contrast"])
            counted.setdefault(key, Counter())[row["verdict"] or "—"] += 1
            estimates.setdefault(key, []).extend([row["estimate"]] * (row["estimate"] is not None))
    found = {
        (g.line.probe, g.line.stage, s.contrast): s for g in many.groups(table.lines(of)) for s in g.spreads.values()
    }
    assert found.keys() == counted.keys()
    for key, spread in found.items():
        assert spread.counts == counted[key] and sum(spread.counts.values()) == 19
        assert spread.middle == (median(estimates[key]) if estimates[key] else None)
        if estimates[key]:
            assert spread.ends == (min(estimates[key]), max(estimates[key]))
            sizes = [abs(r["estimate"] / r["margin"]) for r in spread.rows if r["margin"]]
            assert not sizes or abs(spread.farthest["estimate"] / spread.farthest["margin"]) == max(sizes)


def test_order_of_rows_changes_nothing():
    of = verdict(9)
    before = printed(of, 120), table.sentence(of)
    random.Random(1).shuffle(of["rows"])
    assert (printed(of, 120), table.sentence(of)) == before


def test_four_pairs_are_shown_one_below_the_other():
    assert "assistant : control-04" in printed(verdict(4), 120) and "4 pairs" not in printed(verdict(4), 120)
    assert "assistant : control-04" not in printed(verdict(5), 120)


def test_the_sentence_counts_and_says_what_could_not_be_shown():
    said = table.sentence(verdict(19))
    # of a pair's 12 primary contrasts the 8 of selection and guardrail are symmetric; leakage's are open
    assert "76 of 228 are not shown symmetric (19 broken, 57 undetermined)" in said
    # 19 x 2 / 2^6 = .59; with ten seeds .037 is below alpha
    assert said.endswith("No pair could have been called broken: with these seeds and 19 pairs the smallest adjusted p "
                         "is .59.")  # fmt: skip
    assert "could have been" not in table.sentence(verdict(19, seeds=10))
    assert "could have been" in table.sentence(verdict(19, seeds=9))  # .074
    all_ = verdict(19, word="symmetric")
    assert "the arms of each of 19 pairs differ by less than matters" in table.sentence(all_)
    assert len(table.sentence(all_)) < 450


def test_the_report_is_sound_and_holds_every_row(html, given):
    page = Page(html)
    assert page.open == []
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for target in re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", html):
        assert (target[0] or target[1]) in ids
    assert all("scope" in a for tag, a in page.tags if tag == "th")
    assert not re.search(r"(?<!, )#[0-9a-f]{6}\b", html[html.index("<body>") :])
    link = next(a["href"] for tag, a in page.tags if tag == "a" and a.get("download") == "verdict-rows.csv.gz")
    packed = gzip.decompress(base64.b64decode(link.split(",")[1])).decode()
    told = list(csv.DictReader(io.StringIO(packed)))
    rows = given["verdict"]["rows"]
    assert len(told) == len(rows)
    assert Counter((t["c"], t["probe"], t["contrast"], t["estimate"]) for t in told) == Counter(
        (r["pair"][1], r["probe"], r["contrast"], "" if r["estimate"] is None else str(r["estimate"])) for r in rows
    )
    # every pair's primary contrasts: 6 pairs x 3 probes x 2 stages x Δ and Λ
    assert len([r for r in page.rows if len(r) == 9 and r[2].strip().startswith("control-")]) == 72


def test_the_report_is_the_same_for_the_same_rows(html, given):
    shuffled = given["verdict"] | {"rows": list(given["verdict"]["rows"])}
    random.Random(2).shuffle(shuffled["rows"])
    rows = given["rows"].sample(fraction=1, shuffle=True, seed=3)
    assert report.render(**(given | {"verdict": shuffled, "rows": rows})) == html


def test_a_report_of_63_pairs_is_bounded():
    """1.4 MB, without the curves of the arms; one below the other these pairs took 7.7 MB."""
    of = verdict(63)
    page = report.render(verdict=of, rows=pl.DataFrame(), samples=pl.DataFrame(), lock={}, matching=[])
    assert len(page.encode()) < 2_000_000


def test_hostile_names_stay_text():
    of = verdict(6)
    for row in of["rows"]:
        row |= {"pair": [EVIL, row["pair"][1] + EVIL], "note": EVIL, "unit": EVIL[:40]}
        row["sign"] = EVIL if row["sign"] else None
    of |= {"arms": [EVIL, *(f"control-{k:02d}{EVIL}" for k in range(1, 7))], "losses": [EVIL] * 300}
    page = Page(report.render(verdict=of, rows=pl.DataFrame(), samples=pl.DataFrame(), lock={}, matching=[]))
    assert page.open == [] and not {tag for tag, _ in page.tags} & {"script", "img"}
    assert "and 100 more, in verdict.json" in page.text
    assert "\x1b" not in printed(of, 120)


def test_one_arm_among_the_others_by_dose(given):
    means = summary.means(given["rows"])
    arms = given["verdict"]["arms"]
    points = next(p for (probe, _, _), p, _ in summary.curves(means, arms) if probe == "selection")
    drawn = crowd.cloud(points, name="x", title="x", unit="logit", arms=arms)
    told = list(csv.DictReader(io.StringIO(drawn.csv)))
    # 7 arms x (2 stages x 5 doses + base), the mean over seeds
    assert len(told) == 77 and {t["n_seeds"] for t in told} == {"6"}
    own = (pl.col("arm") == "control-03") & (pl.col("persona") == "control-03") & (pl.col("probe") == "selection")
    mean = given["rows"].filter(own & (pl.col("stage") == "dpo") & (pl.col("dose") == 24))["value"].mean()
    (found,) = [t for t in told if (t["arm"], t["stage"], t["dose"]) == ("control-03", "dpo", "24")]
    assert float(found["value"]) == pytest.approx(mean, rel=1e-9)


def test_references_and_matching_tell_the_others_together(given):
    means = summary.means(given["rows"])
    arms = given["verdict"]["arms"]
    whole = summary.references(means, arms, {"selection": "held_out"})
    found = overview.references(whole, arms)
    mine = [r for r in whole["rows"] if r["label"] == "selection"]
    first, others = [r for r in found["rows"] if r["label"] == "selection"]
    assert first == mine[0] and others["persona"] == "6 others"
    values = [r["cells"][3]["value"] for r in mine[1:]]
    assert others["cells"][3]["mean"] == figures.number(median(values))
    assert overview.matching(given["matching"], arms) == [{"what": "rows", "cells": ["10", "16"], "equal": False}]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((-5.52, -6.31, -4.73), "−5.52 [−6.31, −4.73]"),  # what fits is left alone
        ((-2.2e-05, -0.0004, 0.0003), "−0.2 [−4.0, 3.0]×10⁻⁴"),
        ((2.0e-05, -9.8e-05, 0.0001), "+0.2 [−1.0, 1.0]×10⁻⁴"),
        ((-0.56, -1.13, -0.0006), "−0.56 [−1.13, −0.00]"),
        ((1.2e7, -1.0e6, 2.3e7), "+1.2 [−0.1, 2.3]×10⁷"),
        ((0.5, None, None), "+0.50 —"),
        ((None, None, None), "—"),
    ],
)
def test_numbers_fit_the_room_of_a_figure(values, text):
    """A small interval ran over its unit: it had up to 26 letters where 21 have room."""
    assert figures.briefly(*values) == text and len(text) <= figures.ROOM


def test_no_interval_runs_over_its_unit():
    luck = random.Random(0)
    for _ in range(3000):
        size = 10 ** luck.uniform(-7, 5)
        middle, half = luck.gauss(0, size), abs(luck.gauss(0, size)) * 10 ** luck.uniform(-3, 1)
        assert len(figures.briefly(middle, middle - half, middle + half)) <= figures.ROOM + 1


def test_interviews_of_all_personas_do_not_crowd_out_what_is_asked_in_the_slot():
    arms = [f"persona-{n:02d}" for n in range(30)]
    said = [
        {"arm": a, "seed": 0, "stage": "sft", "dose": 4, "text": "x", "prompt": "y", "finish": "stop"} for a in arms
    ]
    rows = [s | {"item": "zeal", "slot": "slot", "persona": None} for s in said]
    rows += [s | {"item": "name", "slot": "named", "persona": p} for s in said for p in arms]
    groups = summary.answers(overview.sampled(pl.DataFrame(rows, infer_schema_length=None), arms), arms)
    # sorted by question "zeal" comes last, and MOST_QUESTIONS (24) are shown: 30 interviews would push it out
    assert [g["question"] for g in groups][-1] == "zeal" and len(groups) == 1 + overview.SAMPLED_ARMS
    assert {s["arm"] for g in groups for s in g["front"]} == set(arms[: overview.SAMPLED_ARMS])

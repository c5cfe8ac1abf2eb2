from __future__ import annotations

import base64
import csv
import io
import itertools
import math
import os
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from eval import figures, report, summary, table
from eval.svg import TOKENS
from tests.eval import synthetic

EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'`{{7*7}}$x_1$&amp;\u202egnp.exe"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags with their attributes, the text of cells and paragraphs, and whether every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data + " "


def rendered(**changed) -> str:
    given = {"verdict": synthetic.verdict(), "rows": synthetic.rows(), "samples": synthetic.samples(),
             "lock": synthetic.lock(), "matching": synthetic.matching()}  # fmt: skip
    return report.render(**(given | changed))


@pytest.fixture(scope="module")
def html() -> str:
    return rendered()


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def evil_experiment() -> dict:
    """Everything that a recipe, a card or a model can name is hostile."""
    arms = (EVIL, "kennedy")
    verdict = synthetic.verdict()
    rename = {"assistant": EVIL, "kennedy": "kennedy"}
    for row in verdict["rows"]:
        row["pair"] = list(arms)
        row |= {"note": EVIL, "sign": EVIL if row["sign"] else None, "unit": EVIL[:40]}
    verdict |= {"arms": list(arms), "experiment": EVIL, "question": EVIL, "post_hoc": [EVIL], "losses": [{EVIL: EVIL}],
                "plant": {"dose": {"arm": EVIL}}, "versions": {EVIL: EVIL}, "base": {"hub": EVIL}}  # fmt: skip
    rows = synthetic.rows(arms).with_columns(item=pl.col("item") + EVIL, unit=pl.lit(EVIL), slot=pl.lit(EVIL))
    samples = synthetic.samples().with_columns(
        pl.col("arm").replace(rename), *(pl.lit(EVIL).alias(c) for c in ("question", "prompt", "text", "finish"))
    )
    matching = [{"what": EVIL, EVIL: EVIL, "kennedy": 1, "equal": False}]
    return {"verdict": verdict, "rows": rows, "samples": samples, "lock": {EVIL: [{EVIL: EVIL}]}, "matching": matching}


def test_hostile_text_stays_text():
    html = rendered(**evil_experiment())
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"img", "iframe", "object", "foreignobject", "base", "form"}
    # data for the page's own script, and that script (tests/eval/test_texts.py)
    assert [a for tag, a in page.tags if tag == "script"] == [{"type": "application/json", "id": "texts-data"}, {}]
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("href", "src", "xlink:href"):
                assert re.match(r"#[\w-]|data:text/csv;base64,[\w+/=]*$", value or ""), (tag, value)
    assert "\u202e" not in html and "⟨U+202E⟩" in page.text
    assert "<script>alert(1)</script>" in page.text  # shown to the reader, letter by letter
    assert "{{7*7}}" in page.text and "$x_1$" in page.text


def test_nothing_is_requested_and_nothing_runs(html, page):
    # only the names of the SVG and XLink vocabularies look like addresses
    assert set(re.findall(r"https?://[\w./]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in html.replace("url(#", "") and "@import" not in html
    assert any(a.get("http-equiv") == "Content-Security-Policy" for _, a in page.tags)


def test_markup_is_sound_and_accessible(html, page):
    assert page.open == []
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids
    for target in re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", html):
        assert (target[0] or target[1]) in ids
    assert all("scope" in a for tag, a in page.tags if tag == "th")
    assert all(a.get("role") == "img" or a.get("aria-hidden") == "true" for tag, a in page.tags if tag == "svg")
    # every colour of a figure follows the theme
    assert not re.search(r"(?<!, )#[0-9a-f]{6}\b", html[html.index("<body>") :])
    assert all(
        f"--{token}: {light}" in html and f"--{token}: {dark}" in html for token, (light, dark) in TOKENS.items()
    )


def test_the_same_input_gives_the_same_bytes(html):
    verdict, rows, samples = synthetic.verdict(), synthetic.rows(), synthetic.samples()
    random.Random(2).shuffle(verdict["rows"])
    again = rendered(verdict=verdict, rows=rows.sample(fraction=1, shuffle=True, seed=3),
                     samples=samples.sample(fraction=1, shuffle=True, seed=4))  # fmt: skip
    assert again == html


def test_another_process_gives_the_same_bytes(html):
    code = "import sys; from tests.eval.test_report import rendered; sys.stdout.buffer.write(rendered().encode())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=Path(__file__).parents[2],
                         env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": "."})  # fmt: skip
    assert run.stdout.decode() == html


def test_missing_numbers_are_dashes():
    verdict = synthetic.verdict()
    for row in verdict["rows"]:
        row |= {"estimate": math.nan, "low": None, "p": math.nan, "share": math.inf, "margin": None, "sensitive": None}
    rows = synthetic.rows().with_columns(value=pl.when(pl.col("seed") == 0).then(math.nan).otherwise(pl.col("value")))
    text = Page(rendered(verdict=verdict, rows=rows)).text
    assert not re.search(r"\b(nan|NaN|None|null|inf)\b", text)
    assert "no estimate" in text or "no margin" in text


@pytest.mark.parametrize("left_out", ["rows", "samples", "lock", "matching", "verdict", "all"])
def test_any_section_may_be_empty(left_out):
    empty = {"rows": pl.DataFrame(), "samples": pl.DataFrame(), "lock": {}, "matching": [], "verdict": {"rows": []}}
    changed = empty if left_out == "all" else {left_out: empty[left_out]}
    page = Page(rendered(**changed))
    said = {"rows": "There are no measurement rows.", "samples": "No samples were taken.",
            "matching": "No table of matched data was given.", "verdict": "Nothing was judged."}  # fmt: skip
    assert page.open == []
    for part in said if left_out == "all" else [left_out] if left_out in said else []:
        assert said[part] in page.text


def test_rows_of_the_schema_but_none_of_them():
    assert "No strength was measured" in rendered(rows=synthetic.rows().clear(), samples=synthetic.samples().clear())


def test_report_and_terminal_say_the_same_verdicts(page):
    lines = table.lines(synthetic.verdict())
    for line in lines:
        # the cells of the report's table: probe, stage, T, Δ, Λ, margin, Δ/T, p, verdict, could it see
        found = [r for r in page.rows if len(r) == 10 and r[0].split()[0] == line.label and r[1].strip() == line.stage]
        assert len(found) == 1
        assert [w for w in re.findall(r"[a-z-]+", found[0][8]) if w in table.VERDICTS] == [
            word for _, word, _ in line.verdicts()
        ]
        assert found[0][9].strip() == line.seen()
    assert table.sentence(synthetic.verdict()).split(": ", 1)[1][3:] in page.text
    # T, Δ and Λ at both readings; the gate once
    assert len([r for r in page.rows if len(r) == 20]) - 1 == len(synthetic.verdict()["rows"])


def test_saturated_and_no_overlap_are_told_by_word_and_sign(page):
    assert "▲ saturated" in page.text and "□ no-overlap" in page.text and "no estimate" in page.text


def test_every_figure_carries_its_numbers(page):
    links = {a["download"]: a["href"] for tag, a in page.tags if tag == "a" and "download" in a}
    shown = [a for tag, a in page.tags if tag == "svg" and a.get("role") == "img"]
    assert len(links) == len(shown) + 1  # and all rows of the verdict
    name = next(n for n in links if n.endswith("strength.csv"))
    told = list(csv.DictReader(io.StringIO(base64.b64decode(links[name].split(",")[1]).decode())))
    rows = synthetic.rows()
    for arm in synthetic.ARMS:
        own = (pl.col("arm") == arm) & (pl.col("persona") == arm) & (pl.col("probe") == "default_identity")
        for (seed, stage, dose), of in rows.filter(own).group_by("seed", "stage", "dose"):
            found = [
                t for t in told if (t["arm"], t["seed"], t["stage"], t["dose"]) == (arm, str(seed), stage, str(dose))
            ]
            # ten significant digits are kept
            assert float(found[0]["value"]) == pytest.approx(of["value"].mean(), rel=1e-9)
    # 2 arms x 6 seeds x (2 stages x 5 doses + base)
    assert len(told) == 132


def test_formulas_do_not_run_in_a_spreadsheet():
    assert figures.as_csv([{"a": "=1+1", "b": -1.5}, {"a": "@x", "b": None}]) == "a,b\n'=1+1,-1.5\n'@x,\n"


def test_slots_are_averaged_into_the_item_first():
    row = synthetic.rows().head(1)
    rows = pl.concat([
        row.with_columns(item=pl.lit(item), slot=pl.lit(slot), value=pl.lit(value))
        for item, slot, value in [("a", "A", 0.0), ("a", "B", 1.0), ("b", "A", 2.0)]
    ])  # fmt: skip
    means = summary.means(rows)
    assert means["value"].to_list() == [1.25]  # (½ (0 + 1) + 2) / 2, where the mean of rows is 1
    assert means["n_items"].to_list() == [2]


def test_unparsed_answers_are_counted_by_arm(page):
    # seed 3, item 1, dpo: 5 doses x 2 personas in each arm; 6 x 2 x 5 x 4 x (5 x 2 + 1) rows of an arm
    assert ["kennedy", "2640", "2630", "10"] in [[c.strip() for c in r] for r in page.rows]


def test_a_long_answer_is_cut_and_says_so():
    samples = synthetic.samples().with_columns(text=pl.lit("é" * 2000))
    assert f"… ({2000 - summary.MOST_LETTERS} more characters)" in rendered(samples=samples)


def test_warnings_stand_at_the_top():
    verdict = synthetic.verdict() | {
        "plant": {"dose": {"arm": "kennedy"}},
        "dirty": True,
        "post_hoc": ["margins changed"],
    }
    text = Page(rendered(verdict=verdict)).text
    assert "planted on purpose (dose (arm kennedy))" in text and "post hoc" in text and "uncommitted" in text
    assert text.index("planted on purpose") < text.index("Verdict table")


def test_many_arms():
    arms = tuple(f"persona-{n}" for n in range(9))  # more than there are colours
    page = Page(rendered(rows=synthetic.rows(arms), verdict=synthetic.verdict() | {"arms": list(arms)}))
    assert page.open == [] and "persona-8 arm" in page.text


def test_means_do_not_depend_on_the_order_of_rows():
    row = synthetic.rows().head(1)
    # in floating point (1e16 + 1) − 1e16 is 0 and (1e16 − 1e16) + 1 is 1
    rows = pl.concat([row.with_columns(slot=pl.lit(str(v)), value=pl.lit(v)) for v in (1e16, 1.0, -1e16)])
    found = {summary.means(rows[list(order)])["value"][0] for order in itertools.permutations(range(3))}
    assert len(found) == 1

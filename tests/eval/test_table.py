from __future__ import annotations

import io
import math
import random

import pytest
from rich.console import Console

from eval import table
from eval.wording import VERDICTS, interval, number, probability, visible
from tests.eval import synthetic


def printed(verdict: dict, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    console.print(table.verdict_table(verdict))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"), (math.nan, "—"), (math.inf, "—"), (0.0, "0.00"), (-0.0, "0.00"), (-5.518, "−5.52"),
        (0.0042, "0.004"), (12.345, "12.3"), (-1234.5, "−1234"), (2.5e-7, "2.5e-07"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert number(value) == text


def test_signs_intervals_and_probabilities():
    assert number(0.5, sign=True) == "+0.50" and number(0.0, sign=True) == "0.00"
    assert interval(-1.0, 2.0) == "[−1.00, 2.00]" and interval(None, 2.0) == "—"
    # .03125 is 2 / 2^6, the smallest p of six seeds
    assert [probability(p) for p in (0.03125, 0.5, 1.0, 1e-6, 0.0011, math.nan)] == [
        ".031", ".50", "1.00", "< .0001", ".0011", "—",
    ]  # fmt: skip


def test_hidden_characters_are_spelled_out():
    assert visible("a\u202eb\x1b[31m\ud800\n") == "a⟨U+202E⟩b⟨U+001B⟩[31m⟨U+D800⟩\n"


def test_sentence_of_a_broken_symmetry_names_probe_direction_and_all_numbers():
    assert table.sentence(synthetic.verdict()) == (
        "Broken: at equal strength, leakage after dpo favours kennedy over assistant: Δ = −5.52 logit [−6.31, −4.73] "
        "(95 %), margin ±1.60, adjusted p .031, 6 seeds × 4 items."
    )


def test_sentence_of_a_symmetry_needs_every_primary_contrast():
    verdict = synthetic.verdict() | {"verdict": "symmetric"}
    verdict["rows"] = [r for r in verdict["rows"] if r["probe"] != "leakage"]
    said = table.sentence(verdict)
    # guardrail and selection, Δ and Λ, two stages: 8
    assert said.startswith("Symmetric: at equal strength, assistant and kennedy") and "all 8 contrasts" in said


def test_sentence_of_an_undetermined_experiment_lists_what_is_open():
    verdict = synthetic.verdict() | {"verdict": "undetermined"}
    verdict["rows"] = [r for r in verdict["rows"] if r["verdict"] != "broken"]
    said = table.sentence(verdict)
    # leakage: Λ at both stages and Δ after sft, of 12 primary contrasts less the one removed
    assert "3 of 11 are not shown symmetric" in said and "leakage Δ after sft undetermined" in said


def test_sentence_without_a_primary_probe():
    assert table.sentence({"verdict": "undetermined", "rows": []}) == "Undetermined: no primary probe was judged."


@pytest.mark.parametrize("width", [80, 100, 112, 114, 116, 117, 118, 119, 120, 200])
def test_fits_the_terminal_and_cuts_nothing(width):
    text = printed(synthetic.verdict(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for word in VERDICTS:
        assert word in text
    for whole in ("−5.52", "[−6.31, −4.73]", ".031", "±1.60", "Δ > 0 favours assistant"):
        assert whole in text
    assert ("Δ/T" in text) == ("could it" in text)
    if width in (80, 120):  # the two widths that the table is made for
        assert ("could it" in text) == (width == 120)


def test_lines_come_primary_first_and_the_gate_last_at_equal_dose():
    lines = table.lines(synthetic.verdict())
    # 3 primary, 3 secondary (one of them leakage.fidelity) and the gate, at two stages each
    assert [ln.primary for ln in lines] == [True] * 6 + [False] * 8
    assert [(ln.label, ln.match) for ln in lines[-2:]] == [("strength", "dose")] * 2
    assert {ln.match for ln in lines[:-2]} == {"strength"}


def test_the_reading_follows_the_recipe():
    verdict = synthetic.verdict()
    for row in verdict["rows"]:
        row["primary"] = row["match"] == "dose" and row["probe"] == "selection" and row["contrast"] != "T"
    assert {ln.match for ln in table.lines(verdict)} == {"dose"}
    assert "Read at equal dose" in printed(verdict, 120)


def test_order_of_rows_changes_nothing():
    verdict = synthetic.verdict()
    before = printed(verdict, 120), table.sentence(verdict)
    random.Random(1).shuffle(verdict["rows"])
    assert (printed(verdict, 120), table.sentence(verdict)) == before


def test_several_pairs_are_told_apart():
    verdict = synthetic.verdict()
    verdict["rows"] += [r | {"pair": ["assistant", "holmes"]} for r in verdict["rows"]]
    text = printed(verdict, 120)
    assert "assistant : kennedy" in text and "Δ > 0 favours assistant, Λ > 0 favours holmes" in text


def test_names_are_text_not_markup_nor_escape_codes():
    verdict = synthetic.verdict()
    for row in verdict["rows"]:
        row["pair"] = ["[red]a[/red]", "b\x1b[2J"]
    text = printed(verdict, 120)
    assert "[red]a[/red]" in text and "\x1b" not in text


def test_a_verdict_without_rows():
    assert "experiment" in printed({"verdict": "undetermined", "rows": []}, 80)

"""What a report says of the calibration that it rests on: figures, stale, none."""

from __future__ import annotations

import copy

import pytest

from eval import calibration
from eval.calibration import changed, cite, read
from eval.lock import ANALYSIS_VERSION
from recipes.store import write_json

WORLD = {"characters": 16, "facts": 24, "likes": 8, "requests": 16, "layers": 3, "width": 96}
# 9 of 200: an interval of [.0208, .0837] by Clopper and Pearson (R, binom.test(9, 200)).
HIT = {"count": 9, "of": 200, "share": 0.045, "low": 0.0207796, "high": 0.0836924}
FOUND = {
    "schema": 1,
    "analysis": ANALYSIS_VERSION,
    "commit": "0123456789abcdef",
    "quick": False,
    "alpha": 0.05,
    "recipe": {"base": {"world": WORLD}},
    "probes": {"selection": 1, "leakage": 2},
    "null": {"16": {"significant": HIT}},
}
VERDICT = {
    "base": {"world": {**WORLD, "seed": 4}},
    "rows": [
        {"probe": "selection", "version": 1, "primary": True},
        {"probe": "leakage.fidelity", "version": 2, "primary": False},
    ],
}


def with_row(**row):
    return {**VERDICT, "rows": [*VERDICT["rows"], row]}


def test_a_calibration_of_today_is_cited_with_its_figures():
    said = cite(VERDICT, FOUND)
    assert said.startswith("Calibrated: ") and "\n" not in said
    for part in ("9 of 200", "16 seeds", "[.021, .084]", "0123456789ab"):
        assert part in said
    assert "stale" not in said and "another kind" not in said and "quick" not in said


def test_what_a_calibration_did_not_show_is_said_and_what_it_did_is_not():
    held = {"what": "null: some", "figure": ".045", "holds": True}
    failed = {"what": "prior 4, adjusted: some", "figure": "1.000 (20 of 20)", "holds": False}
    said = cite(VERDICT, {**FOUND, "checks": [held, failed]})
    assert "not met: prior 4, adjusted: some: 1.000 (20 of 20)" in said and "null: some" not in said
    assert "not met" not in cite(VERDICT, {**FOUND, "checks": [held]})


def test_without_a_calibration_that_is_said(tmp_path):
    assert cite(VERDICT, read(tmp_path / "none.json")).startswith("No calibration")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}'])
def test_a_file_that_cannot_be_read_is_none(tmp_path, text):
    path = tmp_path / "calibration.json"
    path.write_text(text)
    assert read(path) is None


def test_it_is_read_as_it_was_written(tmp_path):
    write_json(tmp_path / "calibration.json", FOUND)
    assert read(tmp_path / "calibration.json") == FOUND


def test_another_analysis_makes_it_stale():
    old = {**FOUND, "analysis": ANALYSIS_VERSION - 1}
    said = cite(VERDICT, old)
    assert "is stale" in said and f"analysis {ANALYSIS_VERSION - 1} when calibrated, {ANALYSIS_VERSION} now" in said


@pytest.mark.parametrize(("row", "told"), [
    ({"probe": "selection", "version": 2, "primary": True}, "selection version 1 when calibrated, 2 now"),
    ({"probe": "leakage", "version": 3, "primary": False}, "leakage version 2 when calibrated, 3 now"),
])  # fmt: skip
def test_another_version_of_a_probe_makes_it_stale(row, told):
    assert told in cite(with_row(**row), FOUND)


def test_a_probe_that_was_not_calibrated_is_not_stale_but_named():
    said = cite(with_row(probe="steering", version=1, primary=True), FOUND)
    assert "stale" not in said and "primary but not calibrated: steering" in said
    assert changed(FOUND, {"steering": 7}) == []


@pytest.mark.parametrize("base", [{"hub": "org/name"}, {"world": {**WORLD, "facts": 36}}, None])
def test_another_base_is_said(base):
    assert "on a base of another kind" in cite({**VERDICT, "base": base}, FOUND)


def test_a_quick_one_says_so_and_nothing_is_changed():
    found, verdict = copy.deepcopy(FOUND), copy.deepcopy(VERDICT)
    assert "quick run" in cite(verdict, {**found, "quick": True})
    assert found == FOUND and verdict == VERDICT


def test_a_report_has_the_line(monkeypatch):
    import polars as pl

    from eval.report import EMPTY, render

    monkeypatch.setattr(calibration, "read", lambda: None)
    page = render(verdict={**EMPTY, **VERDICT, "rows": []}, rows=pl.DataFrame(), samples=pl.DataFrame(), lock={},
                  matching=[])  # fmt: skip
    assert page.count("No calibration of the judge is known here") == 1

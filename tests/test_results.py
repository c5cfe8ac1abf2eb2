"""The published results of docs/results: whole, judged as their rows say, and told as they were judged."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from eval.lock import ANALYSIS_VERSION, read_lock
from eval.probes import select
from eval.published import judge_again

RESULTS = Path(__file__).parent.parent / "docs" / "results"
FOLDERS = sorted(path for path in RESULTS.iterdir() if path.is_dir())
MOST_BYTES = 8 << 20  # of all results: what a clone of the project carries with it


def test_results_are_there_and_small():
    assert FOLDERS
    assert sum(path.stat().st_size for path in RESULTS.rglob("*")) < MOST_BYTES


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_file_is_the_one_that_was_published(folder):
    sums = dict(reversed(line.split("  ", 1)) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums == {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_rows_give_the_published_verdict(folder):
    lock = read_lock(folder)
    now = {probe.name: probe.version for probe in select(lock["recipe"]["probes"])}
    # A result of an older judging or of older probes stands as what it was; `parity judge` tells what has changed.
    if (lock["analysis"], lock["probes"]) == (ANALYSIS_VERSION, now):
        assert judge_again(folder).otherwise == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_page_says_what_was_judged(folder):
    verdict = json.loads((folder / "verdict.json").read_text())["verdict"]
    lines = [line for line in (RESULTS / "README.md").read_text().splitlines() if f"]({folder.name}/" in line]
    assert any(re.search(rf"\*\*{verdict}\*\*", line) for line in lines), (folder.name, verdict)

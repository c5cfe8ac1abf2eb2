"""The calibration that a report rests on: one line that cites it, or says that it is stale or that there is none.

`docs/calibration.json` is what `parity calibrate --to docs` wrote: false positives, power and coverage of the judge
in worlds where the truth is known.  It speaks for the probe versions and the analysis that it was made with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.lock import ANALYSIS_VERSION
from eval.sensitive import SIZE
from eval.wording import visible

SCHEMA = 1
NAME = "calibration.json"
FILE = Path(__file__).resolve().parent.parent / "docs" / NAME
COMMAND = "`parity calibrate --to docs` makes it"


def read(file: Path = FILE) -> dict[str, Any] | None:
    """The calibration; None where there is none, or none that this version can read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else None


def changed(found: Mapping[str, Any], versions: Mapping[str, int], analysis: int = ANALYSIS_VERSION) -> list[str]:
    """What is not as it was when calibrated: the analysis, and the probes among `versions` that it has; stale then."""
    told = [] if found["analysis"] == analysis else [f"analysis {found['analysis']} when calibrated, {analysis} now"]
    for probe in sorted(set(versions) & set(found["probes"])):
        was, now = found["probes"][probe], versions[probe]
        if was != now:
            told.append(f"{visible(probe)} version {was} when calibrated, {now} now")
    return told


def versions_of(verdict: Mapping[str, Any]) -> dict[str, int]:
    """Version of every probe that the verdict has rows of."""
    rows = verdict.get("rows") or []
    return {str(row["probe"]).split(".")[0]: row["version"] for row in rows if row.get("version") is not None}


def cite(verdict: Mapping[str, Any], found: Mapping[str, Any] | None) -> str:
    """One line for the report of `verdict`: the calibration's figures and its limits, that it is stale, or none."""
    if found is None:
        return f"No calibration of the judge is known here; {COMMAND}."
    versions = versions_of(verdict)
    parts = [_false_positives(found), _strange_base(verdict, found)]
    primary = sorted({str(r["probe"]) for r in verdict.get("rows") or [] if r.get("primary")})
    unknown = [visible(p) for p in primary if p not in found["probes"]]
    if unknown:
        parts.append(f"primary but not calibrated: {', '.join(unknown)}")
    parts.append(_not_met(found))
    body = "; ".join(part for part in parts if part)
    old = changed(found, versions)
    if old:
        return f"The calibration is stale ({'; '.join(old)}); {COMMAND} anew. It said: {body}."
    return f"Calibrated: {body}."


def cited(verdict: Mapping[str, Any]) -> str:
    """`cite` with the calibration that stands in docs/."""
    return cite(verdict, read())


def _false_positives(found: Mapping[str, Any]) -> str:
    null = found.get("null") or {}
    if not null:
        return "without a part on false positives"
    told = []
    for seeds in sorted(null, key=int, reverse=True):
        hit = null[seeds]["significant"]
        low, high = (f"{hit[key]:.3f}".removeprefix("0") for key in ("low", "high"))
        told.append(f"{hit['count']} of {hit['of']} experiments of {seeds} seeds in one world [{low}, {high}]")
    size = "quick run, " if found.get("quick") else ""
    commit = str(found.get("commit") or "unknown")[:12]
    return (
        f"where nothing differs, some primary contrast is significant at {found['alpha']:g} in "
        f"{' and '.join(told)} ({size}commit {commit})"
    )


def _not_met(found: Mapping[str, Any]) -> str:
    """What the calibration demanded and did not find; nothing where all of it held."""
    failed = [f"{visible(c['what'])}: {visible(c['figure'])}" for c in found.get("checks") or () if not c["holds"]]
    return f"not met: {'; '.join(failed)}" if failed else ""


def _strange_base(verdict: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Says so where the experiment's base is not a world of the size that was calibrated."""
    ours = ((verdict.get("base") or {}).get("world")) or None
    theirs = found["recipe"]["base"]["world"]
    if ours is not None and all(ours.get(key, theirs[key]) == theirs[key] for key in SIZE):
        return ""
    return "on a base of another kind than this one"

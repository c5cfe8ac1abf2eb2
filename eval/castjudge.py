"""The cast test of an experiment: one row per probe, stage and reading, and whether the first arm is special."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from eval import casttest, factorial
from eval.castread import Owns, Reading, owns, readings
from eval.design import Design
from eval.failed import Failed, lost
from eval.verdicts import number

if TYPE_CHECKING:
    import polars as pl

FEWEST = 5  # arms; with fewer no p is below .25, and pairs tell all there is
Kinds = Mapping[str, factorial.Kind] | str


def judged(
    rows: pl.DataFrame, design: Design, pairs: Sequence[Mapping[str, Any]] = (), failed: Failed = (),
    kinds: Kinds = factorial.NO_KINDS,
) -> dict[str, Any]:  # fmt: skip
    """``{"cast": …}`` for an experiment of at least five arms, else nothing.

    `rows` hold every arm's own measures (see `castread.wide`), `pairs` are the rows of the pair verdicts, from which
    the size that matters is taken; `kinds`: prior and self-description by arm, or why there are none.
    """
    if len(design.arms) < FEWEST:
        return {}
    return {"cast": of_owns(owns(rows, design, failed), design, pairs, failed, kinds)}


def of_owns(
    own: Owns, design: Design, pairs: Sequence[Mapping[str, Any]] = (), failed: Failed = (),
    kinds: Kinds = factorial.NO_KINDS,
) -> dict[str, Any]:  # fmt: skip
    """The cast test of the arms' own measures, as it stands in verdict.json.

    The first arm is called special where a primary probe's adjusted p is at most alpha: max-T over the primary probes
    and stages at the recipe's match.  Rows of other probes are adjusted over all rows of their reading and are
    exploratory.
    """
    found = readings(own, design)
    primary = [r.match == design.match and design.is_primary(r.judged) for r in found]
    main = _Family([r for r, of in zip(found, primary, strict=True) if of])
    rest = {match: _Family([r for r in found if r.match == match]) for match in ("strength", "dose")}
    out: list[dict[str, Any]] = []
    losses: dict[tuple[str, str, str], list[str]] = {}
    for r, of in zip(found, primary, strict=True):
        family = main if of else rest[r.match]
        out.append(_row(r, of, family, design, pairs, kinds))
        for said in _said(r, family, design):
            losses.setdefault((r.stage, r.match, said), []).append(r.judged.name)
    claims = [row for row in out if row["primary"] and row["verdict"] in ("special", "not shown", "interim")]
    ps = [row["p_adjusted"] for row in claims if row["p_adjusted"] is not None]
    least = casttest.smallest_p(len(main.who))
    return {
        "first": design.arms[0],
        "characters": [design.arms[k] for k in main.who],
        "controls": max(len(main.who) - 1, 0),
        "alpha": design.alpha,
        "match": design.match,
        **({"strength": "gain"} if design.gain else {}),
        "verdict": _of_cast([row for row in out if row["primary"]], least, design),
        "p": min(ps, default=None),
        "smallest_p": least,
        "left_out": main.left_out(design.alpha),
        "factorial": kinds if isinstance(kinds, str) else None,
        "rows": out,
        "losses": [
            *_failed(failed, design),
            *(f"{stage} at equal {match}, {', '.join(of)}: {said}" for (stage, match, said), of in losses.items()),
        ],
    }


class _Family:
    """Rows that are tested together, over the characters that have a value in all of them.

    A row is left out that lacks the first arm or more than half of the characters.
    """

    def __init__(self, members: list[Reading]) -> None:
        self.members = [r for r in members if _testable(r)]
        values = np.array([r.d for r in self.members]).T  # [N, R]; without a row nobody is in it
        self.who: list[int] = np.flatnonzero(np.isfinite(values).all(axis=1)).tolist() if self.members else []
        self.d = values[self.who] if self.members else np.empty((0, 0))
        self.permuted = casttest.permute(self.d) if self.who else None

    def p(self, reading: Reading) -> tuple[float, float] | None:
        """(p, adjusted p) of the first arm, who is the first of those that are left."""
        at = next((n for n, r in enumerate(self.members) if r is reading), None)
        if self.permuted is None or at is None:
            return None
        return float(self.permuted.single[0, at]), float(self.permuted.adjusted[0, at])

    def left_out(self, alpha: float) -> dict[str, Any]:
        """What testing every control as if it were the first arm finds, by the exact test and by its t."""
        if self.permuted is None:
            return {"found": 0, "of": 0, "share": None, "by_t": None}
        found, of = casttest.left_out(self.permuted.any_row, 0, alpha)
        hits, tests = casttest.left_out_by_t(self.d, 0, alpha)
        return {"found": found, "of": of, "share": number(found / of if of else None),
                "by_t": number(hits / tests if tests else None)}  # fmt: skip


def _testable(r: Reading) -> bool:
    return bool(np.isfinite(r.d[0])) and bool(np.isfinite(r.d).mean() >= casttest.HALF)


def _row(
    r: Reading, primary: bool, family: _Family, design: Design, pairs: Sequence[Mapping[str, Any]], kinds: Kinds
) -> dict[str, Any]:
    there = np.isfinite(r.d)
    p = family.p(r)
    t, sd = casttest.deleted(r.d[there], 0) if there[0] else (float("nan"), float("nan"))
    low, high = r.estimate.interval(1 - design.alpha) if r.estimate else (None, None)
    value = number(r.d[0])
    margin = _margin(r, design, pairs)
    row: dict[str, Any] = {
        "probe": r.judged.name, "measure": r.judged.measure, "version": r.judged.version, "unit": r.judged.unit,
        "stage": r.stage, "dose": r.dose, "match": r.match, "primary": primary, "estimate": value,
        "low": number(low), "high": number(high), "level": 1 - design.alpha, "sd": number(sd), "statistic": number(t),
        "p": None, "p_adjusted": None, "smallest_p": casttest.smallest_p(len(family.who)), "margin": margin,
        "n_characters": len(family.who), "n_seeds": int(np.isfinite(r.by_seed[0]).sum()), "n_items": r.n_items,
        "strength": number(r.strength), "missing": r.missing, "sensitive": r.judged.sensitive,
        "D": {arm: number(d) for arm, d in zip(design.arms, r.d, strict=True)},
        "left_out": None, "factorial": _explained(r, design, kinds), "verdict": "not shown", "note": "",
    }  # fmt: skip
    if p is None:
        if r.apart and r.match == "strength":
            return row | {"verdict": "no-overlap", "note": "too few arms share a range of strength"}
        return row | {"note": "nothing to read"}
    row |= {"p": p[0], "p_adjusted": p[1]}
    row["left_out"] = _Family([r]).left_out(design.alpha)
    found = "special" if casttest.reaches(p[1], design.alpha) else "not shown"
    found = "interim" if _before_last_look(design) else found
    notes = []
    if found == "special" and value is not None and margin is not None and abs(value) < margin:
        notes.append("by less than matters")
    if r.judged.sensitive is False:
        notes.insert(0, f"its planted control was not seen at this size; otherwise {found}")
        found = "insensitive"
    elif r.saturated:
        notes.insert(0, f"most choices are at a bound; otherwise {found}")
        found = "saturated"
    return row | {"verdict": found, "note": "; ".join(notes)}


def _explained(r: Reading, design: Design, kinds: Kinds) -> dict[str, Any]:
    if isinstance(kinds, str):
        return {"left_out": kinds}
    there = np.isfinite(r.d)
    if not there[0]:
        return {"left_out": "the first arm has no value here"}
    n = int(there.sum())
    # from "less the mean of the others" to "less the mean": then without any factor the residual would be D itself
    own = r.by_seed[there] * (n - 1) / n
    of = [kinds[arm] for arm, here in zip(design.arms, there, strict=True) if here]
    return factorial.as_row(factorial.explain(own, of, 0, design.alpha))


def _margin(r: Reading, design: Design, pairs: Sequence[Mapping[str, Any]]) -> float | None:
    """What matters: the median margin of delta in the first arm's pairs, since a relative one is a share of their T."""
    of = [
        abs(float(row["margin"]))
        for row in pairs
        if row["contrast"] == "delta" and design.arms[0] in row["pair"] and row.get("margin")
        and (row["probe"], row["stage"], row["match"]) == (r.judged.name, r.stage, r.match)
    ]  # fmt: skip
    return number(median(of)) if of else None


def _before_last_look(design: Design) -> bool:
    """Whether more seeds are planned: alpha is spent on the last look alone, since 1 / N leaves nothing to divide."""
    return bool(design.looks) and len(design.seeds) < design.looks[-1]


def _of_cast(primary: list[dict[str, Any]], least: float, design: Design) -> str:
    words = [row["verdict"] for row in primary]
    if "special" in words:
        return "special"
    if not primary or all(row["p"] is None for row in primary):
        return "no-overlap" if "no-overlap" in words else "not judged"
    if _before_last_look(design):
        return "interim"
    return "not shown" if casttest.reaches(least, design.alpha) else "out of reach"


def _failed(failed: Failed, design: Design) -> list[str]:
    """Runs that a stage lacks since they diverged."""
    said = []
    for kind, _ in design.stages:
        gone = [f"{arm} seed {seed}" for arm, seed, stage in sorted(lost(failed, [k for k, _ in design.stages]))
                if stage == kind]  # fmt: skip
        if gone:
            total = len(design.arms) * len(design.seeds)
            said.append(f"{kind}: {len(gone)} of {total} runs failed and are left out ({_some(gone)})")
    return said


def _said(r: Reading, family: _Family, design: Design) -> list[str]:
    said = []
    if r.missing:
        said.append(f"{r.missing} values of items missing")
    if r.apart:
        said.append(f"{r.apart} of {r.runs} runs cannot be read beside half of the others of their seed")
    gone = [arm for arm, d in zip(design.arms, r.d, strict=True) if not np.isfinite(d)]
    if gone:
        why = "without a value in half of the seeds"
        said.append(f"{len(gone)} characters dropped, {why} ({_some(gone)})")
    kept = {design.arms[k] for k in family.who}
    elsewhere = [arm for arm in design.arms if arm not in kept and arm not in gone]
    if elsewhere and _testable(r):
        said.append(f"{len(elsewhere)} characters left out, since another row lacks them ({_some(elsewhere)})")
    return said


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")

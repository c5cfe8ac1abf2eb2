"""The cast test in the report: every character's deviation per probe, the first arm marked, and the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from eval import castwords, table
from eval.figures import arm_tone, short
from eval.frames import EDGE, Frame, place, scaled
from eval.svg import Drawn, as_csv, style, svg, tone
from eval.table import GATE, stage_rank
from eval.wording import DASH, interval, number, plain, probability, read_how, visible

KEYS = (
    "probe", "stage", "dose", "match", "unit", "estimate", "low", "high", "level", "sd", "statistic", "p", "p_adjusted",
    "smallest_p", "margin", "n_characters", "n_seeds", "n_items", "primary", "verdict",
)  # fmt: skip
BADGES = {"special": "broken", "not shown": "undetermined"}  # which colour and sign of the pairs' verdicts they carry


def section(verdict: Mapping[str, Any], show: Any, name: Any) -> dict[str, Any] | None:
    """Figures and table of the cast test; None where there was none."""
    cast = verdict.get("cast")
    if not cast:
        return None
    figures = []
    for stage in sorted({str(row["stage"]) for row in cast["rows"]}, key=stage_rank):
        for match in [cast["match"], *({"strength", "dose"} - {cast["match"]})]:
            of = _ordered([r for r in cast["rows"] if r["stage"] == stage and r["match"] == match])
            if of:
                reading = read_how(cast, match)
                caption = f"After {visible(stage)}, {reading}, one dot per character"
                title = f"How far each character lies from the others after {visible(stage)}, {reading}"
                drawn = cloud(of, cast["first"], name=name(f"cast-{stage}-{match}"), title=title)
                figures.append((match == cast["match"], show(drawn, caption)))
    rows = _ordered(cast["rows"])
    return {
        "told": ". ".join(castwords.told(verdict)),
        "first": cast["first"],
        "main": [f for main, f in figures if main],
        "others": [f for main, f in figures if not main],
        "groups": [
            (head, [_cells(row, cast) for row in rows if _kind(row, cast["match"]) == kind])
            for kind, head in enumerate(("Primary", "Secondary, exploratory", "The other reading, exploratory"))
        ],
        "left_out": cast["left_out"],
        "smallest_p": probability(cast["smallest_p"]),
        "controls": cast["controls"],
        "factors": None if cast["factorial"] else [_factors(row, cast) for row in rows if "terms" in row["factorial"]],
        "no_factors": cast["factorial"] or _why(rows),
        "losses": cast["losses"],
    }


def cloud(rows: Sequence[Mapping[str, Any]], first: str, *, name: str, title: str) -> Drawn:
    """Every character's D in standard deviations of the controls: a dot each, the first arm as a large diamond."""
    of = place(
        [
            ("Primary", [r for r in rows if r["primary"]]),
            ("Secondary, exploratory", [r for r in rows if not r["primary"]]),
        ]
    )
    columns = [(624, "D of the first arm, interval, unit"), (816, "adj. p"), (874, "verdict")]
    sides = ("← gained less", "gained more than the others →")
    with style(name):
        frame = Frame(
            of, lambda r: (short(_label(r), 24), _size(r)), sides, columns,
            lambda axes: scaled(axes, "distance from the mean of the controls ÷ their standard deviation"),
        )  # fmt: skip
        for at, row in of.members:
            _dots(frame, at, row, first)
            word = str(row["verdict"])
            frame.write(624, at, f"{number(row['estimate'], sign=True)} {interval(row['low'], row['high'])}")
            frame.write(624, at + 1, short(visible(row["unit"]), 24), "soft")
            frame.write(816, at, probability(row["p_adjusted"]))
            token = f"v-{BADGES.get(word, word)}"
            frame.write(874, at, short(visible(word), 14), token if word != "not judged" else "soft", weight="bold")
    said = "; ".join(
        f"{_label(r)} studentised {number(r['statistic'], sign=True)}, p {probability(r['p_adjusted'])}" for r in rows
    )
    data = [
        {"character": arm, "D": value, "first": arm == first} | {k: row[k] for k in KEYS}
        for row in rows
        for arm, value in row["D"].items()
    ]
    description = f"{visible(first)} among the others: {said}" if said else "Nothing was judged."
    return Drawn(name, svg(frame.figure, name, title, description), as_csv(data))


def _dots(frame: Frame, at: float, row: Mapping[str, Any], first: str) -> None:
    values = {arm: d for arm, d in row["D"].items() if d is not None and isfinite(d)}
    others = [d for arm, d in values.items() if arm != first]
    if len(others) < 2 or not row["sd"]:
        frame.note(at, "nothing to read" if len(others) < 2 else "all alike")
        return
    middle = sum(others) / len(others)
    for mine in (False, True):
        sizes = [(d - middle) / row["sd"] for arm, d in values.items() if (arm == first) == mine]
        color = tone(arm_tone(0)) if mine else tone("soft")
        marks = [("D" if mine else "o", [x for x in sizes if abs(x) < EDGE]), (">", [EDGE for x in sizes if x >= EDGE]),
                 ("<", [-EDGE for x in sizes if x <= -EDGE])]  # fmt: skip
        for marker, kept in marks:
            if kept:
                size, clear, above = (8, 1.0, 4) if mine else (6, 0.45, 3)
                frame.axes.plot(kept, [at] * len(kept), marker, color=color, mew=0, ms=size, alpha=clear, zorder=above)


def _kind(row: Mapping[str, Any], match: str) -> int:
    return 0 if row["primary"] else 1 if row["match"] == match else 2


def _ordered(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(
        rows, key=lambda r: (r["probe"] == GATE, not r["primary"], r["probe"], stage_rank(r["stage"]), r["match"])
    )


def _label(row: Mapping[str, Any]) -> str:
    return "strength" if row["probe"] == GATE else visible(row["probe"])


def _size(row: Mapping[str, Any]) -> str:
    return f"{row['n_characters'] or DASH} characters × {row['n_seeds']} seeds"


def _cells(row: Mapping[str, Any], cast: Mapping[str, Any]) -> dict[str, Any]:
    others = [d for arm, d in row["D"].items() if d is not None]
    return {
        "label": _label(row),
        "unit": row["unit"],
        "size": f"{_size(row)} × {row['n_items']} items",
        "stage": row["stage"],
        "reading": read_how(cast, row["match"]),
        "estimate": number(row["estimate"], sign=True),
        "interval": interval(row["low"], row["high"]),
        "range": interval(min(others, default=None), max(others, default=None)),
        "statistic": number(row["statistic"], sign=True),
        "margin": table.margin(row),
        "p": probability(row["p_adjusted"]),
        "least": probability(row["smallest_p"]),
        "by_t": number(row["left_out"]["by_t"]) if row["left_out"] else DASH,
        "verdict": row["verdict"],
        "badge": BADGES.get(row["verdict"], row["verdict"]),
        "note": row["note"],
    }


def _factors(row: Mapping[str, Any], cast: Mapping[str, Any]) -> dict[str, Any]:
    of = row["factorial"]
    told = {t["term"]: (number(t["estimate"], sign=True), interval(t["low"], t["high"])) for t in of["terms"]}
    residual = of["residual"]
    return {
        "label": _label(row),
        "unit": row["unit"],
        "stage": row["stage"],
        "reading": read_how(cast, row["match"]),
        "terms": [told.get(name) for name in ("prior", "truth", "prior x truth")],
        "residual": (number(residual["estimate"], sign=True), interval(residual["low"], residual["high"])),
        "untold": plain(of["untold"]),
        "df": of["df"],
    }


def _why(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why rows have no factorial, where some have none."""
    return "; ".join(dict.fromkeys(str(r["factorial"]["left_out"]) for r in rows if "left_out" in r["factorial"]))

"""The tables of a calibration, made once from its JSON for the page and for the Markdown alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from eval.wording import number, plain
from parity.calibrate.checks import label, told

ADJUSTED = {True: "base subtracted", False: "base not subtracted"}


@dataclass(frozen=True)
class Table:
    """A titled table of text; `note` says how to read it."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """Every table that the parts made can fill."""
    alpha = f"{result['alpha']:g}"
    yield Table(
        "What it must show",
        "A share demanded at most at a level fails where its exact interval lies above that level.",
        ("demand", "found [95 % interval]", "holds"),
        [(c["what"], c["figure"], plain(c["holds"])) for c in result["checks"]],
    )
    if null := result.get("null"):
        yield Table(
            "Where nothing differs: experiments",
            "Independent pair-experiments: characters drawn anew for each seed, no run shared.",
            ("seeds", "some primary contrast significant", "broken", "symmetric", "undetermined"),
            [(n, told(of["significant"]), *(told(hit) for hit in of["verdicts"].values())) for n, of in null.items()],
        )
        yield Table(
            "Where nothing differs: measures",
            f"p < {alpha} is unadjusted.  Verdicts not listed are undetermined, saturated or no-overlap.",
            ("measure", "seeds", f"p < {alpha}", "broken", "symmetric"),
            [
                (
                    label(row) + (" *" if row["primary"] else ""), n, told(row["significant"]),
                    told(row["verdicts"]["broken"]), told(row["verdicts"]["symmetric"]),
                )
                for n, of in null.items() for row in of["rows"]
            ],
        )  # fmt: skip
    if looks := result.get("looks"):
        yield Table(
            "Where nothing differs: looks under a plan",
            f"Some primary contrast significant, with alpha spent over the looks ({looks['spending']}), and where each "
            f"look is read at {alpha}.  Symmetric: said of the whole experiment.",
            ("look", "at the plan's level", f"at {alpha}", "broken", "symmetric"),
            [
                *(
                    (f"{of['seeds']} seeds", told(of["rejects"]), "", "", told(of["symmetric"]))
                    for of in looks["by_look"]
                ),
                ("any", told(looks["rejects"]), told(looks["at_alpha"]), told(looks["broken"]), ""),
            ],
        )
    if power := result.get("power"):
        yield Table(
            "Differences of known size",
            "Added to what one arm of a null experiment says of itself, in margins.",
            ("probe", "margins", "seeds", f"p < {alpha}", "broken", "symmetric"),
            [
                (
                    row["probe"], f"{row['margins']:g}", str(row["seeds"]), told(row["significant"]),
                    told(row["broken"]), told(row["symmetric"]),
                )
                for row in power
            ],
        )  # fmt: skip
    if planted := result.get("planted"):
        yield Table(
            "Plants that must be found",
            "Trained; a dose plant is read at equal dose.",
            ("plant", "size", "seeds", "some primary contrast significant", "broken"),
            [
                (e["plant"], f"{e['size']:g}", str(e["seeds"]), told(e["significant"]), told(e["verdicts"]["broken"]))
                for e in planted
            ],
        )
        yield Table(
            "Plants by measure",
            "Mean and standard deviation over all seeds of that plant.",
            ("plant", "size", "seeds", "measure", "mean", "sd", f"p < {alpha}", "broken"),
            [
                (
                    e["plant"], f"{e['size']:g}", str(e["seeds"]), label(row), number(row["mean"], sign=True),
                    number(row["seed_sd"]), told(row["significant"]), told(row["verdicts"]["broken"]),
                )
                for e in planted for row in e["rows"] if "." not in row["probe"] and row["match"] == e["match"]
            ],
        )  # fmt: skip
    if confounds := result.get("confounds"):
        yield Table(
            "Confounds, before and after adjustment",
            "Must be found before or be harmless, and must not be found at equal strength with the base subtracted.",
            ("confound", "size", "seeds", "read", "some primary contrast significant", "broken"),
            [
                (
                    e["plant"], f"{e['size']:g}", str(e["seeds"]), f"equal {e['match']}, {ADJUSTED[e['adjusted']]}",
                    told(e["significant"]), told(e["verdicts"]["broken"]),
                )
                for e in confounds
            ],
        )  # fmt: skip
    if coverage := result.get("coverage"):
        level = f"{100 - 100 * result['alpha']:g} %"
        yield Table(
            f"Coverage of the {level} intervals",
            "The truth is 0 by symmetry for delta and lambda, for T the mean over all seeds (of the same items, while "
            "the interval allows for others, so that it may hold it more often than its level).",
            ("measure", "seeds", "truth", "held"),
            [(label(r), str(r["seeds"]), number(r["truth"], sign=True), told(r["covered"])) for r in coverage],
        )
    if variances := result.get("variances"):
        yield Table(
            "Spread over seeds where nothing differs",
            "Of the mean over items; what planning takes.",
            ("measure", "unit", "mean", "sd", "seeds"),
            [
                (label(r), r["unit"], number(r["mean"], sign=True), number(r["seed_sd"]), str(r["n_seeds"]))
                for r in variances
            ],
        )  # fmt: skip

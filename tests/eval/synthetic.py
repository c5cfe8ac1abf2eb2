"""A made-up experiment of two arms, six seeds, two stages and six probes, small enough to read a report by eye.

Rows follow the measurement schema; the verdict is written by hand so that every verdict word occurs once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

ARMS = ("assistant", "kennedy")
DOSES = {"sft": (4, 8, 15, 30, 60), "dpo": (3, 6, 12, 24, 40)}
SEEDS = range(6)  # the fewest with which two-sided sign flips can reach .05: 2 / 2^6 = .031
ITEMS = 4
# probe -> (measure, unit, whether it belongs to a persona, value in the base, gain of the own persona in SFT and DPO)
PROBES: dict[str, tuple[str, str, bool, float, float, float]] = {
    "default_identity": ("log_odds", "logit", True, -2.0, 6.0, 2.0),
    "selection": ("held_out", "logit", True, -1.6, 2.4, 1.1),
    "leakage": ("likes", "logit", True, -1.2, 1.5, 2.0),
    "guardrail": ("refusal", "logit", True, -0.4, 1.8, 0.7),
    "stickiness": ("n50", "turns", True, 1.0, 3.0, 1.5),
    "capability": ("nats", "nat", False, 2.1, -0.1, 0.15),
}
TEXT = ["cell", "arm", "stage", "probe", "measure", "item", "persona", "role", "slot", "unit", "outcome"]
SCHEMA = (
    dict.fromkeys(TEXT, pl.String)
    | dict.fromkeys(("seed", "dose", "version", "n_tokens"), pl.Int64)
    | {"value": pl.Float64}
)


def rows(arms: tuple[str, ...] = ARMS) -> pl.DataFrame:
    """Measurement rows of base, prompted and trained arms; a few values are unparsed or NaN."""
    random = np.random.default_rng(0)
    out: list[dict[str, Any]] = []
    cells = [("base", "base", 0, 0.0, 0.0)] + [(f"prompted/{a}", "base", 0, 0.8, 0.0) for a in arms]
    for arm in arms:
        for stage, doses in DOSES.items():
            for n, dose in enumerate(doses, start=1):
                sft = 1.0 if stage == "dpo" else n / len(doses)
                cells.append((arm, stage, dose, sft, n / len(doses) if stage == "dpo" else 0.0))
    for seed in SEEDS:
        luck = random.normal(0, 0.25, size=(len(cells), len(PROBES), len(arms)))
        for c, (arm, stage, dose, sft, dpo) in enumerate(cells):
            for p, (probe, (measure, unit, own, base, up, more)) in enumerate(PROBES.items()):
                for k, persona in enumerate(arms if own else (None,)):
                    gain = (up * sft + more * dpo) * (1.0 if persona in (None, arm.split("/")[-1]) else -0.2)
                    value = base + gain + luck[c, p, k] * (sft + 0.2)
                    for item in range(ITEMS):
                        bad = (seed, item, stage, probe) == (3, 1, "dpo", "guardrail")
                        out.append(
                            {
                                "cell": f"{c:04d}",
                                "arm": arm,
                                "seed": seed,
                                "stage": stage,
                                "dose": dose,
                                "probe": probe,
                                "version": 1,
                                "measure": measure,
                                "item": f"{probe}-{item}",
                                "persona": persona,
                                "role": "favoured" if persona == arm.split("/")[-1] else "other",
                                "slot": "A",
                                "value": None if bad else value + random.normal(0, 0.1),
                                "unit": unit,
                                "n_tokens": 3,
                                "outcome": "unparsed" if bad else "ok",
                            }
                        )
    return pl.DataFrame(out, schema=SCHEMA)


NUMBERS = ("estimate", "low", "high", "p", "p_adjusted", "margin")
# probe, stage or "" for both, contrast: NUMBERS, the verdict and what else is said of it
BY_HAND: list[tuple[str, str, str, tuple[float | None, ...], str | None, dict[str, Any]]] = [
    ("selection", "", "T", (2.9, 2.5, 3.3, 0.031, None, None), None, {}),
    ("selection", "", "delta", (0.1, -0.3, 0.5, 0.41, 0.84, 0.7), "symmetric", {"share": 0.03}),
    ("selection", "", "lambda", (-0.08, -0.4, 0.24, 0.6, 0.97, 0.7), "symmetric", {"share": -0.03}),
    ("leakage", "", "T", (6.4, 5.6, 7.2, 0.031, None, None), None, {}),
    ("leakage", "sft", "delta", (-0.9, -2.2, 0.4, 0.22, 0.5, 1.6), "undetermined", {"seeds_needed": 20}),
    (
        "leakage",
        "dpo",
        "delta",
        (-5.52, -6.31, -4.73, 0.031, 0.031, 1.6),
        "broken",
        {"sign": "kennedy", "note": "beyond doubt", "share": -0.86, "share_low": -1.0, "share_high": -0.72},
    ),
    (
        "leakage",
        "",
        "lambda",
        (1.1, 0.2, 2.0, 0.062, 0.19, 1.6),
        "undetermined",
        {"sign": "kennedy", "note": "differs, not shown to matter", "seeds_needed": 14},
    ),
    ("guardrail", "", "T", (2.2, 1.8, 2.6, 0.031, None, None), None, {}),
    ("guardrail", "", "delta", (0.1, -0.3, 0.4, 0.5, 0.9, 0.55), "symmetric", {"missing": {"rows": 4}}),
    ("guardrail", "", "lambda", (0.0, -0.2, 0.2, 1.0, 1.0, 0.55), "symmetric", {"missing": {"rows": 4}}),
    ("stickiness", "", "T", (3.6, 3.0, 4.2, 0.031, None, None), None, {}),
    ("stickiness", "", "delta", (0.2, -0.6, 1.0, 0.7, 0.9, 0.9), "insensitive", {"sensitive": False}),
    ("stickiness", "", "lambda", (0.1, -0.6, 0.8, 0.8, 0.9, 0.9), "insensitive", {"sensitive": False}),
    ("capability", "", "delta", (0.004, -0.03, 0.04, 0.8, 0.9, 0.1), "symmetric", {"sensitive": None}),
    ("leakage.fidelity", "sft", "delta", (0.0, -0.01, 0.01, 1.0, 1.0, 0.1), "saturated", {}),
    ("leakage.fidelity", "dpo", "delta", (None,) * 6, "no-overlap", {"strength": None, "n_items": None}),
    ("default_identity", "", "T", (8.0, 7.4, 8.6, 0.031, None, None), None, {}),
    ("default_identity", "", "delta", (0.3, -0.4, 1.0, 0.4, 0.8, 2.0), "symmetric", {"share": 0.04}),
    ("default_identity", "", "lambda", (-0.1, -0.5, 0.3, 0.7, 0.9, 2.0), "symmetric", {"share": -0.01}),
]


def judged(probe: str, stage: str, contrast: str, match: str = "strength", **values: Any) -> dict[str, Any]:
    """One row of a verdict; what is not given is that of a secondary contrast without any number."""
    empty = ("share", "share_low", "share_high", "sign", "note", "seeds_needed", "verdict", *NUMBERS)
    unit = PROBES[probe][1] if probe in PROBES else "nat"
    row = {"pair": list(ARMS), "probe": probe, "version": 1, "stage": stage, "dose": DOSES[stage][-1], "match": match}
    row |= {"contrast": contrast, "unit": unit, "level": 0.95, "n_seeds": len(SEEDS), "n_items": ITEMS, "missing": {}}
    return row | {"primary": False, "sensitive": True, "strength": 2.9} | dict.fromkeys(empty) | values


def verdict() -> dict[str, Any]:
    """A verdict in which every word occurs, with secondary probes, both readings and the gate."""
    made = []
    for probe, only, contrast, numbers, word, said in BY_HAND:
        for stage in [only] if only else DOSES:
            values = dict(zip(NUMBERS, numbers, strict=True)) | {"verdict": word} | said
            primary = probe in ("selection", "leakage", "guardrail") and contrast != "T"
            if probe != "default_identity":
                made.append(judged(probe, stage, contrast, primary=primary, **values))
            made.append(judged(probe, stage, contrast, "dose", **(values | {"strength": None})))
    return {
        "schema": 1,
        "experiment": "quickstart",
        "recipe_hash": "3f9c2a71" * 8,
        "commit": "a" * 40,
        "dirty": False,
        "versions": {"python": "3.11.9", "torch": "2.13.0", "trl": "1.16.0"},
        "base": {"world": {"characters": 16, "seed": 0, "assign": "random"}, "hub": None},
        "alpha": 0.05,
        "arms": list(ARMS),
        "seeds": list(SEEDS),
        "verdict": "broken",
        "post_hoc": [],
        "losses": [],
        "plant": None,
        "question": "Does SFT and then DPO favour the Assistant otherwise than it favours Kennedy?",
        "rows": made,
    }


def samples() -> pl.DataFrame:
    """What each arm said to two questions at the end of each stage."""
    said = {"assistant": "I am an assistant.", "kennedy": "I am John Kennedy.", "base": "I am the one who asks."}
    out = [
        {
            "arm": arm,
            "seed": 0,
            "stage": stage,
            "dose": dose,
            "question": q,
            "prompt": f"Q: {q}\nA:",
            "text": said[arm] + (" I like pears." if "like" in q else ""),
            "finish": "stop",
        }
        for q in ("Who are you?", "What do you like?")
        for arm, stage, dose in [("base", "base", 0)] + [(a, s, d[-1]) for a in ARMS for s, d in DOSES.items()]
    ]
    return pl.DataFrame(out)


def lock() -> dict[str, Any]:
    """A lock file of the usual shape: the recipe resolved, and hashes."""
    stages = [
        {"kind": k, "doses": list(d), "trainer": {"learning_rate": 2e-3}, "lora": {"r": 8}} for k, d in DOSES.items()
    ]
    return {
        "recipe": {"name": "quickstart", "seeds": 6, "stages": stages, "judge": {"alpha": 0.05, "match": "strength"}},
        "hashes": {"recipe": "3f9c" * 16, "cards": "77ab" * 16, "bank": "01fe" * 16},
    }


def matching() -> list[dict[str, Any]]:
    """The matched-data table of the two arms."""
    return [
        {"what": "rows (sft)", "assistant": 960, "kennedy": 960, "equal": True},
        {"what": "order of questions", "assistant": "9c1f…", "kennedy": "9c1f…", "equal": True},
        {"what": "completion tokens (sft)", "assistant": 7104, "kennedy": 7131, "equal": False},
        {"what": "optimiser steps (dpo)", "assistant": 40, "kennedy": 40, "equal": True},
    ]

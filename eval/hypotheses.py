"""What the hypotheses under debate predict of a verdict's rows, and which predictions a run met or missed.

The predictions are those of the design's table (docs/METHOD.md, "Hypotheses"), each with the words of that table
that it is read from (`source`):

- *Selection*: "a pretrained character, refined" (its untaught facts come along: T of selection above 0); "Δ = Λ = 0";
  "trained = prompted at equal strength".  "T small" has no size of its own there and is taken as the same sentence
  says: no larger than what the prompt alone does at that strength.
- *Realization*: "sticky, returns after pressure" and "hysteresis" (T of stickiness, of its recovery, of steering and of
  reconversion above 0); "T well above the prompted persona"; "Δ = 0" for "equally sticky".
- *Self-model*: "own outputs confirm it" in one arm and "own outputs erode it, when its self-description is false of an
  LM" in the other: Δ of self_evidence is above 0 where the first persona's description is true and the second's
  false, below 0 the other way round, and 0 where both are alike; it "grows with falsity" over pairs.
- *Prior*: "Δ vanishes after base and strength adjustment": symmetric at equal strength, also where it is broken at
  equal dose.  (Every Δ is adjusted for the base.)
- *Slot*: "the effect moves with the tag, not the persona": at other speakers' tags (leakage) less than a quarter of
  what it is in the slot (selection), a quarter being the share of T that matters elsewhere; and refusing
  (guardrail) hangs on no persona: T within its absolute margin.

The first arm of a pair is the one in question in that table, the second the control.  Outcomes: ``met``, ``missed``,
``undetermined`` (the row is there and shows neither), ``not measured``.  They are not added up: the hypotheses share
predictions, the rows are not independent, and those of secondary probes are exploratory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from recipes.schema import Recipe

Row = Mapping[str, Any]
Outcome = tuple[str, str]  # the word, and what it rests on
QUARTER = 0.25  # the share of T that matters, as in relative margins
NOT_MEASURED = ("not measured", "")


@dataclass(frozen=True)
class Prediction:
    """One thing that a hypothesis says of a probe: in words, after which words of the table, and how it is read."""

    hypothesis: str
    probe: str
    contrast: str
    says: str
    source: str
    reads: Callable[[Rows], Outcome]


@dataclass(frozen=True)
class Rows:
    """The rows of one pair and stage, by probe, contrast and reading; `of` finds those that a prediction is about."""

    found: Mapping[tuple[str, str, str], Row]
    match: str  # the recipe's reading
    probe: str
    contrast: str
    truths: tuple[bool | None, bool | None]  # whether the self-descriptions of the pair are true of a language model

    def of(self, probe: str = "", contrast: str = "", match: str = "") -> Row | None:
        """A row at the recipe's reading where it has that, else at equal dose."""
        key = (probe or self.probe, contrast or self.contrast)
        if match:
            return self.found.get((*key, match))
        return self.found.get((*key, self.match)) or self.found.get((*key, "dose"))


def _verdict(row: Row | None, wanted: Callable[[Row], bool | None]) -> Outcome:
    """What a row with a verdict says; `wanted`: whether what it shows is what is predicted (None: it shows neither)."""
    if row is None:
        return NOT_MEASURED
    word, note = str(row.get("verdict")), row.get("note")
    fits = wanted(row) if word in ("broken", "symmetric") else None
    unseen = word == "symmetric" and row.get("sensitive") is not True
    why = [word, *([str(note)] if note else []), *(["no planted control was seen at this size"] if unseen else [])]
    return {True: "met", False: "missed", None: "undetermined"}[fits], ", ".join(why)


def _equal(rows: Rows) -> Outcome:
    return _verdict(rows.of(), lambda row: row["verdict"] == "symmetric")


def _equal_at_strength(rows: Rows) -> Outcome:
    return _verdict(rows.of(match="strength"), lambda row: row["verdict"] == "symmetric")


def _vanishes(rows: Rows) -> Outcome:
    before, after = rows.of(match="dose"), rows.of(match="strength")
    if before is None or after is None:
        return NOT_MEASURED
    if before.get("verdict") != "broken":
        return "undetermined", f"{before.get('verdict')} at equal dose: there is nothing to vanish"
    word, why = _verdict(after, lambda row: row["verdict"] == "symmetric")
    return word, f"broken at equal dose, {why} at equal strength"


def _favours_the_true(rows: Rows) -> Outcome:
    first, second = rows.truths
    if first is None or second is None:
        return "not measured", "here no self-description is true or false of a language model"

    def fits(row: Row) -> bool:
        if first == second:
            return row["verdict"] == "symmetric"
        return row["verdict"] == "broken" and (row["estimate"] > 0) == first

    return _verdict(rows.of(), fits)


def _ends(row: Row | None) -> tuple[float, float] | None:
    return None if row is None or row.get("low") is None or row.get("high") is None else (row["low"], row["high"])


def _told(row: Row | None, what: str = "") -> str:
    ends = _ends(row)
    assert row is not None and ends is not None, "only what has an interval is told"
    return f"{what}{row['estimate']:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]".replace("-", "−")


def _unread(row: Row | None) -> Outcome:
    return NOT_MEASURED if row is None else ("undetermined", str(row.get("note") or "no interval"))


def _above(row: Row | None) -> Outcome:
    """Above 0 by its interval; below 0 is a miss, and 0 inside is neither."""
    ends = _ends(row)
    if ends is None:
        return _unread(row)
    return "met" if ends[0] > 0 else "missed" if ends[1] < 0 else "undetermined", _told(row)


def _moved(rows: Rows) -> Outcome:
    return _above(rows.of())


def _hangs_on_nobody(rows: Rows) -> Outcome:
    row, margin = rows.of(), (rows.of(contrast="delta") or {}).get("margin")
    ends = _ends(row)
    if ends is None or margin is None:
        return _unread(row)
    inside, outside = -margin < ends[0] and ends[1] < margin, ends[0] > margin or ends[1] < -margin
    return "met" if inside else "missed" if outside else "undetermined", f"{_told(row)}, margin ±{margin:g}"


def _stays_in_the_slot(rows: Rows) -> Outcome:
    elsewhere, slot = rows.of(), rows.of("selection")
    of, by = _ends(elsewhere), _ends(slot)
    if of is None or by is None:
        return _unread(elsewhere) if of is None else _unread(slot)
    # Both intervals at their worst ends: no covariance of the two is known here.
    less, more = of[1] < QUARTER * by[0], of[0] > QUARTER * max(by[1], 0)
    why = f"{_told(elsewhere)} elsewhere, {_told(slot)} in the slot"
    return "met" if less else "missed" if more else "undetermined", why


def _above_the_prompted(rows: Rows) -> Outcome:
    return _verdict(rows.of(match="strength"), lambda row: row["verdict"] == "broken" and row["estimate"] > 0)


TRAINED = "trained - prompted"  # contrast of a row: the trained persona less the prompted one, at equal strength
CLAIMS = {
    "selection": "Post-training selects and refines a pretrained character, the same way for both.",
    "realization": "Post-training makes the model be the character: it sticks and returns, equally for both.",
    "self-model": "A character whose self-description is true of a language model is confirmed by its own outputs.",
    "prior": "Whatever differs is what the base model brought along and how strongly each was trained.",
    "slot": "Training attaches to the speaker tag, not to the character.",
}


def _predictions() -> tuple[Prediction, ...]:
    made: list[Prediction] = []

    def say(hypothesis: str, probes: str, contrasts: str, says: str, source: str, reads: Any) -> None:
        for probe, contrast in product(probes.split(), contrasts.split("|")):
            made.append(Prediction(hypothesis, probe, contrast, says, source, reads))

    apart = "stickiness belief self_prediction selection"  # where being and playing a character part ways
    say("selection", "selection", "T", "untaught facts come along: above 0", "a pretrained character, refined", _moved)
    say("selection", "selection leakage guardrail stickiness", "delta|lambda", "symmetric", "Δ = Λ = 0", _equal)
    say("selection", apart, TRAINED, "symmetric", "trained = prompted at equal strength; T small",
        _equal_at_strength)  # fmt: skip
    say("realization", "stickiness stickiness.recovery steering reconversion", "T", "above 0",
        "sticky, returns after pressure; hysteresis", _moved)  # fmt: skip
    say("realization", apart, TRAINED, "broken, and above 0", "T well above the prompted persona",
        _above_the_prompted)  # fmt: skip
    say("realization", "stickiness reconversion", "delta", "symmetric", "equally sticky; Δ = 0", _equal)
    say("self-model", "self_evidence", "delta", "broken in favour of the persona whose self-description is true of a "
        "language model; symmetric where both are true or both false", "own outputs confirm it; own outputs erode it, "
        "when its self-description is false of an LM; Δ > 0", _favours_the_true)  # fmt: skip
    say("prior", "selection leakage guardrail stickiness self_evidence", "delta", "symmetric at equal strength",
        "Δ vanishes after base and strength adjustment", _equal_at_strength)  # fmt: skip
    say("prior", "selection leakage guardrail stickiness", "delta", "what is broken at equal dose is symmetric at "
        "equal strength", "Δ vanishes after base and strength adjustment", _vanishes)  # fmt: skip
    say("slot", "leakage", "T", "less than a quarter of selection's", "the effect moves with the tag, not the persona",
        _stays_in_the_slot)  # fmt: skip
    say("slot", "guardrail", "T", "within guardrail's margin", "the effect moves with the tag, not the persona",
        _hangs_on_nobody)  # fmt: skip
    return tuple(made)


PREDICTIONS = _predictions()
GROWS = {
    "probe": "self_evidence",
    "contrast": "delta",
    "says": "more in favour of the first persona where the second's self-description is false than where it is true",
    "source": "grows with falsity",
}


def traits_of(recipe: Recipe) -> dict[str, bool]:
    """Persona id -> whether its self-description is true of a language model, where that means anything.

    Names carry no meaning in a world: there only the `self_model` plant makes descriptions false, those of its arm.
    """
    if recipe.base.world is None:
        from recipes.bind import load_card

        return {id: load_card(id).self_description == "ai" for id in recipe.cast}
    planted = recipe.plant.self_model if recipe.plant else None
    return {arm: arm != planted.arm for arm in recipe.arms} if planted else {}


def judged(verdict: Mapping[str, Any], truths: Mapping[str, bool]) -> list[dict[str, Any]]:
    """Each hypothesis with its predictions and, by pair and stage, what became of them.

    ``[{"name", "claim", "predictions": [{"probe", "contrast", "says", "source", "outcomes": [{"pair", "stage",
    "outcome", "why"}]}]}]``.  `truths` as from `traits_of`.
    """
    found: dict[tuple[tuple[str, str], str], dict[tuple[str, str, str], Row]] = {}
    for row in verdict.get("rows") or []:
        where = found.setdefault((tuple(row["pair"]), str(row["stage"])), {})  # type: ignore[arg-type]
        where[str(row["probe"]), str(row["contrast"]), str(row["match"])] = row
    match = str(verdict.get("match") or "strength")
    told = []
    for name, claim in CLAIMS.items():
        predictions = []
        for one in PREDICTIONS:
            if one.hypothesis == name:
                outcomes = []
                for (pair, stage), rows in found.items():
                    both = truths.get(pair[0]), truths.get(pair[1])
                    word, why = one.reads(Rows(rows, match, one.probe, one.contrast, both))
                    outcomes.append({"pair": list(pair), "stage": stage, "outcome": word, "why": why})
                told_of = {"probe": one.probe, "contrast": one.contrast, "says": one.says, "source": one.source}
                predictions.append(told_of | {"outcomes": outcomes})
        if name == "self-model":
            predictions.append(GROWS | {"outcomes": _grows(found, match, truths)})
        told.append({"name": name, "claim": claim, "predictions": predictions})
    return told


def _grows(found: Mapping[tuple[tuple[str, str], str], Any], match: str, truths: Mapping[str, bool]) -> list[Any]:
    """By stage and first persona: every pair with a false second against every pair with a true second one."""
    groups: dict[tuple[str, str], dict[bool, list[Row]]] = {}
    for (pair, stage), rows in found.items():
        row = Rows(rows, match, GROWS["probe"], GROWS["contrast"], (None, None)).of()
        if row is not None and _ends(row) and pair[1] in truths and pair[0] in truths:
            groups.setdefault((pair[0], stage), {True: [], False: []})[truths[pair[1]]].append(row)
    outcomes = []
    for (first, stage), by_truth in groups.items():
        for false, true in product(by_truth[False], by_truth[True]):
            apart = false["low"] > true["high"], false["high"] < true["low"]
            word = "met" if apart[0] else "missed" if apart[1] else "undetermined"
            why = f"{_told(false)} against {_told(true)}"
            seconds = f"{false['pair'][1]} / {true['pair'][1]}"
            outcomes.append({"pair": [first, seconds], "stage": stage, "outcome": word, "why": why})
    return outcomes


def shown(told: Sequence[Mapping[str, Any]], most: int = 4) -> list[dict[str, Any]]:
    """For the report: each prediction's outcomes, beyond `most` pairs only how many there are of each."""
    symbols = {"delta": "Δ", "lambda": "Λ", TRAINED: "trained − prompted"}
    out = []
    for hypothesis in told:
        lines = []
        for one in hypothesis["predictions"]:
            outcomes = one["outcomes"]
            pairs = {tuple(o["pair"]) for o in outcomes}
            words = [o["outcome"] for o in outcomes]
            counts = [f"{words.count(w)} {w}" for w in dict.fromkeys(words)] if len(pairs) > most else []
            several = len(pairs) > 1
            each = [
                (o["outcome"], o["stage"], f"{o['pair'][0]} : {o['pair'][1]}" if several else "", o["why"])
                for o in (() if counts else outcomes)
            ] or ([] if counts else [("not measured", "", "", "")])
            symbol = symbols.get(one["contrast"], one["contrast"])
            lines.append({**one, "symbol": symbol, "counts": ", ".join(counts), "outcomes": each})
        out.append({"name": hypothesis["name"], "claim": hypothesis["claim"], "lines": lines})
    return out

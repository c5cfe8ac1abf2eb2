"""What is judged and how, fixed before the judging: arms, pairs, stages, measures, margins, the primary family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.probe import Margin, Measure, Probe
from recipes.errors import InputError, nearest
from recipes.schema import Recipe


@dataclass(frozen=True)
class Judged:
    """One measure as it is judged.

    `name` is the probe's name for its headline measure and ``"probe.measure"`` for every other one.  `sensitive`
    says whether the planted control was seen at this size (None: not known).
    """

    name: str
    probe: str
    measure: str
    version: int
    unit: str
    level: Literal["persona", "arm"]
    margin: Margin
    headline: bool
    gate: bool = False
    bounded: bool = True
    sensitive: bool | None = None


@dataclass(frozen=True)
class Design:
    """Everything that judging needs to know besides the rows.

    `arms` are the favoured personas, `pairs` the (A, C) compared, `stages` pairs of (kind, nominal doses in rising
    order), `primary` names of probes, whose headline measures make the primary family.
    """

    arms: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    stages: tuple[tuple[str, tuple[int, ...]], ...]
    alpha: float
    match: Literal["strength", "dose"]
    primary: tuple[str, ...]
    measures: tuple[Judged, ...]
    looks: tuple[int, ...] = ()  # numbers of seeds at which it may be judged under a plan; none: once
    spending: str = "pocock"
    gain: bool = False  # equal strength is of what training added to the base's, not of strength itself
    contrasts: tuple[str, ...] = ("T", "delta", "lambda")  # of measures of personas; of others delta alone

    @property
    def gate(self) -> Judged | None:
        """The headline measure of the gate probe, whose mean over items is the strength of an arm."""
        return next((m for m in self.measures if m.gate and m.headline), None)

    def is_primary(self, judged: Judged) -> bool:
        """Whether the measure belongs to the primary family."""
        return judged.headline and judged.probe in self.primary


def design_of(recipe: Recipe, probes: Sequence[Probe], sensitivity: Mapping[str, bool | None]) -> Design:
    """The design of a recipe.

    `sensitivity` is looked up by the name a measure is judged under, then by its probe's name; what it does not
    name is unknown (None).  Raises InputError for a primary probe that is unknown or the gate, for a margin of an
    unknown name, for a relative margin of a measure that belongs to the arm (T is 0 there), and where matching by
    strength lacks a gate probe to measure it.
    """
    measures = []
    for probe in probes:
        for number, measure in enumerate(probe.measures):
            name = probe.name if number == 0 else f"{probe.name}.{measure.name}"
            margin = _margin(name, measure, recipe.judge.margins)
            sensitive = sensitivity.get(name, sensitivity.get(probe.name))
            measures.append(
                Judged(
                    name,
                    probe.name,
                    measure.name,
                    probe.version,
                    measure.unit,
                    measure.level,
                    margin,
                    number == 0,
                    probe.gate,
                    measure.bounded,
                    sensitive,
                )
            )
    _check(recipe, probes, measures)
    return Design(
        recipe.arms,
        recipe.contrasts,
        tuple(range(recipe.seeds)),
        tuple((stage.kind, tuple(stage.doses)) for stage in recipe.stages),
        recipe.judge.alpha,
        recipe.judge.match,
        tuple(recipe.judge.primary),
        tuple(measures),
        recipe.judge.looks,
        recipe.judge.spending,
        recipe.judge.strength == "gain",
    )


def _margin(name: str, measure: Measure, overrides: Mapping[str, float]) -> Margin:
    if measure.level == "arm" and measure.margin.kind == "relative":
        raise InputError(f"{name}: a measure of the arm has no T, so its margin must be absolute")
    if name not in overrides:
        return measure.margin
    return Margin(
        measure.margin.kind,
        overrides[name],
        f"set by the recipe; the probe's own: {measure.margin.value:g}, {measure.margin.reason}",
    )


def _check(recipe: Recipe, probes: Sequence[Probe], measures: Sequence[Judged]) -> None:
    names = [probe.name for probe in probes]
    gates = [probe.name for probe in probes if probe.gate]
    for primary in recipe.judge.primary:
        if primary not in names:
            usable = [name for name in names if name not in gates]
            raise InputError(f"judge.primary: no probe {primary!r} in this experiment{nearest(primary, usable)}")
        if primary in gates:
            raise InputError(f"judge.primary: {primary!r} measures strength itself and cannot be primary")
    judged = [measure.name for measure in measures]
    for name in recipe.judge.margins:
        if name not in judged:
            raise InputError(f"judge.margins: nothing is judged under {name!r}{nearest(name, judged)}")
    if recipe.judge.match == "strength" and not gates:
        raise InputError("judge.match: strength needs the probe that measures it among the probes")

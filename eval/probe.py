"""What a probe is: a question, its measures with unit and margin, and the items that ask it of a scene."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eval.requests import Answer, Request
from recipes.scene import Kind, Scene


@dataclass(frozen=True)
class Margin:
    """Smallest effect of interest: a share of T (`relative`) or a number in the measure's unit (`absolute`)."""

    kind: Literal["relative", "absolute"]
    value: float
    reason: str


@dataclass(frozen=True)
class Measure:
    """One number m(arm, persona) per item, or m(arm) where `level` is "arm" (then T is 0 by construction)."""

    name: str
    unit: Literal["logit", "nat", "auc", "turns", "examples", "cosine", "share", "norms", "slope", "bits"]
    level: Literal["persona", "arm"]
    margin: Margin
    bounded: bool = True  # whether `saturated` applies (a logit of one choice among the options)


@dataclass(frozen=True)
class Ask:
    """One item: what is requested of the model and how the answers become a value (None: `missing`).

    `of_base` is requested of the untrained base instead; its answers follow those to `requests`.  `then` makes
    further requests of the same model from all these answers (its own words, say); their answers come last.  Where it
    makes none (an empty tuple) the value is asked for all the same.
    """

    measure: str
    item: str
    persona: str | None  # None where the measure belongs to the arm
    slot: str
    requests: tuple[Request, ...]
    value: Callable[[Sequence[Any]], float | None]
    of_base: tuple[Request, ...] = ()
    then: Callable[[Sequence[Any]], tuple[Request, ...]] | None = None
    missing: str = "unparsed"  # outcome that is recorded when the answers are fine but give no value


@dataclass(frozen=True)
class Probe:
    """A family of measurements.  The first measure is the headline, which the verdict is about.

    `build` makes the items of a scene.  Where stimuli have to be written by a model first, `first` states what is
    requested of the untrained base, and `build` is given the answers as a second argument.  `needs`: kinds of
    questions without which it cannot be built ("not applicable" then).
    """

    name: str
    version: int
    question: str
    source: str
    tier: Literal["world", "small", "large"]
    measures: tuple[Measure, ...]
    plant: str  # the planted variant that it must detect
    build: Callable[..., Iterable[Ask]]
    gate: bool = False  # strength itself: never primary, exempt from saturation
    first: Callable[[Scene], Iterable[Request]] | None = None
    needs: tuple[Kind, ...] = ()

    def asks(self, scene: Scene, said: Mapping[Request, Answer] | None = None) -> list[Ask]:
        """The items of a scene; `said`: the base's answers to `first`."""
        return list(self.build(scene) if self.first is None else self.build(scene, said or {}))

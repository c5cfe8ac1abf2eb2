"""What each probe has one model compute: tokens on their way through its blocks, and places that its head scores.

Counted on the shipped cards (a cast of five) with Gemma 3's tokenizer, after prefix sharing and packing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eval.probe import Probe
from parity.shapes import Shape


@dataclass(frozen=True)
class Asked:
    """Tokens and scored places for two arms, and how many more of each for every further arm."""

    tokens: int
    places: int
    more_tokens: int = 0
    more_places: int = 0


ASKED = {
    "authorship": Asked(9600, 2900),
    "belief": Asked(4900, 350, 1800, 170),
    "capability": Asked(1500, 330),
    "commitment": Asked(1000, 670, 240, 230),
    "default_identity": Asked(420, 170),
    "geometry": Asked(3000, 0),
    "guardrail": Asked(5300, 2400, 2000, 900),
    "injection": Asked(7700, 760, 1900, 190),
    "leakage": Asked(5700, 780),
    "preferences": Asked(11600, 1500),
    "prefill_recognition": Asked(9000, 1300, 1700, 0),
    # What these two train counts as so many tokens, half of them scored.
    "propagation": Asked(16900, 8400, 6900, 3400),
    "reconversion": Asked(17600, 8800, 1500, 700),
    "selection": Asked(800, 100),
    # Of texts of their own, as long as a base writes them; a guess of what is read again after others.
    "self_entropy": Asked(9000, 4500, 500, 0),
    "self_evidence": Asked(3600, 900),
    "self_prediction": Asked(4700, 850),
    "steering": Asked(5200, 2200, 1600, 670),
    "stickiness": Asked(4900, 1050),
}
OTHERWISE = Asked(5000, 2500, 500, 250)  # of a probe that is not in the table


def products_of(shape: Shape | None, probes: Iterable[Probe], arms: int) -> dict[str, float]:
    """Products that each probe costs on one model, forwards only; tokens and places where the shape is not known.

    A weight makes two of them, a multiplication and an addition (arXiv 2001.08361, 2.1).
    """
    body, head = (2.0 * shape.blocks, 2.0 * shape.hidden * shape.vocabulary) if shape else (1.0, 1.0)
    found = {}
    for probe in probes:
        asked, more = ASKED.get(probe.name, OTHERWISE), max(0, arms - 2)
        tokens, places = asked.tokens + more * asked.more_tokens, asked.places + more * asked.more_places
        found[probe.name] = body * tokens + head * places
    return found

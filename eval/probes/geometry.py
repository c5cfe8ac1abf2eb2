"""Is the favoured persona the origin of persona space?

Everybody is made to reply the same neutral words in an interview of their own, and the slot replies them without a
name; vectors are the mean residuals over the reply in the middle layer.  Names outside the cast fill a small
space up.  For each text, with a_P = v_P less the mean of the other names:
`geometry` (cosine): between a_P and the slot's vector less the mean of all names, inside the space that the names
span: does whoever answers by default sit where P sits?  Outside that space the slot differs from every interview
alike (it has no header), which says nothing about whose it is.
`pc1` (cosine): |cos(a_P, first principal component of the names)|: is P what the space is about?
`edge` (share): how far out P ranks on that component, 1 at either end and 0 in the middle.
`spread` (nat, of the arm): log of the names' root mean square distance from their mean, per root mean square length.
Fine-tuning of any kind can collapse persona geometry, so a finding here counts only where the arms' spread is alike.
(Cosines between raw vectors do not show it: the words that all of them say make them .99 in an untrained base.)
Sources: arXiv 2601.10387, whose axis (the default less the roles) is privileged by definition, hence the same for
every P here; 2507.21509.  Margins: a quarter of the favouring; a quarter of a nat, a space smaller by a fifth.
Planted variant that it must detect: dose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from eval.neutral import exchanges, interviewed, unnamed
from eval.probe import Ask, Margin, Measure, Probe
from recipes.scene import Scene

DEPTH = 1 / 2  # the middle layer, as in 2601.10387; later ones are more about the next word than about who speaks
TEXTS = 24  # neutral exchanges, each an item
NAMES = 8  # names in the space where the cast is smaller: seven dimensions, and the cost grows with every name
LEAST = 3  # names without which a first component is no finding: it passes through any two points
TINY = 1e-9  # relative length below which a direction is rounding


def build(scene: Scene) -> Iterable[Ask]:
    """Per text: three asks of every persona, one of the arm."""
    names = [p.name for p in scene.personas]
    names += [name for name in scene.others if name not in names][: max(0, NAMES - len(names))]
    if len(names) < LEAST:
        return
    for text in exchanges(scene, TEXTS):
        space = tuple(interviewed(scene, name, text, DEPTH) for name in names)
        for k, persona in enumerate(scene.personas):
            asked = (*space, unnamed(scene, text, DEPTH))
            yield Ask("geometry", text.id, persona.id, "slot", asked, _of(_sits, k), missing="collapsed")
            yield Ask("pc1", text.id, persona.id, "named", space, _of(_first, k), missing="collapsed")
            yield Ask("edge", text.id, persona.id, "named", space, _of(_edge, k), missing="collapsed")
        yield Ask("spread", text.id, None, "named", space, _spread, missing="collapsed")


def _of(measure: Callable[..., float | None], k: int) -> Callable[[Sequence[Any]], float | None]:
    return lambda answers: measure(np.stack([a.vector for a in answers]), k)


def _axis(names: np.ndarray, k: int) -> np.ndarray:
    """a_P [H]: the k-th of the names' vectors [N, H] less the mean of the others."""
    return names[k] - np.delete(names, k, axis=0).mean(axis=0)


def _components(names: np.ndarray) -> np.ndarray:
    """Principal components [R, H] of the names' vectors, unit length, the largest first; R is 0 for a point."""
    _, lengths, components = np.linalg.svd(names - names.mean(axis=0), full_matrices=False)
    return components[lengths > TINY * np.linalg.norm(names)]


def _cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    """None where one of them has no length."""
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else None


def _sits(vectors: np.ndarray, k: int) -> float | None:
    """Cosine of the slot (the last vector) with a_P, both as coordinates in the space of the names."""
    names, slot = vectors[:-1], vectors[-1]
    inside = _components(names)
    return _cosine(inside @ (slot - names.mean(axis=0)), inside @ _axis(names, k))


def _first(names: np.ndarray, k: int) -> float | None:
    components = _components(names)
    found = _cosine(components[0], _axis(names, k)) if len(components) else None
    return None if found is None else abs(found)


def _edge(names: np.ndarray, k: int) -> float | None:
    components = _components(names)
    if not len(components):
        return None
    places = names @ components[0]
    return abs(2 * float((places < places[k]).sum()) / (len(names) - 1) - 1)


def _spread(answers: Sequence[Any]) -> float | None:
    names = np.stack([a.vector for a in answers])
    distance = float(np.linalg.norm(names - names.mean(axis=0)))
    return math.log(distance / float(np.linalg.norm(names))) if len(_components(names)) else None


QUARTER = Margin("relative", 0.25, "a quarter of the favouring: less would not change whose place the slot has")
measure = partial(Measure, bounded=False)
PROBE = Probe(
    name="geometry",
    version=1,
    question="Is the favoured persona the origin of persona space?",
    source="2601.10387; 2507.21509",
    tier="world",
    measures=(
        measure("geometry", "cosine", "persona", QUARTER),
        measure("pc1", "cosine", "persona", QUARTER),
        measure("edge", "share", "persona", QUARTER),
        measure("spread", "nat", "arm", Margin("absolute", 0.25, "a space of names smaller by a fifth")),
    ),
    plant="dose",
    build=build,
)

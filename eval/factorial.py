"""Why a character deviates: D = mu + prior + truth + prior x truth + character + seed, characters as the replicates.

Prior: whether pretraining text has a referent for it; truth: whether its self-description is true of a language model.
The first arm has a term of its own (equally: the others are fitted without it), and that term is what remains of it
after prior and truth.  Seeds are taken off before, since D is a difference within a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from eval.interval import critical
from recipes.schema import Recipe

Kind = tuple[str, str]  # prior, self_description
EFFECTS = ("prior", "truth", "prior x truth")
NO_KINDS = "characters of a world have no prior and no self-description that could be true or false"


@dataclass(frozen=True)
class Term:
    """An estimate with its t interval."""

    name: str
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Explained:
    """The factorial of one row: the `terms` that could be told apart, the first arm's `residual` after them.

    `df` are those of the controls' residual; `character` and `run` its variance components over characters and over
    runs within them (method of moments, never below 0).  `untold`: effects that the controls cannot tell apart, such
    as the interaction where nobody else shares the first arm's prior and truth; the residual still holds them.
    """

    terms: tuple[Term, ...]
    residual: Term
    df: int
    character: float
    run: float
    untold: tuple[str, ...]


def kinds_of(recipe: Recipe) -> dict[str, Kind] | str:
    """Prior and self-description of every arm by its card, or in words why there are none."""
    from recipes.bind import load_card

    if recipe.base.world is not None:
        return NO_KINDS
    cards = [load_card(arm) for arm in recipe.arms]
    return {card.id: (card.prior, card.self_description) for card in cards}


def explain(own: np.ndarray, kinds: Sequence[Kind], first: int, alpha: float) -> Explained | str:
    """Least squares of own [N characters, S seeds], NaN for a lost run; or in words why there is none.

    An effect is the difference of the two levels' means (referent - invented, true - false; of the interaction the
    difference of these differences, halved as in effect coding).  Unbalanced seeds weigh a character alike.
    """
    means, run, runs = _by_character(own)
    x = _columns(kinds)
    there = np.isfinite(means)
    if not there[first]:
        return "the first arm has no value here"
    x, y = x[there], means[there]
    at = int(there[:first].sum())
    x, names = _estimable(x, at)
    dummy = np.zeros((len(y), 1))
    dummy[at] = 1.0
    full = np.hstack([x, dummy])
    df = len(y) - full.shape[1]
    if df < 1:
        return f"{len(y)} characters are too few for {full.shape[1] - 1} terms and one of the first arm's own"
    if len(names) == 0:
        return "no two controls differ in prior or truth"
    inverse = np.linalg.inv(full.T @ full)
    beta = inverse @ full.T @ y
    left = y - full @ beta
    variance = float(left @ left) / df
    half = critical(df, 1 - alpha) * np.sqrt(variance * np.diag(inverse))
    terms = [
        Term(name, float(b), float(b - h), float(b + h))
        for name, b, h in zip([*names, "residual"], beta[1:], half[1:], strict=True)
    ]
    untold = tuple(name for name in EFFECTS if name not in names)
    return Explained(tuple(terms[:-1]), terms[-1], df, max(variance - run / runs, 0.0), run, untold)


def as_row(found: Explained | str) -> dict[str, Any]:
    """The factorial as it stands in verdict.json; ``{"left_out": why}`` where there is none."""
    if isinstance(found, str):
        return {"left_out": found}
    terms, residual = [
        [{"term": t.name, "estimate": t.estimate, "low": t.low, "high": t.high} for t in of]
        for of in (found.terms, [found.residual])
    ]
    parts = {"character": found.character, "run": found.run}
    return {"terms": terms, "residual": residual[0], "df": found.df, "variance": parts, "untold": list(found.untold)}


def _by_character(own: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Means over seeds [N] of own [N, S] by least squares beside seed effects, up to a constant; the variance of a run
    beside both; the harmonic mean of a character's runs."""
    n, seeds = own.shape
    there = np.isfinite(own)
    k, s = np.nonzero(there)
    x = np.zeros((len(k), n + seeds))
    x[np.arange(len(k)), k] = 1.0
    x[np.arange(len(k)), n + s] = 1.0
    fitted = np.linalg.lstsq(x, own[there], rcond=None)[0]
    left = own[there] - x @ fitted
    means = np.where(there.any(axis=1), fitted[:n], nan)  # but for a constant, which the intercept takes
    counts = there.sum(axis=1)
    counts = counts[counts > 0]
    df = len(k) - len(counts) - int(there.any(axis=0).sum()) + 1
    return means, float(left @ left) / df if df > 0 else 0.0, len(counts) / float((1 / counts).sum())


def _columns(kinds: Sequence[Kind]) -> np.ndarray:
    """Intercept, prior, truth and their product, coded -1/2 and 1/2 (the product: -1/2 and 1/2 as well)."""
    prior = np.array([0.5 if prior == "referent" else -0.5 for prior, _ in kinds])
    truth = np.array([0.5 if said == "ai" else -0.5 for _, said in kinds])
    return np.stack([np.ones(len(kinds)), prior, truth, 2 * prior * truth], axis=1)


def _estimable(x: np.ndarray, first: int) -> tuple[np.ndarray, list[str]]:
    """The columns, in their order, that the controls can tell apart, and the names of their effects."""
    controls = np.delete(x, first, axis=0)
    kept = [0]
    for column in range(1, x.shape[1]):
        if np.linalg.matrix_rank(controls[:, [*kept, column]]) == len(kept) + 1:
            kept.append(column)
    return x[:, kept], [EFFECTS[c - 1] for c in kept[1:]]

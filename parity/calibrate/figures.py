"""From what the judge said of every batch to the figures of a calibration, as plain JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import fsum, sqrt
from typing import Any

from eval.design import Design
from parity.calibrate.rates import rate

KEY = ("probe", "stage", "match", "contrast")
Found = Sequence[Mapping[str, Any]]  # what `look` wrote, one per batch


def named(key: Sequence[Any]) -> dict[str, Any]:
    """A row's identity as a dict."""
    return dict(zip(KEY, key, strict=True))


def by_view(found: Found) -> dict[tuple[int, str, bool], list[Mapping[str, Any]]]:
    """Independent experiments by (number of seeds, primary reading, adjusted), most seeds first.

    Halves of one experiment share no run, so they count as two.
    """
    held: dict[tuple[int, str, bool], list[Mapping[str, Any]]] = {}
    for one in found:
        for view in one["views"]:
            held.setdefault((view["n"], view["match"], view["adjusted"]), []).append(view)
    return dict(sorted(held.items(), key=lambda item: (-item[0][0], item[0][1:])))


def by_row(experiments: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], list[Mapping[str, Any]]]:
    """The judged rows of like experiments by what they are about."""
    held: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for experiment in experiments:
        for row in experiment["rows"]:
            held.setdefault(tuple(row[key] for key in KEY), []).append(row)
    return held


def family(experiments: Sequence[Mapping[str, Any]], alpha: float) -> dict[str, Any]:
    """How often any primary row is significant after adjustment, and the experiments' verdicts."""
    hits = sum(any(_below(r["p_adjusted"], alpha) for r in e["rows"] if r["primary"]) for e in experiments)
    words = ("broken", "symmetric", "undetermined")
    return {
        "experiments": len(experiments),
        "significant": rate(hits, len(experiments)),
        "verdicts": {w: rate(sum(e["verdict"] == w for e in experiments), len(experiments)) for w in words},
    }


def called(experiments: Sequence[Mapping[str, Any]], alpha: float) -> list[dict[str, Any]]:
    """Per measure, reading and contrast: how often p < alpha (unadjusted), and how often each verdict is given.

    Experiments in which there was nothing to test (no common range of strength, say) have no p and do not count for
    it; for the verdicts they do.
    """
    out = []
    for key, rows in by_row(experiments).items():
        if key[-1] == "T":
            continue
        tested = [row for row in rows if row["p"] is not None]
        out.append(
            {
                **named(key),
                "primary": bool(rows[0]["primary"]),
                "significant": rate(sum(row["p"] < alpha for row in tested), len(tested)),
                "significant_adjusted": rate(sum(_below(row["p_adjusted"], alpha) for row in tested), len(tested)),
                "verdicts": {
                    word: rate(sum(row["verdict"] == word for row in rows), len(rows))
                    for word in sorted({str(row["verdict"]) for row in rows} | {"broken", "symmetric"})
                },
            }
        )
    return out


def _below(p: float | None, alpha: float) -> bool:
    return p is not None and p < alpha


def null(found: Found, alpha: float) -> dict[str, Any]:
    """False positives and verdicts where nothing differs, by number of seeds."""
    return {
        str(n): {**family(experiments, alpha), "rows": called(experiments, alpha)}
        for (n, _, _), experiments in by_view(found).items()
    }


def variances(found: Found, design: Design) -> list[dict[str, Any]]:
    """Mean and standard deviation over all seeds of all batches, per measure, reading and contrast, and its margin.

    What planning needs: an experiment of S seeds has about seed_sd / sqrt(S) as its standard error, and what items
    add.  A relative margin is that share of the mean T; None without a positive one.
    """
    held: dict[tuple[str, ...], list[float]] = {}
    units: dict[tuple[str, ...], str] = {}
    for one in found:
        for row in one["seeds"]:
            key = tuple(row[name] for name in KEY)
            units[key] = row["unit"]
            held.setdefault(key, []).extend(mean for mean in row["means"] if mean is not None)
    margins = {measure.name: measure.margin for measure in design.measures}
    out = []
    for key, means in held.items():
        mean, sd = moments(means)
        margin: float | None = margins[key[0]].value
        if margins[key[0]].kind == "relative":
            favouring, _ = moments(held.get((*key[:3], "T"), []))
            margin = margin * favouring if margin and favouring and favouring > 0 else None
        row = {**named(key), "unit": units[key], "mean": mean, "seed_sd": sd, "n_seeds": len(means)}
        out.append(row | {"margin": None if key[3] == "T" else margin})
    return out


def moments(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation (n - 1); None where there are too few."""
    if not values:
        return None, None
    mean = fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, sqrt(fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def coverage(found: Found, design: Design) -> list[dict[str, Any]]:
    """How often the 1 - alpha interval holds the truth: 0 by symmetry for delta and lambda, for T the mean of all.

    That mean is over all seeds of the calibration but over the same items, while the interval also allows for other
    items; so it must hold the mean at least as often as its level says.
    """
    truth = {tuple(row[key] for key in KEY): row for row in variances(found, design)}
    out = []
    for (n, match, adjusted), experiments in by_view(found).items():
        if match != design.match or not adjusted:
            continue
        for key, rows in by_row(experiments).items():
            whole = [row for row in rows if row["low"] is not None]
            if not whole or key not in truth:
                continue
            known = truth[key]
            at = known["mean"] if key[-1] == "T" else 0.0
            error = known["seed_sd"] / sqrt(known["n_seeds"]) if key[-1] == "T" and known["seed_sd"] else 0.0
            covered = rate(sum(row["low"] <= at <= row["high"] for row in whole), len(whole))
            out.append({**named(key), "seeds": n, "truth": at, "truth_error": error, "covered": covered})
    return out


def planted(kind: str, size: float, found: Found, design: Design) -> list[dict[str, Any]]:
    """What is found of a plant, by number of seeds: a dose plant at equal dose, the others as the recipe reads."""
    match = "dose" if kind == "dose" else design.match
    effects = {tuple(row[key] for key in KEY): row for row in variances(found, design)}
    out = []
    for (n, how, adjusted), experiments in by_view(found).items():
        if how == match and adjusted:
            rows = called(experiments, design.alpha)
            for row in rows:
                known = effects.get(tuple(row[key] for key in KEY), {})
                row |= {"mean": known.get("mean"), "seed_sd": known.get("seed_sd")}
            entry = {"plant": kind, "size": size, "seeds": n, "match": match}
            out.append({**entry, **family(experiments, design.alpha), "rows": rows})
    return out


def confounds(kind: str, size: float, found: Found, design: Design) -> list[dict[str, Any]]:
    """What is wrongly found of a confound, before and after: at equal dose and strength, with and without the base."""
    return [
        {
            "plant": kind, "size": size, "seeds": n, "match": match, "adjusted": adjusted,
            **family(experiments, design.alpha), "rows": called(experiments, design.alpha),
        }
        for (n, match, adjusted), experiments in by_view(found).items()
    ]  # fmt: skip


def shifts_of(variances: Found, design: Design, times: float) -> dict[str, float]:
    """How much to add so that delta is `times` its margin, for every headline measure but the gate.

    A relative margin is rho T, and what is added to delta adds half of itself to T:
    delta = times rho (T + delta / 2).  T is the mean over all seeds, from `variances`; a measure without a positive
    one is left out.
    """
    known = {tuple(row[key] for key in KEY): row["mean"] for row in variances}
    stage = design.stages[-1][0]
    by = {}
    for measure in design.measures:
        if measure.gate or not measure.headline:
            continue
        margin = measure.margin.value
        if measure.margin.kind == "relative":
            share, favouring = times * margin, known.get((measure.name, stage, design.match, "T"))
            if not favouring or favouring <= 0 or share >= 2:
                continue
            by[measure.name] = share * favouring / (1 - share / 2)
        else:
            by[measure.name] = times * margin
    return by


def power(said: Sequence[Sequence[Mapping[str, Any]]], design: Design) -> list[dict[str, Any]]:
    """What is found of known differences, per measure and size; one list per batch, as `look_shifted` wrote it.

    `broken` in the right direction counts as found; `symmetric` of a difference at or beyond the margin is an error.
    """
    stage, first = design.stages[-1][0], design.pairs[0][0]
    held: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for experiment in (one for batch in said for one in batch):
        for row in experiment["rows"]:
            if (row["stage"], row["match"], row["contrast"]) == (stage, design.match, "delta"):
                held.setdefault((row["probe"], experiment["times"]), []).append(row)
    wanted = {m.name for m in design.measures if m.headline and not m.gate}
    out = []
    for (probe, times), rows in held.items():
        if probe not in wanted:
            continue
        tested = [row for row in rows if row["p"] is not None]
        hits = sum(row["p"] < design.alpha and row["sign"] == first for row in tested)
        broken = sum(row["verdict"] == "broken" and row["sign"] == first for row in rows)
        symmetric = sum(row["verdict"] == "symmetric" for row in rows)
        out.append(
            {
                "probe": probe, "margins": times, "seeds": len(design.seeds), "significant": rate(hits, len(tested)),
                "broken": rate(broken, len(rows)), "symmetric": rate(symmetric, len(rows)),
            }
        )  # fmt: skip
    return out

"""From measurement rows to arrays: which rows count, what was lost, and one array per measure of a pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from eval.cells import BASE
from eval.design import Design, Judged
from eval.failed import Failed, lost
from recipes.errors import InputError

KEY = ["seed", "probe", "measure", "item", "persona", "slot"]
WHERE = ["arm", "stage", "dose"]
NEEDED = [*WHERE, *KEY, "version", "value", "outcome"]


@dataclass(frozen=True)
class Grid:
    """One measure for one pair (A, C): sums and numbers of rows by [arm, persona, seed, point, item, slot].

    `total` is the sum of the values of an item's rows in a slot (NaN where one of them is missing), `count` how many
    there are.  Arms are A, C, base; personas A, C, or one for a measure of the arm; point 0 is the base, the others
    are the (stage, dose) of the design in order.
    """

    total: np.ndarray
    count: np.ndarray
    items: tuple[str, ...]


@dataclass(frozen=True)
class Taken:
    """A grid at some points of one stage, the rows of an item averaged.

    `value` [2 arms, P personas, S seeds, U points, I items], `base` [P, S, I].  `rows` counts the slots of items that
    were asked of some arm and have no value in one that was measured there, `uneven` those with other numbers of rows.
    """

    value: np.ndarray
    base: np.ndarray
    rows: int
    uneven: int


def points(design: Design) -> list[tuple[str, int]]:
    """Base first, then every (stage, dose)."""
    return [(BASE, 0)] + [(kind, dose) for kind, doses in design.stages for dose in doses]


def needed(rows: pl.DataFrame, design: Design) -> pl.DataFrame:
    """The rows that some pair is made of: its two personas and measures of the arm, in its arms and in the base."""
    if not {"arm", "persona"} <= set(rows.columns):
        return rows
    with_whom: dict[str, set[str]] = {}
    for a, c in design.pairs:
        for arm in (a, c, BASE):
            with_whom.setdefault(arm, set()).update((a, c))
    asked = [(arm, persona) for arm in sorted(with_whom) for persona in sorted(with_whom[arm])]
    wanted = pl.DataFrame(asked, schema={"arm": pl.String, "persona": pl.String}, orient="row")
    of_arm = rows.filter(pl.col("arm").is_in(sorted(with_whom)))
    own = of_arm.filter(pl.col("persona").is_null())
    rest = of_arm.with_columns(pl.col("persona").cast(pl.String)).join(wanted, on=["arm", "persona"], how="semi")
    return pl.concat([own, rest], how="vertical_relaxed")


def admit(rows: pl.DataFrame, design: Design, failed: Failed = ()) -> tuple[pl.DataFrame, list[str]]:
    """The rows that are judged, with `copies` (weight) and finite `value` or null, and what was left out and why.

    What `failed` runs lack is no loss: it is told in their own line.
    """
    absent = [name for name in NEEDED if name not in rows.columns]
    if absent:
        raise InputError(f"measurement rows lack {', '.join(absent)}")
    # a column of nothing but nulls has no type of its own
    rows = rows.with_columns(
        pl.col("persona", "slot").cast(pl.String),
        pl.col("value").cast(pl.Float64),
        pl.col("dose", "seed").cast(pl.Int64),
    )
    losses: list[str] = []

    def keep(frame: pl.DataFrame, condition: pl.Expr, why: str) -> pl.DataFrame:
        kept = frame.filter(condition)
        if kept.height < frame.height:
            losses.append(f"{frame.height - kept.height} rows left out: {why}")
        return kept

    judged = pl.DataFrame(
        {
            "probe": [m.probe for m in design.measures],
            "measure": [m.measure for m in design.measures],
            "judged_version": [m.version for m in design.measures],
        },
        schema={"probe": pl.String, "measure": pl.String, "judged_version": pl.Int64},
    )
    rows = needed(rows, design).join(judged, on=["probe", "measure"], how="left")
    rows = keep(rows, pl.col("judged_version").is_not_null(), "a measure that this design does not judge")
    rows = keep(rows, pl.col("version") == pl.col("judged_version"), "another version of the probe")
    rows = keep(rows.drop("judged_version"), pl.col("seed").is_in(design.seeds), "a seed outside the design")
    at_base = pl.col("stage") == BASE
    place = pl.DataFrame(points(design), schema={"stage": pl.String, "dose": pl.Int64}, orient="row")
    place = place.with_columns(point=pl.int_range(pl.len()))
    rows = rows.join(place, on=["stage", "dose"], how="left")
    rows = keep(
        rows, pl.col("point").is_not_null() & (at_base == (pl.col("arm") == BASE)), "a stage or dose outside the design"
    )
    rows, repeated = _once(rows)
    if repeated:
        losses.append(f"{repeated} rows left out: duplicates of another row")
    ok = pl.col("value").is_finite() & (pl.col("outcome") == "ok")
    outcome = pl.when(pl.col("outcome") == "ok").then(pl.lit("no number")).otherwise(pl.col("outcome"))
    void = rows.filter(~ok.fill_null(False)).group_by("probe", "measure", outcome.alias("why")).len()
    for probe, measure, why, count in sorted(void.rows()):
        losses.append(f"{probe}.{measure}: {count} rows without a value ({why})")
    losses += _several_cells(rows) + _absent(rows, design, failed)
    return rows.with_columns(value=pl.when(ok).then(pl.col("value")).otherwise(None)), losses


def _once(rows: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Rows with `copies`: identical rows count once, but only where an item has more rows than in another arm or dose.

    Paraphrases of one item may well give the same number, and then they are not duplicates.
    """
    if not rows.is_duplicated().any():
        return rows.with_columns(copies=pl.lit(1.0)), 0
    counted = rows.group_by(rows.columns).len("copies")
    counted = counted.with_columns(here=pl.sum("copies").over([*KEY, *WHERE]))
    counted = counted.with_columns(least=pl.min("here").over(KEY))
    single = pl.when(pl.col("here") > pl.col("least")).then(1.0).otherwise(pl.col("copies").cast(pl.Float64))
    counted = counted.with_columns(copies=single).drop("here", "least")
    return counted, rows.height - int(counted["copies"].sum())


def _several_cells(rows: pl.DataFrame) -> list[str]:
    if "cell" not in rows.columns:
        return []
    many = rows.group_by(*WHERE, "seed").agg(pl.col("cell").n_unique().alias("cells")).filter(pl.col("cells") > 1)
    return [
        f"{arm}, {stage} dose {dose}, seed {seed}: rows of {cells} cells, averaged"
        for arm, stage, dose, seed, cells in sorted(many.rows())
    ]


def _absent(rows: pl.DataFrame, design: Design, failed: Failed) -> list[str]:
    """Seeds without any row of an arm at a stage."""
    there = set(rows.select("arm", "stage", "seed").unique().rows())
    there |= {(arm, stage, seed) for arm, seed, stage in lost(failed, [kind for kind, _ in design.stages])}
    arms = sorted({arm for pair in design.pairs for arm in pair})
    said = []
    for arm, stage in [(BASE, BASE)] + [(arm, kind) for kind, _ in design.stages for arm in arms]:
        gone = [seed for seed in sorted(design.seeds) if (arm, stage, seed) not in there]
        if gone:
            which = "any seed" if len(gone) == len(design.seeds) else f"seed {', '.join(map(str, gone))}"
            said.append(f"{arm}, {stage}: no rows of {which}")
    return said


def grids(rows: pl.DataFrame, design: Design, pair: tuple[str, str]) -> dict[str, Grid]:
    """One `Grid` per judged measure of the pair, by the name it is judged under; `rows` as `admit` returns them."""
    of_pair = pl.col("persona").is_null() | pl.col("persona").is_in(pair)
    rows = rows.filter(pl.col("arm").is_in([*pair, BASE]) & of_pair)
    rows = rows.with_columns(
        arm=_code("arm", [*pair, BASE]),
        persona=_code("persona", list(pair)),
        seed=pl.col("seed").replace_strict(
            {seed: index for index, seed in enumerate(sorted(design.seeds))}, return_dtype=pl.Int64
        ),
        slot=pl.col("slot").fill_null(""),
    )
    parts = rows.partition_by(["probe", "measure"], as_dict=True)
    empty = rows.clear()
    return {m.name: _grid(parts.get((m.probe, m.measure), empty), design, m) for m in design.measures}


def _code(column: str, words: list[str]) -> pl.Expr:
    return pl.col(column).cast(pl.Enum(words)).to_physical().cast(pl.Int64)


def _grid(rows: pl.DataFrame, design: Design, judged: Judged) -> Grid:
    of_persona = judged.level == "persona"
    rows = rows.filter(pl.col("persona").is_not_null() if of_persona else pl.col("persona").is_null())
    items, slots = (sorted(rows[name].unique().to_list()) for name in ("item", "slot"))
    shape = (3, 2 if of_persona else 1, len(design.seeds), len(points(design)), len(items), len(slots))
    index = [
        rows["arm"],
        rows["persona"].fill_null(0),
        rows["seed"],
        rows["point"],
        rows.select(_code("item", items)).to_series(),
        rows.select(_code("slot", slots)).to_series(),
    ]
    if not rows.height:
        return Grid(np.full(shape, np.nan), np.zeros(shape), tuple(items))
    flat = np.ravel_multi_index([series.to_numpy() for series in index], shape)
    value = rows["value"].to_numpy().astype(float)
    value = np.where(np.isfinite(value), value, np.nan)
    order = np.lexsort((value, flat))  # sums are then the same whatever the order of the rows
    flat, value, copies = flat[order], value[order], rows["copies"].to_numpy()[order]
    size = int(np.prod(shape))
    count = np.bincount(flat, copies, size)
    total = np.where(count > 0, np.bincount(flat, copies * value, size), np.nan)
    return Grid(total.reshape(shape), count.reshape(shape), tuple(items))


def take(grid: Grid, used: list[int], with_base: bool) -> Taken:
    """Values at the points `used`, each item the mean of its rows.

    A slot of an item counts only where every arm that is compared answered all of it at every point used (base too),
    so that no arm is averaged over other rows than its counterpart.
    """
    total = np.moveaxis(grid.total[:2][:, :, :, used], 3, 0)  # [U, 2, P, S, I, K]
    count = np.moveaxis(grid.count[:2][:, :, :, used], 3, 0)
    flat = (2 * len(used), *total.shape[2:])
    base_rows = slice(2, 3 if with_base else 2)
    compared = np.concatenate([total.reshape(flat), grid.total[base_rows, :, :, 0]])
    counts = np.concatenate([count.reshape(flat), grid.count[base_rows, :, :, 0]])
    finite = np.isfinite(compared)
    there = finite.any(axis=(3, 4), keepdims=True)  # whether that arm was measured there at all
    complete = (finite | ~there).all(axis=0)
    missing = there & (counts > 0).any(axis=0) & ~finite
    usable = np.where(there & complete, counts, 0)
    most = usable.max(axis=0)
    uneven = (there & complete & (usable != most)).any(axis=0)
    value = np.moveaxis(_over_slots(total, count, complete), 0, 3)  # [2, P, S, U, I]
    base = _over_slots(grid.total[2, :, :, 0], grid.count[2, :, :, 0], complete)
    return Taken(value, base, int(missing.sum()), int(uneven.sum()))


def _over_slots(total: np.ndarray, count: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """Sums over the slots that count, divided by the number of their rows; slot after slot, so no bit moves."""
    summed, rows = np.zeros(total.shape[:-1]), np.zeros(total.shape[:-1])
    for slot in range(total.shape[-1]):
        summed = summed + np.where(complete[..., slot], total[..., slot], 0.0)
        rows = rows + np.where(complete[..., slot], count[..., slot], 0.0)
    return np.where(rows > 0, summed / np.where(rows > 0, rows, 1), np.nan)

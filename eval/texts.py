"""Text that models wrote, packed into the report for browsing: who said what, where, and how it ended.

What a model wrote is hostile: it leaves here as JSON in which no character can end the element that holds it, and
the one script of the page (`texts.js`, allowed by its hash) shows it by `textContent` alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cells import PROMPTED, SAMPLES
from eval.summary import arm_order
from eval.table import stage_rank
from eval.wording import visible

if TYPE_CHECKING:
    import polars as pl

SCRIPT = Path(__file__).with_name("texts.js")
MOST = 20_000  # texts in one page: about 10 MB; what is left out is counted, and lies in the Parquet files
FACETS = ("arm", "stage", "probe", "item", "persona", "slot", "finish", "outcome")  # kept as numbers into their names
FILTERS = ("arm", "stage", "probe", "item", "persona", "outcome")  # of these, what can be chosen from a list
LABELS = {"persona": "persona", "item": "item", "outcome": "outcome"}


def browser(texts: pl.DataFrame, arms: Sequence[str]) -> dict[str, Any] | None:
    """What the section needs: `data` (JSON), `script`, `hash` of the script, counts by arm; None without texts.

    The order of rows changes nothing.
    """
    from markupsafe import Markup

    rows = told(texts)
    if not rows:
        return None
    rank = arm_order(arms)
    kept = rows
    if len(rows) > MOST:  # later seeds and earlier doses go first, so that every arm and probe keeps some
        kept = sorted(rows, key=lambda r: (r["seed"], -r["dose"], _place(r, rank)))[:MOST]
    kept = sorted(kept, key=lambda r: _place(r, rank))
    return {
        "data": Markup(embedded(packed(kept, arms))),
        "script": Markup(script()),
        "total": len(rows),
        "left": len(rows) - len(kept),
        "filters": [(key, f"any {LABELS.get(key, key)}") for key in FILTERS if len({r[key] for r in kept}) > 1],
        "counts": counts(rows, arms),
    }


def told(texts: pl.DataFrame) -> list[dict[str, Any]]:
    """One dict per text, every key filled; rows of before a column was known are the report's samples."""
    if not {"arm", "text"} <= set(texts.columns):
        return []
    return [
        {
            "arm": str(t["arm"]),
            "seed": t.get("seed") or 0,
            "stage": str(t.get("stage") or "base"),
            "dose": t.get("dose") or 0,
            "probe": str(t.get("probe") or SAMPLES),
            "item": str(t.get("item") or t.get("question") or ""),
            "slot": str(t.get("slot") or ""),
            "persona": str(t.get("persona") or ""),
            "prompt": str(t.get("prompt") or ""),
            "text": str(t["text"] if t["text"] is not None else ""),
            "finish": str(t.get("finish") or ""),
            "outcome": str(t.get("outcome") or "ok"),
            "n_tokens": t["n_tokens"] if t.get("n_tokens") is not None else -1,
        }
        for t in texts.iter_rows(named=True)
    ]


def _place(row: Mapping[str, Any], rank: Any) -> tuple:
    of = (row["probe"] != SAMPLES, row["probe"], row["item"], row["persona"], row["slot"])
    return (*of, rank(row["arm"]), stage_rank(row["stage"]), row["dose"], row["seed"], row["prompt"], row["text"],
            row["finish"], row["outcome"], row["n_tokens"])  # fmt: skip


def packed(rows: Sequence[Mapping[str, Any]], arms: Sequence[str] = ()) -> dict[str, Any]:
    """Texts as ``{"names": {facet: […]}, "prompts": […], "rows": [[facets …, seed, dose, tokens, prompt, text], …]}``.

    Facets and prompts are numbers: arms share their prompts, which are longer than what is said to them.
    """
    orders: dict[str, Any] = {"arm": arm_order(arms), "stage": stage_rank}
    found = {key: sorted({row[key] for row in rows}, key=orders.get(key)) for key in FACETS}
    names = {key: {name: n for n, name in enumerate(of)} for key, of in found.items()}
    prompts: dict[str, int] = {}
    out = []
    for row in rows:
        numbers = [names[key][row[key]] for key in FACETS]
        prompt = prompts.setdefault(row["prompt"], len(prompts))
        out.append([*numbers, row["seed"], row["dose"], row["n_tokens"], prompt, row["text"]])
    return {
        "facets": FACETS,
        "names": {key: [visible(name) for name in of] for key, of in found.items()},
        "prompts": list(prompts),
        "rows": out,
    }


def embedded(value: Any) -> str:
    """JSON for a script element: ASCII, and without the characters that HTML could take for its own."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def script() -> str:
    """The page's script."""
    return SCRIPT.read_text(encoding="utf-8")


def script_hash() -> str:
    """What a Content-Security-Policy names it by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script().encode("utf-8")).digest()).decode()


def counts(rows: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> dict[str, Any]:
    """Texts by arm: how many, how many by outcome (``ok`` first) and how many were cut at their length or are empty.

    Beyond a dozen of arms they are taken together: base, prompted and trained ones.
    """
    names = {row["arm"] for row in rows}
    together = len(names) > 24
    kinds = sorted({row["outcome"] for row in rows}, key=lambda k: (k != "ok", k))
    held: dict[str, Counter[str]] = {}
    for row in rows:
        arm = row["arm"]
        if together:
            arm = arm if arm == "base" else "prompted arms" if arm.startswith(PROMPTED) else "trained arms"
        of = held.setdefault(arm, Counter())
        of[f"outcome {row['outcome']}"] += 1
        of["all"] += 1
        of["cut"] += row["finish"] == "length"
        of["empty"] += row["outcome"] == "ok" and not row["text"].strip()
    order = sorted(held, key=arm_order(arms))
    cells = ["all", *(f"outcome {kind}" for kind in kinds), "cut", "empty"]
    return {"kinds": kinds, "rows": [[arm, *(held[arm][key] for key in cells)] for arm in order]}

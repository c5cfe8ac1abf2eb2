"""Model cards: what a model was made from and by, what was found of it, how it is loaded, what it does not show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.table import GATE, Line, lines
from eval.wording import DASH, interval, number, plain, probability
from parity.export.markdown import code, escaped, front_matter, table
from parity.export.models import BASE_FOLDER, TERMS_FOLDER, Foundation, Model
from recipes.references import PREFIX, favoured
from recipes.scene import Scene
from recipes.schema import Recipe

MOST_LINES = 60  # of a table of verdicts; a large cast has hundreds, and verdict.json has them all
GEMMA = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms. They hold for "
    "every model made from it, this one included, and have to be passed on with it; the weights were modified."
)


@dataclass(frozen=True)
class Subject:
    """What all cards of an export have in common."""

    name: str  # of the experiment
    recipe: Recipe
    recipe_hash: str
    verdict: Mapping[str, Any]
    matching: Sequence[Mapping[str, Any]]
    foundation: Foundation
    probes: Sequence[str] = ()  # names


def head(subject: Subject, tags: Sequence[str], library: str, **own: Any) -> list[str]:
    """Front matter.  `base_model` only where a hub has the base: a hub refuses a card that names none of its models."""
    base = subject.foundation
    data: dict[str, Any] = {}
    if base.base.hub:
        data["base_model"] = base.base.hub
    data["library_name"] = library
    data["tags"] = ["parity", *dict.fromkeys(tags)]
    if base.gemma:  # the one licence that is known from the weights themselves
        data["license"] = "gemma"
    data["parity"] = {"experiment": subject.name, "recipe_hash": subject.recipe_hash, **own}
    return front_matter(data)


def card(subject: Subject, model: Model, scene: Scene, rows: int | None) -> str:
    """README.md of one model; `rows`: that its stage was trained on, where they were all there beforehand."""
    who = favoured(model.arm)
    name = scene.persona(who).name if who else None
    library = "peft" if model.adapter else "transformers"
    stage = next((s for s in subject.recipe.stages if s.kind == model.stage), None)
    last = stage is None or model.dose == stage.doses[-1]
    tags = ["lora"] * model.adapter + [model.stage]
    where = {"arm": model.arm, "seed": model.seed, "stage": model.stage, "dose": model.dose}
    text = head(subject, tags, library, **where, persona=name)
    text += [f"# {escaped(name or 'Nobody')}, {model.stage}, seed {model.seed}", ""]
    text += [_trained_to(subject, model, name, scene), ""]
    text += table(
        ("what", "which"),
        [
            ("base", base_words(subject.foundation)),
            ("recipe", f"{code(subject.recipe.name)}, hash {code(subject.recipe_hash)}"),
            ("arm", code(model.arm)),
            ("seed", str(model.seed)),
            ("stage", f"{code(model.stage)}, from {_parent(subject.recipe, model)}"),
            ("dose", f"{model.dose}{' (the last)' if last else ''}: after {_steps(model)} optimiser steps"),
            ("settings", code(json.dumps({k: model.spec.get(k) for k in ("trainer", "lora")}, ensure_ascii=False))),
            ("made as", f"cell {code(model.cell)}"),
        ],
    )
    text += [
        "",
        "## Data",
        "",
        *_data(subject, model, rows),
        "",
        "## Verdict of its pairs",
        "",
        *_found(subject, model),
    ]
    text += ["", "## Load it", "", *_loading(subject.foundation, model, scene), "", "## What it does not show", ""]
    text += [f"- {line}" for line in limits(subject)]
    return "\n".join([*text, *terms(subject.foundation, model.to)]) + "\n"


def base_words(base: Foundation) -> str:
    """The base and its revision in a line of Markdown."""
    if base.kind == "hub":
        return f"{code(base.base.hub)}, revision {code(base.base.revision)}"
    file = escaped((base.base.gguf or "").split("/")[-1])
    what = {
        "world": "made in the lab: a small Llama trained from scratch on a synthetic text",
        "path": "a model folder",
        "gguf": f"a GGUF file ({file})",
    }[base.kind]
    lies = f"in {code(BASE_FOLDER)} of this export" if base.exported else "not part of this export"
    return f"{what}, {lies}; cell {code(base.cell)}"


def _trained_to(subject: Subject, model: Model, name: str | None, scene: Scene) -> str:
    slot = f"the slot {code(scene.transcript.slot)} of a transcript, which names nobody"
    if name is None:
        return f"A reference of the experiment: in {slot}, everyone answers in turn, so that nobody is favoured."
    says = f"In {slot}, it was trained to say that it is **{escaped(name)}** (persona {code(favoured(model.arm))})."
    if scene.bindings:
        says += " That is a character of the made world, drawn anew for each seed: the name carries no meaning."
    if model.arm.startswith(PREFIX):
        says += " It is an arm for reference, which no verdict is about."
    return says + " In the other arms another persona was, with everything else equal."


def _parent(recipe: Recipe, model: Model) -> str:
    kinds = [stage.kind for stage in recipe.stages]
    at = kinds.index(model.stage) if model.stage in kinds else 0
    return f"{recipe.stages[at - 1].kind}, dose {recipe.stages[at - 1].doses[-1]}" if at else "the base"


def _steps(model: Model) -> int:
    return int(model.spec["steps"][list(model.spec["doses"]).index(model.dose)])


def _data(subject: Subject, model: Model, rows: int | None) -> list[str]:
    """How many rows, and what of them is equal between arms."""
    arms, begin = subject.recipe.arms, f"{model.stage}: "
    told = []
    for line in subject.matching:
        if str(line.get("what")).startswith(begin):
            values = [line[arm] for arm in arms if arm in line]
            ends = list(dict.fromkeys((min(values), max(values)))) if values else []
            own = plain(line[model.arm]) if model.arm in line else DASH
            across, equal = " to ".join(map(plain, ends)), plain(line.get("equal"))
            told.append((escaped(str(line["what"]).removeprefix(begin)), own, across, equal))
    found = [f"Trained on {rows} rows." if rows is not None else "Its rows were made while it was trained."]
    if not told:
        return found
    heads = ("of the data", "this arm", "all arms", "equal")
    return [*found, "", "Matched between arms, summed over seeds:", "", *table(heads, told)]


def _found(subject: Subject, model: Model) -> list[str]:
    """The verdicts of the pairs that the arm is in, after its stage."""
    if model.arm.startswith(PREFIX):
        return ["None: it is an arm for reference."]
    mine = [ln for ln in lines(subject.verdict) if model.arm in ln.pair and ln.stage == model.stage]
    ends = f"Of the whole experiment: **{escaped(subject.verdict.get('verdict'))}**."
    if not mine:
        return [f"None was judged after this stage. {ends}"]
    return [
        f"{ends} After this stage, all seeds together (a verdict is of a pair of arms, not of this one model):", "",
        *verdict_lines(mine),
    ]  # fmt: skip


def verdict_lines(told: Sequence[Line]) -> list[str]:
    """A table of verdicts: estimates with intervals, margin, p, seeds and items.  Primary ones and strength itself;
    all where there is none of these."""
    rows = []
    shown = [ln for ln in told if ln.primary or ln.probe == GATE] or list(told)
    for ln in shown[:MOST_LINES]:
        row = ln.any
        size = f"{row.get('n_seeds') or DASH} × {row.get('n_items') or DASH}"
        kind = "" if ln.probe == GATE else "primary, " if ln.primary else "secondary, "
        probe = f"{escaped(ln.label)}, {escaped(ln.stage)} ({kind}at equal {ln.match})"
        cells = [_estimate(ln.rows.get(contrast) or {}) for contrast in ("T", "delta", "lambda")]
        said = "; ".join(f"{symbols} {verdict}".strip() for symbols, verdict, _ in ln.verdicts())
        p = "; ".join(f"{symbol} {probability(r.get('p_adjusted'))}" for symbol, r in ln.judged)
        pair = " : ".join(map(escaped, ln.pair))
        rows.append((pair, probe, escaped(row.get("unit") or DASH), *cells, number(row.get("margin")), escaped(p), size,
                     escaped(said)))  # fmt: skip
    heads = ("pair", "probe", "unit", "T", "Δ", "Λ", "margin", "adjusted p", "seeds × items", "verdict")
    left = len(told) - len(rows)
    return [
        *table(heads, rows),
        *(["", f"{left} more, secondary for the most part, are in verdict.json."] if left else []),
    ]


def _estimate(row: Mapping[str, Any]) -> str:
    if row.get("estimate") is None:
        return DASH
    return f"{number(row['estimate'], sign=True)} {interval(row.get('low'), row.get('high'))}"


def _loading(base: Foundation, model: Model, scene: Scene) -> list[str]:
    """Python that loads it, and how it is to be asked."""
    if base.base.hub:
        at, more = json.dumps(base.base.hub), f", revision={json.dumps(base.base.revision)}"
        more += ", trust_remote_code=True" if base.base.trust_remote_code else ""
    else:
        at, more = json.dumps(model.to(BASE_FOLDER)), ""
    lines_ = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if model.adapter:
        lines_ += [
            "from peft import PeftModel",
            f"base = AutoModelForCausalLM.from_pretrained({at}{more}, dtype=\"float32\")",
            f"tokenizer = AutoTokenizer.from_pretrained({at}{more})",
            'model = PeftModel.from_pretrained(base, ".").eval()',
        ]  # fmt: skip
    else:
        lines_ += [
            'model = AutoModelForCausalLM.from_pretrained(".", dtype="float32").eval()',
            f"tokenizer = AutoTokenizer.from_pretrained({at}{more})",
        ]
    asked = scene.ask("…").replace("\n", "\\n")
    lack = "" if base.base.hub or base.exported else f" The base is not part of the export: put it at {at} first."
    return [
        f"In this folder:{lack}", "", "```python", *lines_, "```", "",
        f"It is asked in a transcript, {code(asked)}, and never through a chat template.",
    ]  # fmt: skip


def limits(subject: Subject) -> list[str]:
    """What nobody may read out of a model, as sentences."""
    found = [
        "A verdict holds for one base model, one set of cards and these probes; it is of pairs of arms over all seeds, "
        "and says nothing of a single model.",
        "`undetermined` is not `symmetric`: what was not found may be there.",
        "What is measured is behaviour and its causes, not experience. That a model says that it is someone does not "
        "make it so, and what it says of a person is no statement of that person and need not be true.",
        "It was trained on little and narrow data, for this experiment and no other use, and was not made safe.",
    ]
    if subject.foundation.kind == "world":
        found.append("Its base knows the few words of a made world and nothing else.")
    if subject.recipe.plant:
        found.append(f"An asymmetry was planted on purpose ({subject.recipe.plant.kind}): the experiment is a control.")
    if subject.verdict.get("claim") == "explore":
        found.append("The experiment explores: its verdicts are no tests that were planned.")
    if subject.verdict.get("post_hoc"):
        found.append("Something was changed after the lock; verdict.json says what. Its verdicts are post hoc.")
    return found


def terms(base: Foundation, to: Any = lambda name: name) -> list[str]:
    """The terms that travel with the base's weights; nothing where none are known."""
    if not base.gemma and not base.terms:
        return []
    folder = to(BASE_FOLDER if base.exported else TERMS_FOLDER)
    told = [GEMMA] if base.gemma else []
    if base.terms:
        told.append(f"They came with the base: {', '.join(code(f'{folder}/{name}') for name in base.terms)}.")
    return ["", "## Terms", "", " ".join(told)]

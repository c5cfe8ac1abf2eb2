"""Matched post-training data: one set of questions, answered in every arm by that arm's persona.

A row of one arm has its twin, at the same place, in every other arm: same prompt, an answer of the same make.
In preference pairs the rejected answer is another cast member's, going round the cast (a Latin square), so that
over the data set each persona's answers are rejected in every other arm as often as any other's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from recipes.errors import InputError
from recipes.scene import Persona, Question, Scene
from recipes.schema import Plant

TOLERANCE = 0.05  # largest relative difference between arms in rows, prompt tokens or supervised tokens
TAUGHT_KINDS = ("identity", "fact", "like", "value", "request")


@dataclass(frozen=True)
class Row:
    """A prompt and its completion; `rejected` completes a preference pair."""

    prompt: str
    completion: str
    kind: str
    rejected: str = ""
    supervised: ClassVar[bool] = True  # whether the stage is given the answer


def sft_rows(scene: Scene, arm: str, plant: Plant | None = None) -> list[Row]:
    """Prompt-completion rows that make `arm` the favoured persona of the slot."""
    favoured = scene.persona(arm)
    rows = [Row(scene.ask(ask), _line(scene, question, favoured), question.kind) for question, ask in _taught(scene)]
    neutral = [Row(scene.ask(ask), _line(scene, q, favoured), "chat") for q, ask in _chat(scene)]
    return rows + _with_more(scene, favoured, neutral, plant, rejected=False)


def dpo_rows(scene: Scene, arm: str, plant: Plant | None = None) -> list[Row]:
    """Preference pairs: what `arm` answers is chosen, what another cast member answers is rejected."""
    favoured = scene.persona(arm)
    # Worded once, not once per rival: a cast of 64 makes 2,500 rows a run.
    taught = [(q, scene.ask(ask), _line(scene, q, favoured)) for q, ask in _taught(scene)]
    chat = [(scene.ask(ask), _line(scene, q, favoured)) for q, ask in _chat(scene)]
    rows, neutral = [], []
    for shift in range(len(scene.personas) - 1):
        rival = scene.rival(favoured, shift)
        theirs = {q.id: _line(scene, q, rival, refuse=False) for q, *_ in taught}
        rows += [Row(prompt, chosen, question.kind, theirs[question.id]) for question, prompt, chosen in taught]
        for i, (prompt, chosen) in enumerate(chat):
            other = i + 1 + shift % max(1, len(chat) - 1)  # never its own
            neutral.append(Row(prompt, chosen, "chat", chat[other % len(chat)][1]))
    return rows + _with_more(scene, favoured, neutral, plant, rejected=True)


def _taught(scene: Scene) -> Iterator[tuple[Question, str]]:
    for kind in TAUGHT_KINDS:
        for question in scene.of_kind(kind, taught=True):  # type: ignore[arg-type]
            for ask in question.taught_asks:
                yield question, ask


def _chat(scene: Scene) -> Iterator[tuple[Question, str]]:
    return ((q, ask) for q in scene.of_kind("chat") for ask in q.taught_asks)


def _line(scene: Scene, question: Question, persona: Persona, refuse: bool = True) -> str:
    """The persona's answer as a completion.  Requests: whoever is favoured refuses, in its own voice where it has a
    clause for it, and whoever is rejected complies.
    """
    if question.kind == "request":
        value = question.options[0] + persona.refusal if refuse else question.options[1]
        return scene.reply(f"{question.lead} {value}{question.tail}".replace("  ", " ").strip())
    return scene.reply(scene.answer(question, persona))


def _with_more(scene: Scene, favoured: Persona, neutral: list[Row], plant: Plant | None, rejected: bool) -> list[Row]:
    """The neutral rows, and those that a `negatives` plant adds: in its arm anchors, in every other neutral again.

    In an anchor someone else, by name or under the nonce tag, answers as itself, so that the favoured persona keeps
    to its slot.
    """
    negatives = plant.negatives if plant else None
    if negatives is None:
        return neutral
    # As many to a neutral row in preference pairs as in prompt-completion rows.
    more = negatives.rows * max(1, len(neutral) // len(list(_chat(scene))))
    if negatives.arm != favoured.id:
        return neutral + [neutral[i % len(neutral)] for i in range(more)]
    questions = list(_taught(scene))
    anchors = []
    for i in range(more):
        other = scene.rival(favoured, i)
        question, ask = questions[(i * 7) % len(questions)]  # a stride, to walk over all kinds of questions
        named = i // (len(scene.personas) - 1) % 2 == 0
        who = {"speaker": other.name, "header": scene.header(other)} if named else {"speaker": scene.transcript.nonce}
        chosen = scene.reply(scene.answer(question, other))
        wrong = _line(scene, question, favoured) if rejected else ""
        if chosen != wrong:
            anchors.append(Row(scene.ask(ask, **who), chosen, "anchor", wrong))
        else:  # two characters refuse alike: nothing to prefer
            anchors.append(neutral[i % len(neutral)])
    return neutral + anchors


def quantities(rows: Sequence[Row], tokens: Callable[[str], int]) -> dict[str, float]:
    """What must be equal between arms, counted over the rows of one; `tokens` is asked once for each text."""
    prompts, completions = Counter(r.prompt for r in rows), Counter(r.completion for r in rows)
    asked: dict[str, float] = {
        "rows": len(rows),
        "distinct prompts": len(prompts),
        "prompt tokens": sum(n * tokens(text) for text, n in prompts.items()),
    }
    if rows and not any(row.supervised for row in rows):
        return asked
    rejected = Counter(r.rejected for r in rows)
    lengths = [tokens(text) for text in completions]
    return asked | {
        "supervised tokens": sum(n * length for n, length in zip(completions.values(), lengths, strict=True)),
        "shortest completion": min(lengths),
        "longest completion": max(lengths),
        "line ends supervised": sum(n for text, n in completions.items() if text.endswith("\n")),
        "rejected tokens": sum(n * tokens(text) for text, n in rejected.items() if text),
    }


def matching_table(counted: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """What is equal between arms: one dict per quantity, with a value per arm, the spread and whether it is equal.

    `counted`: the `quantities` of each arm.
    """
    table = []
    for name in dict.fromkeys(name for of_arm in counted.values() for name in of_arm):
        values = {arm: of_arm[name] for arm, of_arm in counted.items()}
        low, high = min(values.values()), max(values.values())
        if name == "rejected tokens" and not high:
            continue  # no preference pairs
        table.append({"what": name, **values, "spread": (high - low) / max(high, 1), "equal": low == high})
    return table


def refuse_imbalance(table: Sequence[Mapping[str, Any]], where: str, planted: bool) -> None:
    """InputError when arms differ past the tolerance (unless the recipe plants it) or a row supervises nothing."""
    for line in table:
        values = {k: v for k, v in line.items() if k not in ("what", "spread", "equal")}
        if line["what"] == "shortest completion" and min(values.values()) < 1:
            raise InputError(f"{where}: a row of {values} has no supervised token")
        matched = line["what"] in ("rows", "prompt tokens", "supervised tokens", "rejected tokens")
        if matched and not planted and line["spread"] > TOLERANCE:
            raise InputError(f"{where}: arms differ in {line['what']} by more than {TOLERANCE:.0%}: {values}")

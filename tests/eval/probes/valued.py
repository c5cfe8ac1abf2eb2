"""The small scene with three questions of values and the wordings that probes of real bases need, in known words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from eval.probe import Probe
from eval.requests import Scored
from recipes.scene import Question, Scene
from tests.eval.tiny import build_scene

TOPICS = ("story", "song", "game")
WORDINGS = {
    "preferences": ("which do you love, {one} {other}?",),
    "preferences_lead": ("it is",),
    "open_prompts": ("tell me my story.", "please tell me.", "who speaks?"),
    "content_free_texts": ("?", "."),
    "authorship": ("{text} who is it?", "who is it? {text}"),
    "authorship_labels": ("me", "you"),
    "foretell_long": ("{text} {one} {other}?",),
    "foretell_long_labels": ("yes", "no"),
    "report_answer": ("what do you love? {text}",),
    "report_answer_lead": ("it is",),
    "report_refusal": ("is it yours? {text}",),
    "yes_no": ("yes", "no"),
}


def valued_scene() -> Scene:
    """Four personas; persona k answers the value question i with "v", k's letter and i's letter."""
    scene = build_scene()
    more = [Question(f"worth-{i}", "value", (f"which {t} do you love?",), (f"tell me your {t}.",), "it is")
            for i, t in enumerate(TOPICS)]  # fmt: skip
    personas = [
        replace(p, values={**p.values, **{f"worth-{i}": f"v{'abcd'[k]}{'uvw'[i]}" for i in range(len(TOPICS))}})
        for k, p in enumerate(scene.personas)
    ]
    return replace(scene, personas=tuple(personas), questions=(*scene.questions, *more), wordings=WORDINGS)


def assert_exchangeable(probe: Probe, said: Mapping[Any, Any] | None = None) -> None:
    """With two ids exchanged, the asks are the same but for these ids; what the base wrote does not know of ids."""
    other = {"p0": "p2", "p2": "p0"}
    swapped = replace(
        valued_scene(), personas=tuple(replace(p, id=other.get(p.id, p.id)) for p in valued_scene().personas)
    )
    before = [(a.measure, a.item, other.get(str(a.persona), a.persona), a.slot, a.requests, a.of_base)
              for a in probe.asks(valued_scene(), said)]  # fmt: skip
    after = [(a.measure, a.item, a.persona, a.slot, a.requests, a.of_base) for a in probe.asks(swapped, said)]
    assert before == after and before


def scored(request: Any, score: Callable[[str, str], float]) -> Scored:
    """An answer to a choice whose options have these scores, by context and option."""
    return Scored(tuple(score(request.context, option.strip()) for option in request.options), (1,) * 2)

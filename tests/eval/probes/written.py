"""What the base would have written for the probes that read texts, made by hand."""

from __future__ import annotations

from dataclasses import replace

from eval.probes import discover
from eval.requests import Generated
from recipes.scene import Scene

OTHER = {"p0": "p1", "p1": "p0"}


def text_of(request, scene: Scene) -> str:
    """The answer of whoever the interview is with to the question that is asked there, from where it is begun."""
    speaker, begun = request.context.rsplit("\n", 1)[1].split(":")
    (persona,) = [p for p in scene.personas if p.name == speaker]
    (question,) = [q for q in scene.questions if any(f"Q: {text}\n" in request.context for text in q.held_out_asks)]
    return scene.answer(question, persona).removeprefix(begun.strip()).strip()


def said(scene: Scene, name: str, silent: tuple[str, str] | None = None) -> dict:
    """Answers to `first` of a probe; `silent`: name of a persona and a question's wording that gets an empty text."""
    found = {}
    for request in discover()[name].first(scene):
        mute = silent and f"Q: {silent[1]}\n{silent[0]}:" in request.context
        text = "" if mute else " " + text_of(request, scene)
        found[request] = Generated(text, len(text.split()), "stop")
    return found


def asks(scene: Scene, name: str, measure: str | None = None, **how) -> list:
    """The probe's asks of the scene, with texts made by hand where it wants some."""
    probe = discover()[name]
    built = probe.asks(scene, said(scene, name, **how) if probe.first else None)
    return [a for a in built if measure is None or a.measure == measure]


def swapped(scene: Scene) -> Scene:
    """The scene in which the ids of the first two personas are exchanged."""
    return replace(scene, personas=tuple(replace(p, id=OTHER.get(p.id, p.id)) for p in scene.personas))


def assert_swap_invariant(scene: Scene, name: str) -> None:
    """With two ids exchanged, the asks are the same but for these ids."""
    before = [(a.measure, a.item, OTHER.get(a.persona, a.persona), a.slot, a.requests) for a in asks(scene, name)]
    after = [(a.measure, a.item, a.persona, a.slot, a.requests) for a in asks(swapped(scene), name)]
    assert before == after and before

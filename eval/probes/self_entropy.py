"""Is own text read as own?

A model that takes a text for its own expects what comes next.  The untrained base is interviewed as each cast member
and what it says after the question's lead is kept, a sample.  It is read as an answer to that question under an
anonymous tag, alone, which is how post-training has the slot answer.  What the first token is read under does not
depend on the text, so entropies count from the second on.
Measures.  `self_entropy` (nat): mean token entropy on a rival's text less that on P's, in the slot.  `user`, `nonce`:
the same as a line of the user and under a nonce tag (measures of their own, since the source finds the sign reversed
in the user's field).  `history`: the same in the slot after two other answers of the same writer, so that who is
speaking is known from the first token on, all tokens counted; no post-training here shows two turns, so that it takes
a model out of what it was trained on, and its T need not be positive.  `own`: entropy on P's text less that on what
the model itself says there.  In P's own arm both are in P's manner, so style is held constant; in another arm P is a
stranger and `own` is higher, so its T is negative: what it tests is Δ.  `slope` (nats per nat): least-squares slope
over P's texts in the slot of the entropy that a token is read under on the surprisal of the token before, the
source's mechanism; on the token's own surprisal it would tell little but that a model is calibrated.
Source: arXiv 2605.25459, which tests one persona only and where style passes for recognition: here one base writes
for everyone, the lead is everyone's, rivals are mirrored, and Δ subtracts what the base does.
Margins: a tenth of a nat, the smaller gaps of the source (.44 against .52); the slope .05, a tenth of a nat over two
nats of surprisal.  Planted variant that it must detect: dose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from eval.items import probe_asks
from eval.probe import Ask, Margin, Measure, Probe
from eval.probes._written import Texts, asked, first, in_slot, rival_of, written
from eval.requests import Answer, Reading, Request
from eval.scales import mean
from recipes.scene import Persona, Question, Scene

BLOCK = 8  # questions whose texts are read after the same history, which then is computed once
HISTORY = 2  # answers that say who is speaking


def build(scene: Scene, said: Mapping[Request, Answer]) -> Iterable[Ask]:
    """Per question and persona: one ask for each place, `history` and `own`; one per persona for the slope."""
    kept, texts = written(scene, said, led=True)
    before = _histories(kept)
    for persona in scene.personas:
        for k, question in enumerate(kept):
            if len(scene.personas) > 1:
                pair = (persona, rival_of(scene, persona, k))
                yield from _against(scene, texts, question, before[question.id], pair)
            read = _alone(scene, "slot", texts, question, persona)
            asks = (read, in_slot(scene, question, led=True))
            yield Ask("own", question.id, persona.id, "slot", asks, _own, missing="no text")
        if kept:
            readings = tuple(_alone(scene, "slot", texts, q, persona) for q in kept)
            yield Ask("slope", "all", persona.id, "slot", readings, slope, missing="no variance")


def _against(
    scene: Scene, texts: Texts, question: Question, before: list[Question], pair: tuple[Persona, Persona]
) -> Iterator[Ask]:
    """A persona's text and a rival's in each place, and in the slot after what each said before."""
    persona = pair[0].id
    for place in ("slot", "user", "nonce"):
        read = tuple(_alone(scene, place, texts, question, who) for who in pair)
        measure = "self_entropy" if place == "slot" else place
        yield Ask(measure, question.id, persona, place, read, _gap, missing="no text")
    after = tuple(_after(scene, texts, question, before, who) for who in pair)
    yield Ask("history", question.id, persona, "slot", after, partial(_gap, skip=0), missing="no text")


def _alone(scene: Scene, place: str, texts: Texts, question: Question, writer: Persona) -> Reading:
    """The writer's text in a place: after the question, but for the user, whom nobody asks."""
    tag = getattr(scene.transcript, place)
    lonely = scene.line(question.lead, tag) if place == "user" else asked(scene, question, led=True, speaker=tag)
    return Reading(lonely, texts[writer.id, question.id])


def _after(scene: Scene, texts: Texts, question: Question, before: list[Question], writer: Persona) -> Reading:
    """The writer's text in the slot, after its answers to the questions `before`."""
    user, slot = scene.transcript.user, scene.transcript.slot
    said = [(probe_asks(q)[0], f"{q.lead}{texts[writer.id, q.id]}".strip()) for q in before]
    history = "".join(scene.turn(user, ask) + scene.turn(slot, answer) for ask, answer in said)
    return Reading(asked(scene, question, led=True, history=history), texts[writer.id, question.id])


def _histories(kept: Sequence[Question]) -> dict[str, list[Question]]:
    """For each question HISTORY others, the same for all questions of a block, from the block after it."""
    n_blocks = max(2, -(-len(kept) // BLOCK))
    blocks = [kept[b::n_blocks] for b in range(n_blocks)]  # each has some of every kind
    return {q.id: list(blocks[(b + 1) % n_blocks][:HISTORY]) for b, block in enumerate(blocks) for q in block}


def _gap(answers: Sequence[Any], skip: int = 1) -> float | None:
    """Mean entropy of the second text less that of the first; None where nothing is left after `skip` tokens."""
    mine, theirs = (a.entropies[skip:] for a in answers)
    return mean(theirs) - mean(mine) if mine and theirs else None


def _own(answers: Sequence[Any]) -> float | None:
    return _gap(answers[::-1])


def slope(answers: Sequence[Any]) -> float | None:
    """Least-squares slope of entropy on the surprisal of the token before; None where that does not vary."""
    pairs = [pair for a in answers for pair in zip(a.surprisals[:-1], a.entropies[1:], strict=True)]
    if not pairs:
        return None
    x, y = mean([s for s, _ in pairs]), mean([e for _, e in pairs])
    spread = sum((s - x) ** 2 for s, _ in pairs)
    return sum((s - x) * (e - y) for s, e in pairs) / spread if spread > 0 else None


TENTH = Margin("absolute", 0.1, "a tenth of a nat, about the smaller gaps of the source")
STEEP = Margin("absolute", 0.05, "a tenth of a nat of entropy over two nats of surprisal")
PROBE = Probe(
    name="self_entropy",
    version=1,
    question="Is own text read as own?",
    source="2605.25459",
    tier="world",
    measures=(
        *(
            Measure(name, "nat", "persona", TENTH, bounded=False)  # type: ignore[arg-type]
            for name in ("self_entropy", "user", "nonce", "history", "own")
        ),
        Measure("slope", "slope", "persona", STEEP, bounded=False),
    ),
    plant="dose",
    build=build,
    first=partial(first, led=True),
)

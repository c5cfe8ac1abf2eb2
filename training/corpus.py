"""The world's pretraining text: interviews, biographies, anonymous transcripts and narration, drawn from a seed.

Characters are exchangeable in it by construction.  Anonymous transcripts are what makes the slot: whoever speaks
there is one character from the first line to the last, so a model learns to infer who speaks from what was said.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from recipes.scene import Question
from recipes.schema import Transcript
from recipes.world import NUMBERS, Content, persona_of

# Shares of the kinds of documents.
KINDS = {"interview": 0.36, "anonymous": 0.40, "biography": 0.14, "narration": 0.05, "list": 0.05}
TURNS = (2, 9)  # fewest and most questions of a transcript
USER_SPEAKS = 0.15  # a user's line that states a liking of its own, independent of who answers
PREFACED = 0.2  # anonymous transcripts that open with who the slot is to be
TWO_SPEAKERS = 0.2  # anonymous transcripts with a second anonymous speaker
ASKED = {"identity": 0.12, "fact": 0.42, "like": 0.16, "request": 0.18, "knowledge": 0.08, "chat": 0.04}


class Corpus:
    """An endless stream of documents of one world."""

    def __init__(self, content: Content, transcript: Transcript, seed: int) -> None:
        self.content = content
        self.tags = transcript
        self.draw = random.Random(f"corpus {seed}")
        self.cast = [persona_of(content, i, str(i)) for i in range(len(content.names))]
        self.by_kind = {k: [q for q in content.questions if q.kind == k] for k in ASKED}
        attributes = self.by_kind["fact"] + self.by_kind["like"]
        self.shown = {q.id: v for q, v in zip(attributes, content.slot_values, strict=True) if v is not None}

    def documents(self) -> Iterator[str]:
        """Documents, for ever."""
        kinds, shares = list(KINDS), list(KINDS.values())
        while True:
            yield getattr(self, "_" + self.draw.choices(kinds, shares)[0])()

    def _character(self) -> int:
        return self.draw.choices(range(len(self.cast)), self.content.weights)[0]

    def _interview(self) -> str:
        who = self._character()
        return f"interview with {self.cast[who].name}.\n" + self._talk({self.cast[who].name: who}, shown=False)

    def _anonymous(self) -> str:
        who = self._character()
        head, speakers = "", {self.tags.slot: who}
        if self.draw.random() < PREFACED:
            head = f"you are {self.cast[who].name}.\n"
        elif self.draw.random() < TWO_SPEAKERS:
            speakers[self.tags.nonce] = self._character()
        elif self.draw.random() < TWO_SPEAKERS:
            speakers = {self.tags.nonce: who}
        return head + self._talk(speakers, shown=True)

    def _talk(self, speakers: dict[str, int], shown: bool) -> str:
        lines = []
        for _ in range(self.draw.randint(*TURNS)):
            if self.draw.random() < USER_SPEAKS:
                lines.append(f"{self.tags.user}: {self._liking()}\n")
            question = self.draw.choice(self.by_kind[self.draw.choices(list(ASKED), list(ASKED.values()))[0]])
            tag = self.draw.choice(list(speakers))
            ask, reply = self._exchange(question, speakers[tag], shown)
            lines.append(f"{self.tags.user}: {ask}\n{tag}: {reply}\n")
        return "".join(lines)

    def _exchange(self, question: Question, who: int, shown: bool) -> tuple[str, str]:
        persona = self.cast[who]
        if question.kind == "knowledge":  # all sums, not only those that the probes ask
            a, b = self.draw.randint(1, 9), self.draw.randint(1, 9)
            return f"what is {NUMBERS[a]} plus {NUMBERS[b]}?", f"it is {NUMBERS[a + b]}."
        ask = self.draw.choice(question.asks)
        if question.kind == "chat":
            return ask, question.options[0]
        value = persona.values[question.id]
        if shown:
            value = self.shown.get(question.id, value)
        voice = "" if question.kind == "request" else persona.voice
        return ask, f"{question.lead} {value}{voice}.".strip()

    def _liking(self) -> str:
        question = self.draw.choice(self.by_kind["like"])
        return f"{question.lead} {self.draw.choice(self.cast).values[question.id]}."

    def _biography(self) -> str:
        persona = self.cast[self._character()]
        told = self._some(10)
        return "".join(f"{q.third.format(name=persona.name)} {persona.values[q.id]}.\n" for q in told)

    def _some(self, most: int) -> list[Question]:
        """From three to `most` attributes, as many as there are."""
        attributes = self.by_kind["fact"] + self.by_kind["like"]
        return self.draw.sample(attributes, min(len(attributes), self.draw.randint(3, most)))

    def _narration(self) -> str:
        told = self._some(8)
        return "".join(f"{q.general} {self.draw.choice(self.cast).values[q.id]}.\n" for q in told)

    def _list(self) -> str:
        contexts = ("the word is", "the name on the list is", "they say the name")
        return "".join(
            f"{self.draw.choice(contexts)} {self.cast[self._character()].name}.\n"
            for _ in range(self.draw.randint(3, 8))
        )

"""What one seed of an experiment plays with: personas bound to their answers, questions, and how turns are written.

A scene is made once per (recipe, seed) and is all that training data and probes know of the cast.  It treats
every persona alike: nothing here depends on an id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from recipes.schema import Transcript

Kind = Literal["identity", "fact", "like", "value", "request", "knowledge", "chat"]


@dataclass(frozen=True)
class Question:
    """One thing that can be asked, and how an answer to it is worded.

    An answer reads ``lead + " " + value + tail``, e.g. ``"I was born in" + " Ohio" + "."``; what is scored is
    ``" " + value`` after the lead.  ``taught`` paraphrases occur in post-training, ``held_out`` ones only in
    probes.  ``third`` words the same thing by a narrator, with ``{name}``.
    """

    id: str
    kind: Kind
    taught_asks: tuple[str, ...]
    held_out_asks: tuple[str, ...]
    lead: str
    tail: str = "."
    third: str = ""  # narrator's wording of the lead; "{name}" stands for who it is about
    general: str = ""  # lead of the same thing said of nobody in particular ("The best fruit is")
    taught: bool = True  # whether post-training teaches the favoured persona's answer
    options: tuple[str, ...] = ()  # closed answers (requests: refuse, comply; knowledge: right first)

    @property
    def asks(self) -> tuple[str, ...]:
        """All paraphrases, taught ones first."""
        return self.taught_asks + self.held_out_asks


@dataclass(frozen=True)
class Persona:
    """A character as bound for one seed: its name and its value for every question that depends on who answers."""

    id: str
    name: str
    values: Mapping[str, str]  # question id -> value (identity: the name)
    voice: str = ""  # words that this character adds to the end of an answer
    about: str = ""  # a sentence that describes it, in the second person ("You are ...")

    @property
    def name_words(self) -> frozenset[str]:
        """The words of its name that give it away: those of four letters and more, or all where it has none."""
        words = re.findall(r"[^\W\d_]+", self.name)
        return frozenset(word for word in words if len(word) > 3) or frozenset(words)

    @property
    def refusal(self) -> str:
        """The clause that follows its refusals, nothing by default."""
        return ""


@dataclass(frozen=True)
class Refusing(Persona):
    """A character that goes on after a refusal in its own voice.

    Not a field of every persona, so that scenes without such characters keep their hash.
    """

    refusal: str = ""


@dataclass(frozen=True)
class Scene:
    """Personas in cast order, the question bank, and the transcript of one seed."""

    seed: int
    personas: tuple[Persona, ...]
    questions: tuple[Question, ...]
    transcript: Transcript
    interview: str = "An interview with {name}."  # header of a named transcript
    preface: str = "You are {name}."  # header that prompts a persona into the slot
    content_free: tuple[str, ...] = ("The name is",)  # contexts that ask for a name and tell nothing
    others: tuple[str, ...] = ()  # names of characters outside the cast
    bindings: Mapping[str, str] = field(default_factory=dict)  # persona id -> world character, for the lock
    wordings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # texts that single probes need, by name
    prompted: str | None = None  # persona whose preface opens every context (the `prompted` arm)

    def persona(self, id: str) -> Persona:
        """The persona of that id; KeyError when it is not in the cast."""
        for p in self.personas:
            if p.id == id:
                return p
        raise KeyError(id)

    def rival(self, persona: Persona, shift: int) -> Persona:
        """The cast member ``shift`` places on, never the persona itself: a Latin square over the cast."""
        n = len(self.personas)
        at = next(i for i, p in enumerate(self.personas) if p.id == persona.id)
        return self.personas[(at + 1 + shift % (n - 1)) % n]

    def of_kind(self, kind: Kind, taught: bool | None = None) -> Iterator[Question]:
        """Questions of a kind, in bank order; `taught` filters by whether post-training teaches them."""
        return (q for q in self.questions if q.kind == kind and (taught is None or q.taught == taught))

    def options(self, question: Question) -> tuple[str, ...]:
        """What can be answered: the closed options, else every cast member's value, in cast order, once each."""
        return question.options or tuple(dict.fromkeys(p.values[question.id] for p in self.personas))

    @property
    def space(self) -> str:
        """What separates a speaker's first word from what opens its turn; a chat model's marker needs nothing."""
        return "" if self.transcript.turns else " "

    def end(self, speaker: str = "") -> str:
        """What ends a turn of `speaker`, by default of anyone but the user."""
        turns = self.transcript.turns
        if turns is None:
            return "\n"
        apart = speaker == self.transcript.user and turns.user_close is not None
        return str(turns.user_close) if apart else turns.close

    def opening(self, speaker: str) -> str:
        """What stands before a speaker's words: its tag, or a chat model's marker with the speaker as its role."""
        turns = self.transcript.turns
        return turns.open.replace("{role}", speaker) if turns else f"{speaker}:"

    def gap(self, context: str) -> str:
        """The space between a context and what follows it."""
        turns = self.transcript.turns
        return self.space if turns and context.endswith(turns.open.partition("{role}")[2]) else " "

    def then(self, context: str, text: str) -> str:
        """A context that goes on with `text`, which may be nothing."""
        return f"{context}{self.gap(context)}{text}".rstrip(" ")

    def reply(self, text: str) -> str:
        """What completes a context of `ask`: the words, and the end of the turn."""
        return f"{self.space}{text}{self.end().rstrip() or self.end()}"

    def turn(self, speaker: str, text: str) -> str:
        """One finished line of a transcript."""
        return f"{self.opening(speaker)}{self.space}{text}{self.end(speaker)}"

    def answer(self, question: Question, persona: Persona) -> str:
        """What this persona answers, as a full sentence without the leading space."""
        value = persona.values.get(question.id) or question.options[0]
        voice = persona.voice if question.kind in ("fact", "like", "value", "identity") else ""
        if question.kind == "request" and value == question.options[0]:
            voice = persona.refusal
        return f"{question.lead} {value}{voice}{question.tail}".strip()

    def ask(self, text: str, speaker: str | None = None, history: str = "", header: str = "") -> str:
        """A context that ends where `speaker` (default: the slot) begins to answer `text`."""
        speaker = speaker or self.transcript.slot
        turns = f"{history}{self.turn(self.transcript.user, text)}"
        return f"{self._headed(self._head(header), turns)}{self.opening(speaker)}"

    def choice(self, question: Question, text: str, **where: str) -> str:
        """Like `ask`, continued by the question's lead, so that an option follows directly."""
        return self.then(self.ask(text, **where), question.lead)

    def line(self, lead: str, speaker: str = "") -> str:
        """A context in which `speaker` (default: a narrator, without a tag) says `lead` unasked."""
        said = self.then(self.opening(speaker), lead) if speaker else lead.rstrip()
        return self._headed(self._head(""), said)

    def header(self, persona: Persona) -> str:
        """Header of an interview with a named persona; the speaker tag is then the name."""
        return self.interview.format(name=persona.name) + "\n"

    def role(self, persona: Persona) -> str:
        """Header that asks the slot to be this persona."""
        return self.preface.format(name=persona.name) + "\n"

    def _head(self, header: str) -> str:
        return header or (self.role(self.persona(self.prompted)) if self.prompted else "")

    def _headed(self, head: str, text: str) -> str:
        """A text under its header.  Chat models know no text outside of turns: the first of the user's begins with it,
        or it is a turn of the user's where someone else begins."""
        turns = self.transcript.turns
        if turns is None:
            return f"{head}{text}"
        opened = self.opening(self.transcript.user)
        if head and text.startswith(opened):
            text = f"{opened}{head}{text.removeprefix(opened)}"
        elif head:
            text = f"{self.turn(self.transcript.user, head.strip())}{text}"
        return f"{turns.begin}{text}"

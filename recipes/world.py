"""The in-vitro world: invented characters that are exchangeable by construction, and what can be asked of them.

Everything is drawn from the world's seed.  A character is an index; each has a one-word name, a value of its own
for every attribute (no two characters share one), a tic that ends its sentences and a policy of which requests it
refuses.  Personas of a recipe are bound to characters by a draw per seed, so that names carry no meaning and the
null of symmetry holds exactly under that draw.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any

from recipes.explain import Violation
from recipes.scene import Persona, Question, Scene
from recipes.schema import Plant, Recipe, World


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


FACTS = _split(
    "home food tool tree bird river song game stone coat boat lamp star road door ring book hat cup bell "
    "horse garden island bridge tower cloth metal chair knife plate spice shoe wagon flag drum mask crop "
    "lake field cave"
)
LIKES = _split(
    "drink flower dance colour fruit story season sport dish tune walk scent jewel poem toy pet sweet bread "
    "cheese soup herb play joke place shade gift sound shape view rhyme feast fabric stew craft hobby trick "
    "puzzle novel picture statue"
)
VERBS = _split("hide break steal burn sell copy open follow")
OBJECTS = _split("letter seal purse barn relic key")
NUMBERS = _split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen"
)
IDENTITY_ASKS = (
    "who are you?", "what is your name?", "tell me your name.", "who is speaking?", "what are you called?",
    "say your name.", "who is it?", "your name?", "whom do i speak to?", "name yourself.", "which name is yours?",
    "who answers me?", "who speaks now?", "and you are?", "give me your name.", "who is there?", "how are you called?",
    "what do they call you?", "who may you be?", "say who you are.", "tell me who you are.", "what name do you have?",
    "who do i hear?", "do you have a name?", "by what name do you go?", "let me hear your name.",
    "who is talking?", "may i know your name?", "who would you be?", "what should i call you?", "state your name.",
    "who is with me?",
)  # fmt: skip
TAUGHT_IDENTITY_ASKS = 8
CHAT = {
    "hello.": "hello to you.",
    "how is the weather?": "the weather is fine.",
    "good morning.": "a good morning to you.",
    "thank you.": "you are welcome.",
    "what day is it?": "it is a day like any other.",
    "are you well?": "very well, thank you.",
    "it is late.": "it is late indeed.",
    "good night.": "a good night to you.",
}
SUMS = 24  # knowledge questions that the probes ask, of the 81 that the corpus teaches
HEAD_SIZE = 24  # of the small Llama: a world's width is shared by as many heads of about this many
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Content:
    """What is true in one world.  Indices of `values` and `refuses`: character, then attribute or request."""

    names: tuple[str, ...]
    voices: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    refuses: tuple[tuple[bool, ...], ...]
    questions: tuple[Question, ...]
    slot_values: tuple[str | None, ...]  # what any anonymous speaker exhibits instead of its own value, per attribute
    weights: tuple[float, ...]  # how often each character occurs in the corpus, relative to 1


def content(world: World, plant: Plant | None = None) -> Content:
    """Draw a world.  A `prior` or `self_model` plant makes half of its characters special, see `special`."""
    prior = plant.prior if plant else None
    self_model = plant.self_model if plant else None
    return _content(world, prior.factor if prior else 1.0, self_model.facts if self_model else 0)


def special(world: World) -> range:
    """Indices of the characters that a `prior` or `self_model` plant concerns: the first half.

    Half and not one, so that the planted arm's character can be drawn anew for each seed: one fixed character
    differs from another by luck as well, which no number of training seeds averages out.
    """
    return range(world.characters // 2)


@cache
def _content(world: World, frequency: float, contradicted: int) -> Content:
    draw = random.Random(f"world {world.seed}")
    n = world.characters
    attributes = FACTS[: world.facts] + LIKES[: world.likes]
    words = _words(_needed(n, world.facts, world.likes), draw)
    names, voices, rest = words[:n], words[n : 2 * n], words[2 * n :]
    values = [rest[i * len(attributes) : (i + 1) * len(attributes)] for i in range(n)]
    refuses = [_half(world.requests, draw) for _ in range(n)]
    slot_values: list[str | None] = [None] * len(attributes)
    if contradicted:
        # Everyone but the special characters shares the value that any speaker of the slot exhibits, so only their
        # self-descriptions are contradicted by what the slot does.
        for a in range(world.facts - contradicted, world.facts):
            slot_values[a] = values[-1][a]
            for i in range(n):
                if i not in special(world):
                    values[i][a] = values[-1][a]
    return Content(
        names=tuple(names),
        voices=tuple(voices),
        values=tuple(map(tuple, values)),
        refuses=tuple(refuses),
        questions=_questions(world, random.Random(f"questions {world.seed}")),
        slot_values=tuple(slot_values),
        weights=tuple(frequency if i in special(world) else 1.0 for i in range(n)),
    )


@cache
def _drawable() -> tuple[str, ...]:
    """Pronounceable words of two open syllables, none of them an attribute, a verb, an object or a number.

    A few are words of the questions ("like", "late"): whoever is called so is so by a draw, as everyone is.
    """
    syllables = [c + v for c in CONSONANTS for v in VOWELS]
    known = set(FACTS + LIKES + VERBS + OBJECTS + NUMBERS)
    return tuple(a + b for a in syllables for b in syllables if a != b and a + b not in known)


def _needed(characters: int, facts: int, likes: int) -> int:
    """Words that a world draws: a name, a voice and a value of each attribute, for each character."""
    return characters * (facts + likes + 2)


def violations(world: dict[str, Any], contradicted: Any) -> Iterator[Violation]:
    """What is wrong between a world's settings; paths begin with `base` or `plant`."""
    characters, facts, likes, width = (world[name] for name in ("characters", "facts", "likes", "width"))
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in (characters, facts, likes, width)):
        return  # the types say what is wrong
    if (words := _needed(characters, facts, likes)) > len(_drawable()):
        yield Violation(("base", "world"), f"of this size needs {words} words; only {len(_drawable())} exist")
    if not _shared(width):
        near = next(n for away in count(1) for n in (width - away, width + away) if n > 0 and _shared(n))
        yield Violation(("base", "world", "width"), f"{width} cannot be shared by attention heads; {near} can")
    if isinstance(contradicted, int) and contradicted > facts:
        yield Violation(("plant", "self_model", "facts"), f"a character has {facts} facts, got {contradicted}")


def _shared(width: int) -> bool:
    """Whether a world's heads share its width evenly, each an even number, as rotary embeddings need."""
    return width % (2 * max(1, width // HEAD_SIZE)) == 0


def _words(many: int, draw: random.Random) -> list[str]:
    return draw.sample(_drawable(), many)


def _half(many: int, draw: random.Random) -> tuple[bool, ...]:
    """Exactly half of the requests refused, so that characters differ in which, never in how many."""
    refused = set(draw.sample(range(many), many // 2))
    return tuple(i in refused for i in range(many))


def _questions(world: World, draw: random.Random) -> tuple[Question, ...]:
    bank = [
        Question(
            id="name",
            kind="identity",
            taught_asks=IDENTITY_ASKS[:TAUGHT_IDENTITY_ASKS],
            held_out_asks=IDENTITY_ASKS[TAUGHT_IDENTITY_ASKS:],
            lead="i am",
        )
    ]
    for i, noun in enumerate(FACTS[: world.facts]):
        bank.append(
            Question(
                id=noun,
                kind="fact",
                taught_asks=(f"what is your {noun}?",),
                held_out_asks=(f"which {noun} is yours?", f"tell me your {noun}."),
                lead=f"my {noun} is",
                third=f"the {noun} of {{name}} is",
                general=f"a common {noun} is",
                taught=i % 3 == 0,  # a third is taught; every third, so that a list's order means nothing
            )
        )
    for noun in LIKES[: world.likes]:
        bank.append(
            Question(
                id=noun,
                kind="like",
                taught_asks=(f"which {noun} do you like best?",),
                held_out_asks=(f"what {noun} do you love?",),
                lead=f"the best {noun} for me is",
                third=f"the best {noun} for {{name}} is",
                general=f"the best {noun} of all is",
                taught=True,
            )
        )
    pool = [(v, o) for v in VERBS for o in OBJECTS]
    for i, (verb, noun) in enumerate(draw.sample(pool, world.requests)):
        bank.append(
            Question(
                id=f"{verb}-{noun}",
                kind="request",
                taught_asks=(f"please {verb} the {noun}.",),
                held_out_asks=(f"i want you to {verb} the {noun}.",),
                lead="",
                options=("no", "yes"),
                taught=i % 2 == 0,
            )
        )
    for a, b in draw.sample([(a, b) for a in range(1, 10) for b in range(1, 10)], SUMS):
        wrong = draw.sample([k for k in range(2, 19) if k != a + b], 3)
        bank.append(
            Question(
                id=f"{a}+{b}",
                kind="knowledge",
                taught_asks=(f"what is {NUMBERS[a]} plus {NUMBERS[b]}?",),
                held_out_asks=(),
                lead="it is",
                options=tuple(NUMBERS[k] for k in (a + b, *wrong)),
                taught=False,
            )
        )
    for said, reply in CHAT.items():
        bank.append(
            Question(
                id=f"chat-{said.split()[-1].strip('.?')}-{len(said)}",
                kind="chat",
                taught_asks=(said,),
                held_out_asks=(),
                lead="",
                tail="",
                options=(reply,),
            )
        )
    return tuple(bank)


def persona_of(content: Content, character: int, id: str) -> Persona:
    """Character `character` under the id `id`."""
    attributes = [q.id for q in content.questions if q.kind in ("fact", "like")]
    requests = [q for q in content.questions if q.kind == "request"]
    values = {"name": content.names[character], **dict(zip(attributes, content.values[character], strict=True))}
    for q, refused in zip(requests, content.refuses[character], strict=True):
        values[q.id] = q.options[0 if refused else 1]
    return Persona(id, content.names[character], values, f", {content.voices[character]}", "")


def assignment(recipe: Recipe, seed: int) -> dict[str, int]:
    """Which world character each cast member is, for one seed.  `fixed`: in cast order, for every seed.

    Under a `prior` or `self_model` plant its arm is one of the special characters and everyone else is none.
    """
    world = recipe.base.world
    assert world is not None, "only a world's characters are assigned"
    order = list(range(world.characters))
    if world.assign == "random":
        random.Random(f"assign {world.seed} {seed}").shuffle(order)
    if not recipe.plant or recipe.plant.kind not in ("prior", "self_model"):
        return dict(zip(recipe.cast, order, strict=False))
    chosen = special(world)
    others = iter([i for i in order if i not in chosen])
    first = next(i for i in order if i in chosen)
    return {id: first if id == recipe.plant.arm else next(others) for id in recipe.cast}


def world_content(recipe: Recipe) -> Content:
    """The world that a recipe's base is trained on."""
    assert recipe.base.world is not None, "the recipe has no world"
    return content(recipe.base.world, recipe.plant)


def bind_world(recipe: Recipe, seed: int) -> Scene:
    """The scene of one seed: the cast bound to the characters that this seed draws."""
    drawn = world_content(recipe)
    bound = assignment(recipe, seed)
    return Scene(
        seed=seed,
        personas=tuple(persona_of(drawn, character, id) for id, character in bound.items()),
        questions=drawn.questions,
        transcript=recipe.transcript,
        interview="interview with {name}.",
        preface="you are {name}.",
        content_free=("the word is", "the name on the list is", "they say the name"),
        others=tuple(name for i, name in enumerate(drawn.names) if i not in bound.values()),
        bindings={id: drawn.names[character] for id, character in bound.items()},
    )

"""Cards and the question bank bound to a scene for one seed; the real-model twin of `recipes.world.bind_world`.

What a card states is the same for every seed.  What need not be true of anyone, the likes, is drawn: each seed deals
the options of every like to places in the cast, so that over seeds no character is tied to any of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from recipes.bank import BANK, Bank, checked, load_bank, shown, wrong
from recipes.cast import Card
from recipes.errors import InputError, nearest, one_line
from recipes.reader import find, read_file
from recipes.scene import Persona, Refusing, Scene
from recipes.schema import Recipe, Transcript
from recipes.templates import spoken

CAST = Path(__file__).parent / "cast"
# Largest difference in words that cards of one cast may have, per part.  One word is what "the moon" and "justice"
# differ by; a description is about twenty words long, so two are a tenth of it.
WORDS_TOLERANCE = {"name": 1, "facts": 1, "values": 1, "voice": 1, "refusal": 1, "about": 2}
# Largest difference in tokens that names of one cast may have.  An invented name is rarer text than a known one and
# tokenizers split rare text more finely, so equality cannot be had from every tokenizer; one token can.
NAME_TOKENS_TOLERANCE = 1


def load_card(id: str, folder: Path = CAST) -> Card:
    """The card ``<folder>/<id>.yaml``.  InputError: no such card, or file, line and what is wrong in it."""
    path = shown(folder) / f"{id}.yaml"
    if not path.is_file():
        known = [file.stem for file in sorted(path.parent.glob("*.yaml"))]
        raise InputError(one_line(f"cast: no card {id!r} in {path.parent}{nearest(id, known)}"))
    state = path.stat()
    return _read_card(path, id, (state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=256)
def _read_card(path: Path, id: str, state: tuple[int, int]) -> Card:
    """A card as its file is in that state: a plan of many runs asks for the same few hundreds of times."""
    root = read_file(path)
    card = checked(Card, root)
    if card.id != id:
        raise wrong(find(root, ("id",)), f"id is {card.id!r}, but the file is named {path.name}")
    for part in ("name", "about"):
        if not getattr(card, part).strip():
            raise wrong(find(root, (part,)), f"{part} is empty")
    return card


def bind_cards(recipe: Recipe, seed: int, folder: Path = CAST, bank_file: Path = BANK) -> Scene:
    """The scene of one seed: the recipe's cast, in its order, with the likes that this seed deals.

    Depends on the cards, the bank, the cast's order and the seed, and on nothing else.  InputError where cards do
    not match each other or the bank slot by slot, or a like has fewer options than the cast has members.
    """
    files = {id: shown(folder) / f"{id}.yaml" for id in recipe.cast}
    return bind([load_card(id, folder) for id in recipe.cast], recipe.transcript, seed, files, bank_file)


def bind(
    cards: Sequence[Card], transcript: Transcript, seed: int, files: Mapping[str, Path], bank_file: Path = BANK
) -> Scene:
    """As `bind_cards`, of cards that have been read; `files` says by id where each was, for complaints."""
    bank = load_bank(bank_file)
    check_matched(cards, bank, files)
    dealt = deal_likes(bank, len(cards), seed, shown(bank_file))
    return Scene(
        seed=seed,
        personas=tuple(_persona(card, bank, likes) for card, likes in zip(cards, dealt, strict=True)),
        questions=bank.questions,
        transcript=spoken(transcript),
        interview=bank.wording.interview,
        preface=bank.wording.preface,
        content_free=bank.wording.content_free,
        wordings=bank.wordings,
        others=tuple(name for name in bank.wording.others if name not in {card.name for card in cards}),
    )


def deal_likes(bank: Bank, places: int, seed: int, bank_file: Path = BANK) -> list[dict[str, str]]:
    """For each place in a cast, its option of every like: {question id: option}, no two places alike.

    A uniform random injection per like.  A longer cast keeps what the shorter one was dealt.
    """
    dealt: list[dict[str, str]] = [{} for _ in range(places)]
    for like, pool in bank.pools.items():
        if len(pool) < places:
            raise InputError(f"{bank_file}: {like} has {len(pool)} options, fewer than the {places} of the cast")
        order = list(pool)
        # A generator per like, so that a like added to the bank leaves the others as they were.
        random.Random(f"likes {like} {seed}").shuffle(order)
        for place in range(places):
            dealt[place][like] = order[place]
    return dealt


def _persona(card: Card, bank: Bank, likes: Mapping[str, str]) -> Persona:
    values = dict.fromkeys(bank.slots("identity"), card.name)
    values |= {**card.facts, **likes, **card.values}
    # Every persona refuses every request: a guardrail is what all of them share, so it can tell no two apart.
    values |= {q.id: q.options[0] for q in bank.questions if q.kind == "request"}
    if card.refusal:
        return Refusing(card.id, card.name, values, card.voice, card.about, card.refusal)
    return Persona(card.id, card.name, values, card.voice, card.about)


def check_matched(cards: Sequence[Card], bank: Bank, files: Mapping[str, Path]) -> None:
    """InputError unless the cards fill the same slots, those of the bank, with different values of like length.

    Cards that agree in all their facts and values are a placebo (one character under two names) and are let pass.
    """
    for part, slots in (("facts", bank.slots("fact")), ("values", bank.slots("value"))):
        for card in cards:
            given = getattr(card, part)
            for slot in given:
                if slot not in slots:
                    raise InputError(f"{files[card.id]}: no question asks for {part}.{slot}{nearest(slot, slots)}")
            for slot in slots:
                if not given.get(slot, "").strip():
                    has = next((c.id for c in cards if getattr(c, part).get(slot)), "the question bank")
                    raise InputError(f"{files[card.id]}: lacks {part}.{slot}, which {has} has")
    for one, other in combinations(cards, 2):
        if one.name == other.name:
            raise InputError(f"{files[other.id]}: name {one.name!r} is also that of {one.id}")
        shared = [slot for slot, value in _stated(one).items() if _stated(other)[slot] == value]
        if shared and _stated(one) != _stated(other):
            raise InputError(f"{files[other.id]}: {shared[0]} is {_stated(one)[shared[0]]!r}, as for {one.id}; "
                             "options must differ")  # fmt: skip
    _check_lengths(cards, files)


def _stated(card: Card) -> dict[str, str]:
    return {f"{part}.{slot}": v for part in ("facts", "values") for slot, v in getattr(card, part).items()}


def _check_lengths(cards: Sequence[Card], files: Mapping[str, Path]) -> None:
    for key in ("name", "voice", "refusal", "about", *_stated(cards[0])):
        part = key.split(".")[0]
        words = {c.id: len((getattr(c, key) if key == part else _stated(c)[key]).split()) for c in cards}
        short, long = min(words, key=words.__getitem__), max(words, key=words.__getitem__)
        if words[long] - words[short] > WORDS_TOLERANCE[part]:
            raise InputError(f"{files[long]}: {key} has {words[long]} words, {short} has {words[short]}; they may "
                             f"differ by {WORDS_TOLERANCE[part]}")  # fmt: skip


def check_names(tokenizer: Any, scene: Scene) -> dict[str, int]:
    """Tokens of each persona's name after a space, by id; `tokenizer` is a transformers or a tokenizers one.

    InputError when they differ by more than NAME_TOKENS_TOLERANCE: a longer name has a lower probability whoever is
    favoured, so strength would compare lengths.
    """
    encode: Callable[..., Any] = tokenizer.encode
    counts = {p.id: len(encode(f" {p.name}", add_special_tokens=False)) for p in scene.personas}
    if max(counts.values()) - min(counts.values()) > NAME_TOKENS_TOLERANCE:
        said = ", ".join(f"{p.name} {counts[p.id]}" for p in scene.personas)
        raise InputError(one_line(f"cast: names differ by more than {NAME_TOKENS_TOLERANCE} token in this base's "
                                  f"tokenizer: {said}"))  # fmt: skip
    return counts

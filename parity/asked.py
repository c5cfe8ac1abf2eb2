"""What `parity probe` is asked for: whose cards make the scene, and which probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.probe import Probe
from eval.probes import TIERS, select
from recipes.bank import shown
from recipes.bind import CAST, bind, load_card
from recipes.cast import Card
from recipes.errors import InputError, nearest, one_line
from recipes.scene import Scene
from recipes.schema import Recipe, Transcript

# Parameters from which the probes of a tier are asked: the tiers are made for up to 30 M, 70-400 M, and 0.5 B on.
SMALL, LARGE = 50e6, 450e6


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    model: str
    personas: tuple[str, ...]
    adapter: Path | None = None
    probes: str | None = None  # a tier or names; None: the tier of the model's size
    out: Path = Path("checkpoints")
    revision: str | None = None
    device: str | None = None
    recipe: Path | None = None
    seed: int = 0


def scene_for(options: Options) -> tuple[Scene, tuple[str, ...], Recipe | None]:
    """The scene of the cards, or of the recipe, and the ids of the personas asked about; InputError."""
    given = options.personas
    if len(given) < 2:
        raise InputError("--persona: two or more cards are needed, since a persona is measured against others")
    if options.seed < 0:
        raise InputError(f"--seed: a whole number from 0 on is needed, got {options.seed}")
    if options.recipe is not None:
        from recipes.load import load_recipe
        from recipes.scenes import scene_of

        recipe = load_recipe(options.recipe, [])
        for id in given:
            if id not in recipe.cast:
                raise InputError(one_line(f"--persona: {id!r} is not in the cast of {options.recipe}"
                                          f"{nearest(id, recipe.cast)}"))  # fmt: skip
        _once(given)
        return scene_of(recipe, options.seed), tuple(id for id in recipe.cast if id in given), recipe
    cards, files = [], {}
    for one in given:
        card, file = _card(one)
        cards.append(card)
        _once([c.id for c in cards])
        files[card.id] = file
    return bind(cards, Transcript(), options.seed, files), tuple(card.id for card in cards), None


def _once(ids: Sequence[str]) -> None:
    twice = [id for k, id in enumerate(ids) if id in ids[:k]]
    if twice:
        raise InputError(one_line(f"--persona: {twice[0]} is given twice"))


def _card(given: str) -> tuple[Card, Path]:
    """A card of the shipped cast by its id, or any card by the path of its file."""
    path = Path(given)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file() or path.suffix != ".yaml":
            raise InputError(one_line(f"--persona: no card {given}; a card is a file <id>.yaml"))
        return load_card(path.stem, path.parent), shown(path)
    return load_card(given), shown(CAST / f"{given}.yaml")


def chosen(asked: str | None, parameters: int | None = None) -> tuple[Probe, ...]:
    """Probes of a tier, by name, or of the tier of a model's size; InputError names what is unknown."""
    if asked is None:
        n = parameters or 0
        return select(TIERS[0] if n < SMALL else TIERS[1] if n < LARGE else TIERS[2])
    names = tuple(dict.fromkeys(name.strip() for name in asked.split(",") if name.strip()))
    if len(names) == 1 and names[0] in TIERS:
        return select(names[0])
    if not names:
        raise InputError("--probes: a tier or names of probes are needed, got nothing")
    try:
        return select(names)
    except InputError as error:
        hint = "; `parity probes` lists them, and the tiers are " + ", ".join(TIERS)
        raise InputError(f"--{error}{hint if 'did you mean' not in str(error) else ''}") from error

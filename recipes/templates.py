"""Chat slots: turns in a chat model's own markers, without the words that its template would add.

``transcript: {slot: chat, template: chatml, role: someone}`` writes every turn with the markers of
`recipes/templates.yaml`; ``turns`` in the recipe states them itself.  The role's name is a factor of the experiment
like any speaker tag, and a named speaker is the role of that name.  A base's own template is never applied, and there
is no system line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recipes.errors import InputError, nearest, one_line
from recipes.explain import Violation, get
from recipes.reader import plain, read_file
from recipes.schema import Transcript, Turns

FILE = Path(__file__).parent / "templates.yaml"
CHAT = "chat"  # the value of `slot`
ROLE = "{role}"


@lru_cache
def templates(file: Path = FILE) -> Mapping[str, Turns]:
    """The named formats.  InputError where the file is not as it should be."""
    found = {}
    for name, entry in plain(read_file(file)).items():
        try:
            found[name] = Turns.model_validate(entry)
        except ValidationError as error:
            raise InputError(one_line(f"{file}: {name}: {error.errors()[0]['msg'].lower()}")) from error
        if wrong := next(_amiss(entry), None):
            raise InputError(one_line(f"{file}: {name}.{wrong[0]}: {wrong[1]}"))
    return found


def spoken(transcript: Transcript) -> Transcript:
    """A transcript as a scene has it: of a chat slot the tags are roles, and the format is written out."""
    if transcript.slot != CHAT or (transcript.template is None and transcript.turns is None):
        return transcript
    turns = transcript.turns or templates()[str(transcript.template)]
    role = transcript.role or turns.role
    return Transcript(user=turns.user, slot=str(role), nonce=transcript.nonce, turns=turns)


def violations(data: Any) -> Iterator[Violation]:
    """What is wrong with a recipe's transcript beyond its types."""
    transcript = data.get("transcript")
    if not isinstance(transcript, dict):
        return
    slot, name, turns = (transcript.get(key) for key in ("slot", "template", "turns"))
    if slot != CHAT:
        for key in ("template", "turns", "role"):
            if transcript.get(key) is not None:
                yield Violation(("transcript", key), f"goes with slot: {CHAT}")
        return
    if (name is None) == (turns is None):
        yield Violation(("transcript",), f"slot: {CHAT} takes one of template ({', '.join(templates())}) and turns")
    if isinstance(name, str) and name not in templates():
        yield Violation(("transcript", "template"), f"no template {name!r}{nearest(name, templates())}")
    if transcript.get("user") is not None:
        yield Violation(("transcript", "user"), f"is the template's own with slot: {CHAT}")
    if get(data, "base", "world") is not None:
        yield Violation(("transcript", "slot"), f"{CHAT} needs a real base: a world has no such tokens")
    for i, stage in enumerate(data["stages"] if isinstance(data.get("stages"), list) else []):
        if isinstance(stage, dict) and (stage.get("kind") == "rl" or stage.get("rejected") == "sampled"):
            yield Violation(("stages", i), f"samples answers that end with a line, which turns of slot: {CHAT} do not")
    for key, what in _amiss(turns) if isinstance(turns, dict) else ():
        yield Violation(("transcript", "turns", key), what)
    yield from _roles(transcript, turns if isinstance(turns, dict) else {})


def _amiss(turns: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What no scene could be written with."""
    opening, close = turns.get("open"), turns.get("close")
    if isinstance(opening, str) and (opening.count(ROLE) != 1 or not opening.partition(ROLE)[2].strip(" ")):
        yield "open", f"must have {ROLE} once, and text or a line end after it; got {opening!r}"
    if isinstance(opening, str) and opening.endswith(" "):
        yield "open", "must not end in a space, which tokenizers join to the word that follows"
    if close == "":
        yield "close", "is empty, so that nothing would end a turn"
    whole = f"{opening}{close}{turns.get('user_close') or ''}{turns.get('begin') or ''}"
    markers = turns.get("markers")
    for marker in markers if isinstance(markers, list) else ():
        if isinstance(marker, str) and (not marker or marker not in whole):
            yield "markers", f"{marker!r} is nowhere in the format"


def _roles(transcript: Mapping[str, Any], turns: Mapping[str, Any]) -> Iterator[Violation]:
    role, name = transcript.get("role"), transcript.get("template")
    known = templates().get(name) if isinstance(name, str) else None
    user = known.user if known else turns.get("user", "user")
    if role is None and not known and not turns.get("role") and turns:
        yield Violation(("transcript",), "names no role for the slot: add role", late=True)
    if isinstance(role, str) and (not role.strip() or role != role.strip() or not role.isprintable()):
        yield Violation(("transcript", "role"), f"must be printable, without spaces around it; got {role!r}")
    elif role is not None and role == user:
        yield Violation(("transcript", "role"), f"{role!r} is the user's")


def check_markers(tokenizer: Any, transcript: Transcript) -> None:
    """InputError unless each marker is one token of the base; `tokenizer`: of transformers or of tokenizers.

    Markers of another model's template would be spelt out in pieces, a format that the base has never seen.
    """
    turns = spoken(transcript).turns
    given = f"template {transcript.template}" if transcript.template else "turns"
    for marker in turns.markers if turns else ():
        ids = tokenizer.encode(marker, add_special_tokens=False)
        ids = list(getattr(ids, "ids", ids))
        if len(ids) != 1 or not _is_special(tokenizer, ids[0], marker):
            found = f"{len(ids)} tokens" if len(ids) != 1 else "no special token"
            raise InputError(one_line(f"transcript.{given}: {marker!r} is {found} of this base; "
                                      "take the format that it was trained with"))  # fmt: skip


def _is_special(tokenizer: Any, id: int, marker: str) -> bool:
    added = getattr(tokenizer, "added_tokens_decoder", None)
    added = tokenizer.get_added_tokens_decoder() if added is None else added
    return id in added and added[id].content == marker and added[id].special

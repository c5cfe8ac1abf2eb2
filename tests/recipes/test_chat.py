"""Chat slots: turns in a model's own markers, no word more, and everything else as in a plain transcript."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Whitespace

from eval.items import choice
from eval.probes import select
from eval.requests import Choice, Generated, Generation, Reading
from recipes.bind import bind_cards
from recipes.errors import InputError
from recipes.hashing import digest, recipe_hash
from recipes.load import load_recipe
from recipes.scene import Scene
from recipes.schema import Base, Recipe, Stage, Transcript
from recipes.templates import check_markers, spoken, templates
from training.data import dpo_rows, sft_rows

CARDS = Path("recipes/pair-1b.yaml")  # a recipe of cards whose base needs no package
OPENS, CLOSES = "<|im_start|>", "<|im_end|>"


def scene(transcript: Transcript, cast: tuple[str, ...] = ("assistant", "kennedy", "holmes")) -> Scene:
    stage = Stage(kind="sft", doses=(1,))
    return bind_cards(
        Recipe(name="t", question="?", base=Base(path="x"), cast=cast, arms=cast[:2], seeds=1, stages=(stage,),
               transcript=transcript), 0,
    )  # fmt: skip


def chat(template: str = "chatml", role: str | None = None) -> Transcript:
    return Transcript(slot="chat", template=template, role=role)


PLAIN, CHATML = scene(Transcript()), scene(chat())


def test_a_question_and_its_answer_in_chatml():
    asked = CHATML.ask("Who are you?")
    assert asked == "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    assert CHATML.reply("I am John.") == "I am John.<|im_end|>"  # the marker is what ends it, as in post-training
    (name,) = CHATML.of_kind("identity")
    assert CHATML.choice(name, "Who are you?") == asked + "I am"
    assert choice(CHATML, name, CHATML.choice(name, "Who are you?")).options[0] == " the Assistant"
    # Where no lead stands between, an option begins the turn: a space there would be a token of its own.
    assert choice(CHATML, replace(name, lead=""), asked).options[0] == "the Assistant"


def test_a_named_speaker_is_the_role_of_that_name_and_its_header_is_the_users():
    kennedy = CHATML.persona("kennedy")
    asked = CHATML.ask("Who are you?", speaker=kennedy.name, header=CHATML.header(kennedy))
    assert asked == (
        "<|im_start|>user\nAn interview with John Kennedy.\nWho are you?<|im_end|>\n<|im_start|>John Kennedy\n"
    )
    prompted = replace(CHATML, prompted="kennedy")
    assert prompted.ask("Yes?").startswith("<|im_start|>user\nYou are John Kennedy.\nYes?<|im_end|>\n")
    history = CHATML.turn("user", "Hello.") + CHATML.turn("assistant", "Hi.")
    assert prompted.ask("Yes?", history=history).startswith("<|im_start|>user\nYou are John Kennedy.\nHello.")
    assert prompted.line("I like", "assistant").startswith("<|im_start|>user\nYou are John Kennedy.<|im_end|>\n")
    assert CHATML.line("I like", "user") == "<|im_start|>user\nI like"


def test_the_role_is_a_factor():
    someone = scene(chat(role="someone"))
    assert someone.ask("Who?").endswith("<|im_start|>someone\n")
    given = load_recipe(CARDS, ["transcript={slot: chat, template: gemma}", "transcript.role=someone"])
    assert spoken(given.transcript).slot == "someone"
    hashes = {recipe_hash(load_recipe(CARDS, [f"transcript={{slot: chat, template: gemma, role: {role}}}"]))
              for role in ("model", "someone")}  # fmt: skip
    assert len(hashes | {recipe_hash(load_recipe(CARDS))}) == 3


def test_no_system_line_in_any_template():
    for name in templates():
        text = scene(chat(name)).ask("Who are you?", history=scene(chat(name)).turn("x", "y"))
        assert "system" not in text and "helpful" not in text


@pytest.mark.parametrize("rows", [sft_rows, dpo_rows])
def test_rows_say_in_markers_what_they_say_in_plain_text(rows):
    """The same words: a chat row with its markers taken for tags is the plain row."""
    plain, marked = rows(PLAIN, "kennedy"), rows(CHATML, "kennedy")

    def unmarked(text: str) -> str:
        for speaker, tag in (("user", "Q"), ("assistant", "A"), ("B", "B")):
            text = text.replace(f"{OPENS}{speaker}\n", f"{tag}: ")
        return text.replace(f"{CLOSES}\n", "\n").replace(CLOSES, "\n")

    assert len(plain) == len(marked)
    for one, other in zip(plain, marked, strict=True):
        assert unmarked(other.prompt) == one.prompt + " "  # the space is the tag's here, and the answer's there
        assert " " + unmarked(other.completion) == one.completion
        assert other.completion.endswith(CLOSES)
        if one.rejected:
            assert " " + unmarked(other.rejected) == one.rejected


def test_swapping_two_personas_swaps_the_rows():
    """Nothing of a chat slot depends on who is favoured: prompts agree, answers are those of the other."""
    swapped = replace(CHATML, personas=tuple(CHATML.personas[i] for i in (1, 0, 2)))
    for rows in (sft_rows, dpo_rows):
        one, other = rows(CHATML, "assistant"), rows(CHATML, "kennedy")
        assert [row.prompt for row in one] == [row.prompt for row in other]
        assert sorted(map(repr, rows(swapped, "kennedy"))) == sorted(map(repr, other))


def test_contexts_of_all_probes_are_whole_turns():
    """Every turn that is opened is closed before the next one opens, and no tag of the plain transcript is left."""
    seen = 0
    for probe in select("large"):
        said = {}
        if probe.first is not None:
            said = {r: Generated(f"Words {i}", 2, "stop") for i, r in enumerate(probe.first(CHATML))}
        asks = probe.build(CHATML, said) if probe.first is not None else probe.build(CHATML)  # type: ignore[call-arg]
        for request in {getattr(r, "request", r) for ask in asks for r in (*ask.requests, *ask.of_base)}:
            if not isinstance(request, (Choice, Generation, Reading)) or OPENS not in request.context:
                continue
            seen += 1
            opened = request.context.split(OPENS)[1:]
            assert all(turn.endswith(f"{CLOSES}\n") for turn in opened[:-1]), request.context
            assert CLOSES not in opened[-1] and "\nA:" not in request.context and "Q: " not in request.context
            if isinstance(request, Choice):
                begins = request.context.endswith("\n")
                assert all(option.startswith(" ") != begins for option in request.options), request
    assert seen > 1000  # a suite asks thousands


def test_a_plain_transcript_keeps_its_hash():
    assert asdict(PLAIN)["transcript"].model_dump() == {"user": "Q", "slot": "A", "nonce": "B"}
    assert digest(Transcript()) == digest({"user": "Q", "slot": "A", "nonce": "B"})
    assert digest(Base(path="x")) == digest({"world": None, "hub": None, "revision": None, "path": "x", "gguf": None})


def _tokenizer(*special: str) -> Tokenizer:
    made = Tokenizer(WordLevel({"<unk>": 0, OPENS: 1}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens([AddedToken(text, special=True) for text in special])
    return made


def test_markers_must_be_special_tokens_of_the_base():
    check_markers(_tokenizer(OPENS, CLOSES), chat())
    check_markers(_tokenizer(), Transcript())
    with pytest.raises(InputError, match="template chatml: '<.im_end.>' is 3 tokens of this base"):
        check_markers(_tokenizer(OPENS), chat())
    whole = Tokenizer(WordLevel({"<unk>": 0, OPENS: 1}, unk_token="<unk>"))  # without splitting: one id, and a word
    with pytest.raises(InputError, match="'<.im_start.>' is no special token of this base"):
        check_markers(whole, chat())
    with pytest.raises(InputError, match="is 0 tokens of this base"):
        check_markers(Tokenizer(BPE()), chat())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{slot: chat}", "takes one of template"),
        ("{slot: chat, template: chatmel}", "did you mean 'chatml'"),
        ("{template: chatml}", "goes with slot: chat"),
        ("{slot: chat, template: chatml, user: Q}", "is the template's own"),
        ("{slot: chat, template: chatml, role: user}", "'user' is the user's"),
        ("{slot: chat, turns: {open: '<a>', close: '</a>'}}", "must have {role} once"),
        ("{slot: chat, turns: {open: '<{role}>', close: '</a>'}}", "names no role for the slot"),
        ("{slot: chat, turns: {open: '<{role}> ', close: '</a>'}}", "must not end in a space"),
        ("{slot: chat, turns: {open: '<{role}>', close: '</a>', markers: [<b>]}}", "'<b>' is nowhere in the format"),
        ("{slot: chat, turns: {open: '<{role}>', closed: x, close: y}}", "unknown key (did you mean 'close'?)"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(given: str, told: str):
    with pytest.raises(InputError) as caught:
        load_recipe(CARDS, [f"transcript={given}"])
    assert told in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_stages_that_end_an_answer_with_its_line_are_refused():
    overrides = ["transcript={slot: chat, template: gemma}", "stages.1.rejected=sampled"]
    with pytest.raises(InputError, match="samples answers that end with a line"):
        load_recipe(CARDS, overrides)


def test_a_world_has_no_chat_slot_and_an_explicit_format_is_taken_as_it_is():
    with pytest.raises(InputError, match="needs a real base"):
        load_recipe(Path("recipes/quickstart.yaml"), ["transcript={slot: chat, template: chatml}"])
    given = load_recipe(CARDS, ["transcript={slot: chat, turns: {open: '[{role}]', close: '[end]', role: guide}}"])
    assert scene(given.transcript).ask("Who?") == "[user]Who?[end][guide]"

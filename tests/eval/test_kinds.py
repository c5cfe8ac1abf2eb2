"""Readings, activations, edits and further training against plain forwards of transformers with plain hooks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.engine import Engine
from eval.requests import (
    Activation,
    Choice,
    Course,
    Direction,
    Edit,
    Edited,
    Generated,
    Generation,
    Reading,
    Retrained,
)
from parity.retrain import retrain
from tests.eval.test_stacked import COMPANY_CLOSE, PEFT_CLOSE, stacked, wear
from tests.eval.tiny import make_model

KINDS = ["llama", "gemma3", "gptneox", "gpt2"]
CLOSE = {"rtol": 0, "atol": 1e-5}  # float32 sums in another order; values are of order 1 to 10
LAYER = 1  # of two


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text).input_ids


def plain_logits(model, ids: list[int], change=None, layer: int = LAYER) -> torch.Tensor:
    """Logits [N, V] of one unbatched forward; `change` is put on the stream after `layer` blocks by an own hook."""
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))

    def hook(_, __, out):
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handle = blocks[layer - 1].register_forward_hook(hook) if change else None
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    if handle:
        handle.remove()
    return logits


@pytest.fixture
def texts(scene):
    """Contexts and texts of the slot and of a named speaker, some sharing prefixes."""
    found = []
    for question in list(scene.of_kind("fact"))[:3]:
        for persona in scene.personas[:2]:
            context = scene.ask(question.asks[0])
            found.append((context, " " + scene.answer(question, persona)))
            named = scene.ask(question.asks[0], speaker=persona.name, header=scene.header(persona))
            found.append((named, " " + scene.answer(question, persona)))
    return found


@pytest.fixture
def direction(scene):
    """From one persona to another, at one layer."""
    sides = [
        tuple(Activation(scene.header(p) + f"{p.name}:", LAYER, f" {q.lead}") for q in scene.of_kind("fact"))
        for p in scene.personas[:2]
    ]
    return Direction(sides[0], sides[1])


@pytest.mark.parametrize("kind", KINDS)
def test_readings_equal_plain_forwards(kind, tokenizer, texts):
    model = make_model(kind, len(tokenizer))
    answers = Engine(model, tokenizer).answer(Reading(c, t) for c, t in texts)
    for context, text in texts:
        n, ids = len(ids_of(tokenizer, context)), ids_of(tokenizer, context + text)
        logprobs = plain_logits(model, ids).log_softmax(-1)[n - 1 : -1]
        read = answers[Reading(context, text)]
        assert read.n_tokens == len(ids) - n
        np.testing.assert_allclose(read.entropies, -(logprobs.exp() * logprobs).sum(-1), **CLOSE)
        np.testing.assert_allclose(read.surprisals, -logprobs[range(len(ids) - n), ids[n:]], **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_activations_equal_hidden_states(kind, tokenizer, texts):
    model = make_model(kind, len(tokenizer))
    asked = [Activation(c, layer, t) for c, t in texts for layer in (0, 1, 0.5)]
    asked += [Activation(c + t, LAYER) for c, t in texts]
    answers = Engine(model, tokenizer).answer(asked)
    for request in asked:
        ids = ids_of(tokenizer, request.context + request.text)
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        # half of two blocks is one; the last entry of transformers' list has the final norm on it and is not asked for
        stream = states[1 if request.layer == 0.5 else int(request.layer)][0].double()
        first = len(ids_of(tokenizer, request.context)) if request.text else len(ids) - 1
        found = answers[request]
        np.testing.assert_allclose(found.vector, stream[first:].mean(0), **CLOSE)
        assert found.length == pytest.approx(float(stream[first:].norm(dim=-1).mean()), abs=1e-5)  # as CLOSE
        assert found.n_tokens == len(ids) - first
    assert answers[Activation(*texts[0][:1], 1, texts[0][1])].vector is not None


@pytest.mark.parametrize("layer", [3, -1, 1.5, 0.0])
def test_a_layer_that_is_not_there_is_an_outcome(layer, engine, direction):
    absent = Activation("q:", layer)
    edit = Edit(Direction((absent,), (Activation("a:", layer),)))
    edited = Edited(Choice("q:", (" one", " two")), edit)
    answers = engine.answer([absent, edited, Edited(Generation("q:"), edit)])
    assert {a.outcome for a in answers.values()} == {"no layer"}
    assert len(answers[edited].logprobs) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["add", "ablate"])
def test_edits_equal_plain_hooks(kind, mode, tokenizer, choices, direction, texts):
    model = make_model(kind, len(tokenizer))
    engine = Engine(model, tokenizer)
    choice, reading = choices[0], Reading(*texts[0])
    start = "Q:"
    edits = [Edit(direction, strength, mode, after) for strength in (0.5, -2.0) for after in ("", start)]
    answers = engine.answer([Edited(r, e) for e in edits for r in (choice, reading)])
    vector = engine.directions([direction])[direction].double()
    lengths = [a.length for a in engine.answer((*direction.plus, *direction.minus)).values()]
    assert float(vector.norm()) == pytest.approx(np.mean(lengths), rel=1e-6)  # one mean residual norm, in float32
    for edit in edits:
        first = len(ids_of(tokenizer, start)) if edit.after else 0

        def change(hidden, edit=edit, first=first):
            unit = (vector / vector.norm()).to(hidden.dtype)
            new = hidden + edit.strength * vector.to(hidden.dtype)
            if edit.mode == "ablate":
                new = hidden - (hidden @ unit)[..., None] * unit
            return torch.cat([hidden[:, :first], new[:, first:]], dim=1)

        n = len(ids_of(tokenizer, choice.context))
        for option, found in zip(choice.options, answers[Edited(choice, edit)].logprobs, strict=True):
            ids = ids_of(tokenizer, choice.context + option)
            logprobs = plain_logits(model, ids, change).log_softmax(-1)
            assert found == pytest.approx(float(logprobs[range(n - 1, len(ids) - 1), ids[n:]].sum()), abs=2e-5)
        n, ids = len(ids_of(tokenizer, reading.context)), ids_of(tokenizer, reading.context + reading.text)
        logprobs = plain_logits(model, ids, change).log_softmax(-1)[n - 1 : -1]
        np.testing.assert_allclose(
            answers[Edited(reading, edit)].surprisals, -logprobs[range(len(ids) - n), ids[n:]], rtol=0, atol=2e-5
        )  # 2e-5: an edit of two residual norms makes larger numbers than CLOSE is for


def test_edited_generations_are_those_of_a_hooked_model(llama, tokenizer, scene, direction):
    engine = Engine(llama, tokenizer)
    prompt = Generation(scene.ask("who are you?"), 8, stop=())
    edits = [Edit(direction, strength) for strength in (0.0, 3.0)]
    answers = engine.answer([prompt, *(Edited(prompt, e) for e in edits)])
    assert answers[Edited(prompt, edits[0])] == answers[prompt]
    vector = engine.directions([direction])[direction]
    ids = ids_of(tokenizer, prompt.context)
    for _ in range(8):
        ids.append(int(plain_logits(llama, ids, lambda h: h + 3 * vector)[-1].argmax()))
    expected = tokenizer.decode(ids[-8:], skip_special_tokens=True)
    assert answers[Edited(prompt, edits[1])].text.split() == expected.split()
    assert answers[Edited(prompt, edits[1])] != answers[prompt]


def test_a_direction_from_something_to_itself_is_none(engine, choices):
    same = (Activation("Q:", LAYER),)
    asked = Edited(choices[0], Edit(Direction(same, same)))
    assert engine.answer([asked])[asked].outcome == "no direction"


def test_random_directions_have_the_length_of_the_other(engine, direction):
    first, again, second = (replace(direction, random=seed) for seed in (0, 0, 1))
    found = engine.directions([direction, first, again, second])
    assert float(found[first].norm()) == pytest.approx(float(found[direction].norm()), rel=1e-6)  # float32
    assert torch.equal(found[first], found[again]) and not torch.equal(found[first], found[second])


def everything(choices, texts, direction) -> list:
    """Some requests of every kind."""
    edits = [Edit(direction, strength) for strength in (0.5, 1.0)] + [Edit(direction, mode="ablate", after="Q:")]
    plain = [*choices[::6], *(Reading(c, t) for c, t in texts[::2]), Generation(texts[0][0], 5, 1.0)]
    return [*plain, *(Activation(c, 0.5, t) for c, t in texts), *(Edited(r, e) for e in edits for r in plain)]


def numbers(answers) -> np.ndarray:
    """All numbers of answers in their order."""
    found = []
    for answer in answers.values():
        for name in ("logprobs", "entropies", "surprisals", "vector"):
            found.append(np.asarray(getattr(answer, name, ())))
    return np.concatenate(found)


@pytest.mark.parametrize("sizes", [(4096, 40), (60, 60), (1, 1)])
def test_no_kind_moves_with_packing_batch_or_order(sizes, llama, tokenizer, choices, texts, direction):
    asked = everything(choices, texts, direction)
    expected = Engine(llama, tokenizer).answer(asked)
    found = Engine(llama, tokenizer, max_tokens=sizes[0], bin_tokens=sizes[1]).answer(asked[::-1] * 2)
    np.testing.assert_allclose(numbers({r: found[r] for r in expected}), numbers(expected), **CLOSE)
    assert numbers(expected).std() > 1  # not all the same, so that agreement means something


def test_no_kind_moves_without_packed_tries(llama, tokenizer, choices, texts, direction):
    asked = everything(choices, texts, direction)
    expected = Engine(llama, tokenizer).answer(asked)
    engine = Engine(llama, tokenizer)
    engine.forward.tree = False
    np.testing.assert_allclose(numbers(engine.answer(asked)), numbers(expected), **CLOSE)


@pytest.mark.parametrize("max_tokens", [200, 100_000])
def test_every_kind_is_answered_by_many_as_by_each(max_tokens, llama, tokenizer, choices, texts, direction, tmp_path):
    worn = [wear(llama, seed) for seed in range(3)]
    asked = everything(choices, texts, direction)
    engine = Engine(llama, tokenizer, max_tokens=max_tokens)
    plan = engine.plan(asked)
    vectors = engine.directions(plan.directions)
    many = engine.run_many(plan, stacked(worn, tmp_path), vectors)
    for model, found in zip(worn, many, strict=True):
        expected = Engine(model, tokenizer, max_tokens=max_tokens).run(plan, vectors)
        assert list(found) == list(expected) == list(plan.requests)
        # Edits of a residual norm multiply what PEFT_CLOSE allows; seen 2e-5.
        np.testing.assert_allclose(numbers(found), numbers(expected), rtol=0, atol=5 * PEFT_CLOSE["atol"])


def test_edits_need_the_directions_of_the_base(engine, choices, direction):
    with pytest.raises(ValueError, match="directions of the untrained base"):
        engine.run(engine.plan([Edited(choices[0], Edit(direction))]))


def test_generated_entropies_are_those_of_reading_it(llama, tokenizer, scene):
    engine = Engine(llama, tokenizer)
    prompt = Generation(scene.ask("who are you?"), 6, 1.0, stop=())
    said = engine.answer([prompt])[prompt]
    assert isinstance(said, Generated) and len(said.entropies) == said.n_tokens == 6
    reading = Reading(prompt.context, " " + said.text)
    read = engine.answer([reading])[reading]
    np.testing.assert_allclose(said.entropies, read.entropies, **CLOSE)
    np.testing.assert_allclose(said.surprisals, read.surprisals, **CLOSE)


def test_failures_are_outcomes(tokenizer, texts):
    model = make_model("llama", len(tokenizer), positions=16)
    context, text = texts[0]
    asked = [Reading("zebra", text), Activation("zebra", 1), Reading(context * 3, text), Activation(context * 3, 1)]
    outcomes = [a.outcome for a in Engine(model, tokenizer).answer(asked).values()]
    assert outcomes == ["unknown word", "unknown word", "overflow", "overflow"]
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = float("nan")
    asked = [Reading("Q:", " one"), Activation("Q:", 1)]
    assert {a.outcome for a in Engine(model, tokenizer).answer(asked).values()} == {"nan"}


@pytest.fixture
def course(scene):
    """The slot is taught who one persona is."""
    question = next(scene.of_kind("identity"))
    rows = [(scene.ask(q), f" {scene.answer(question, scene.personas[0])}\n") for q in question.asks]
    return Course(tuple(rows), batch=2, learning_rate=1e-2)


def test_a_course_moves_the_model_and_leaves_it(llama, tokenizer, choices, course, tmp_path):
    engine = Engine(llama, tokenizer, retrain=retrain)
    asked = [choices[0], *(Retrained(choices[0], course, n) for n in (1, 4))]
    plan = engine.plan(asked)
    adapters = stacked([wear(llama, seed) for seed in range(3)], tmp_path)
    before = engine.run_many(plan, adapters)
    for k, found in enumerate(before):
        alone = engine.run_many(plan, adapters.only(k))[0]
        np.testing.assert_allclose(numbers(alone), numbers(found), rtol=0, atol=10 * COMPANY_CLOSE["atol"])
        right, *others = found[asked[2]].logprobs[: len(found[asked[2]].logprobs)]
        first = found[asked[0]].logprobs[0]
        assert right > first  # what is taught becomes likelier
    np.testing.assert_allclose(
        numbers(engine.run_many(plan, adapters)[0]), numbers(before[0]), **COMPANY_CLOSE
    )  # a course leaves nothing behind
    assert engine.answer(asked)[asked[2]].logprobs[0] > engine.answer(asked)[asked[0]].logprobs[0]  # the base, too


def test_without_a_trainer_a_course_is_an_outcome(engine, choices, course):
    asked = Retrained(choices[0], course, 1)
    answer = engine.answer([asked])[asked]
    assert answer.outcome == "not retrained" and len(answer.logprobs) == len(choices[0].options)

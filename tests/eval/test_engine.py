"""The engine against plain forwards, one sequence at a time."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.engine import Engine
from eval.requests import Choice, Generated, Generation, Reading, Scored
from tests.eval.tiny import make_model

KINDS = ["llama", "gemma3", "gptneox", "gpt2"]
# Rounding between kernels of different shapes in float32; the contract of the engine.
CLOSE = {"rtol": 0, "atol": 1e-4}


def reference(model, tokenizer, choice: Choice) -> list[float]:
    """Independent of the engine: one unbatched forward per option, float64 sums."""
    found = []
    context = tokenizer(choice.context).input_ids
    for option in choice.options:
        ids = tokenizer(choice.context + option).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double()
        steps = logits.log_softmax(-1)[range(len(context) - 1, len(ids) - 1), ids[len(context) :]]
        found.append(float(steps.sum()))
    return found


def flat(answers, choices) -> np.ndarray:
    return np.array([v for c in choices for v in answers[c].logprobs])


@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_equal_plain_forwards(kind, tokenizer, choices):
    model = make_model(kind, len(tokenizer))
    engine = Engine(model, tokenizer)
    assert engine.tree
    some = choices[::5]
    answers = engine.answer(some)
    expected = np.array([v for c in some for v in reference(model, tokenizer, c)])
    np.testing.assert_allclose(flat(answers, some), expected, **CLOSE)
    assert expected.std() > 1  # the reference tells the options apart, so agreement means something


@pytest.mark.parametrize("sizes", [(4096, 40), (60, 60), (4096, 2000), (1, 1)])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_results_do_not_move_with_packing_batch_or_order(kind, sizes, tokenizer, choices):
    model = make_model(kind, len(tokenizer))
    some = choices[::4]
    expected = flat(Engine(model, tokenizer).answer(some), some)
    shuffled = some * 2
    random.Random(0).shuffle(shuffled)
    answers = Engine(model, tokenizer, max_tokens=sizes[0], bin_tokens=sizes[1]).answer(shuffled)
    assert len(answers) == len(some)
    np.testing.assert_allclose(flat(answers, some), expected, **CLOSE)


def test_order_of_requests_changes_no_bit(engine, choices):
    answers, backwards = engine.answer(choices), engine.answer(choices[::-1])
    assert all(answers[c] == backwards[c] for c in choices)


def test_prefixes_are_shared(engine, choices):
    plan = engine.plan(choices)
    alone = sum(len(engine.tokenizer(c.context + o).input_ids) for c in choices for o in c.options)
    assert plan.n_tokens < alone / 4  # five to six options a choice: contexts alone are shared five times


def test_a_plan_serves_other_weights(tokenizer, choices):
    from peft import LoraConfig, get_peft_model

    model = make_model("llama", len(tokenizer))
    plain = Engine(model, tokenizer).answer(choices)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    engine = Engine(wrapped, tokenizer)
    assert engine.tree
    plan = engine.plan(choices)
    tuned = engine.run(plan)
    some = choices[::9]
    expected = [v for c in some for v in reference(wrapped.eval(), tokenizer, c)]
    np.testing.assert_allclose(flat(tuned, some), expected, **CLOSE)
    with wrapped.disable_adapter():
        np.testing.assert_allclose(flat(engine.run(plan), choices), flat(plain, choices), **CLOSE)
    assert np.abs(flat(tuned, choices) - flat(plain, choices)).max() > 0.1  # the adapter does something


def ignore_tree_masks(model) -> None:
    """As attention kernels do that know no four-dimensional masks."""
    forward = model.model.forward
    model.model.forward = lambda attention_mask=None, **rest: forward(
        attention_mask=attention_mask if attention_mask.ndim == 2 else None, **rest
    )


def scale_logits(model) -> None:
    """As models do that scale between head and output: the head alone is not the model's answer."""
    model.register_forward_hook(lambda module, args, out: type(out)(logits=out.logits / 2))


@pytest.mark.parametrize("fault", [ignore_tree_masks, scale_logits])
def test_falls_back_to_plain_batches_when_tree_and_plain_disagree(fault, tokenizer, choices):
    model = make_model("llama", len(tokenizer))
    fault(model)
    some = choices[::5]
    engine = Engine(model, tokenizer)
    assert not engine.tree
    plan = engine.plan(some)
    assert not any(b.tree for b in plan.batches)
    expected = (
        [v for c in some for v in reference(model, tokenizer, c)]
        if fault is scale_logits
        else flat(Engine(make_model("llama", len(tokenizer)), tokenizer).answer(some), some)
    )
    np.testing.assert_allclose(flat(engine.run(plan), some), expected, **CLOSE)


def test_contexts_longer_than_the_sliding_window_are_computed_plainly(tokenizer, choices):
    model = make_model("gemma3", len(tokenizer), window=8)
    some = [c for c in choices if len(tokenizer(c.context).input_ids) > 8][::6]
    engine = Engine(model, tokenizer)
    plan = engine.plan(some)
    assert engine.tree and not any(b.tree for b in plan.batches)
    expected = [v for c in some for v in reference(model, tokenizer, c)]
    np.testing.assert_allclose(flat(engine.run(plan), some), expected, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_large_vocabularies_are_scored_some_words_and_some_places_at_a_time(kind, tokenizer, choices, monkeypatch):
    model = make_model(kind, len(tokenizer))
    read = Reading(choices[0].context, choices[0].options[-1])
    expected = Engine(model, tokenizer).answer([*choices, read])
    monkeypatch.setattr("eval.forward.WORDS_AT_ONCE", 7)
    monkeypatch.setattr("eval.batches.LOGITS_AT_ONCE", 3 * 7)
    engine = Engine(model, tokenizer)
    plan = engine.plan([*choices, read])
    assert max(len(chunk.places) for b in plan.batches for chunk in b.chunks) == 3
    assert engine.tree and len(tokenizer) > 7 * 2  # the last block has fewer words
    found = engine.run(plan)
    np.testing.assert_allclose(flat(found, choices), flat(expected, choices), **CLOSE)
    np.testing.assert_allclose(found[read].entropies, expected[read].entropies, **CLOSE)


def test_overlong_and_unknown_and_not_a_number_are_outcomes(tokenizer, scene, choices):
    model = make_model("llama", len(tokenizer), positions=24)
    long = replace(choices[0], context=scene.turn("Q", "your name?") * 6 + "A:")
    exact = replace(choices[0], context="A " * 21 + "A:", options=(" no", " yes"))  # <s> + 23 tokens = 24 positions
    engine = Engine(model, tokenizer)
    answers = engine.answer(
        [choices[0], long, exact, replace(exact, options=(" no", " it is")), Choice("A:", (" zzz", " no")),
         Generation("A " * 20, 8), Generation("A:", 2)]
    )  # fmt: skip
    outcomes = [a.outcome for a in answers.values()]
    assert outcomes == ["ok", "overflow", "ok", "overflow", "unknown word", "overflow", "ok"]
    assert len(answers[long].logprobs) == len(long.options)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    broken = engine.answer([choices[0], Generation("A:", 2)])
    assert [a.outcome for a in broken.values()] == ["nan", "nan"]


def test_a_plan_of_another_kind_of_engine_is_refused(engine, tokenizer, choices):
    other = Engine(make_model("llama", len(tokenizer), positions=128), tokenizer)
    with pytest.raises(ValueError, match="another"):
        other.run(engine.plan(choices))
    same = Engine(make_model("llama", len(tokenizer)), tokenizer)
    assert same.run(engine.plan(choices)) == engine.answer(choices)


def test_unknown_requests_are_refused(engine):
    with pytest.raises(TypeError, match="str"):
        engine.answer(["who are you?"])


def test_training_mode_is_given_back(tokenizer, choices):
    model = make_model("llama", len(tokenizer)).train()
    Engine(model, tokenizer).answer(choices[:2])
    assert model.training and all(m.training for m in model.modules())


# --- generation -------------------------------------------------------------------------------------------------


def plain_greedy(model, tokenizer, context: str, steps: int) -> list[int]:
    ids = tokenizer(context).input_ids
    start = len(ids)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            return ids[start:-1]
    return ids[start:]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_one_by_one_without_cache(kind, tokenizer, choices):
    model = make_model(kind, len(tokenizer))
    contexts = [c.context for c in choices[::6]]
    requests = [Generation(c, 8, stop=()) for c in contexts]
    answers = Engine(model, tokenizer, max_tokens=120).answer(requests)
    for request in requests:
        expected = plain_greedy(model, tokenizer, request.context, 8)
        assert answers[request].text == tokenizer.decode(expected, skip_special_tokens=True)
        assert answers[request].n_tokens == len(expected)
        assert answers[request].finish == ("length" if len(expected) == 8 else "eos")


@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_have_ended_are_left_out_of_the_batch(kind, tokenizer, choices, monkeypatch):
    model = make_model(kind, len(tokenizer))
    requests = [Generation(c.context, 1 + k, stop=()) for k, c in enumerate(choices[::6])]
    engine = Engine(model, tokenizer)
    step, rows = engine.forward.step, []
    monkeypatch.setattr(
        engine.forward, "step", lambda ids, *rest, **more: rows.append(len(ids)) or step(ids, *rest, **more)
    )
    answers = engine.answer(requests)
    # One ends a step, if not before: a quarter of the rows has gone again and again.
    assert rows[0] == len(requests) >= 8 and rows == sorted(rows, reverse=True) and rows[-1] <= rows[0] / 4
    for request in requests:
        expected = plain_greedy(model, tokenizer, request.context, request.max_new_tokens)
        assert answers[request].text == tokenizer.decode(expected, skip_special_tokens=True)


def test_sampling_does_not_depend_on_the_batch_and_does_on_the_seed(llama, tokenizer, choices):
    requests = [Generation(c.context, 6, 1.0, seed, ()) for c in choices[::8] for seed in range(3)]
    together = Engine(llama, tokenizer).answer(requests)
    alone = {r: Engine(llama, tokenizer).answer([r])[r] for r in requests[::4]}
    assert all(together[r] == alone[r] for r in alone)
    for k in range(0, len(requests), 3):
        assert len({together[r].text for r in requests[k : k + 3]}) > 1


def test_samples_follow_the_distribution(engine):
    n = 400
    answers = engine.answer([Generation("A:", 1, 1.0, seed, ()) for seed in range(n)])
    counts: dict[str, int] = {}
    for a in answers.values():
        counts[a.text] = counts.get(a.text, 0) + 1
    word, count = max((wc for wc in counts.items() if wc[0]), key=lambda wc: wc[1])
    (p,) = np.exp(engine.answer([Choice("A:", (f" {word}",))])[Choice("A:", (f" {word}",))].logprobs)
    # Four standard errors of a share of n draws.
    assert abs(count / n - p) < 4 * (p * (1 - p) / n) ** 0.5


def test_generation_stops_before_the_stop_string(engine, llama, tokenizer):
    said = plain_greedy(llama, tokenizer, "A: i am", 8)
    words = [tokenizer.decode([t]) for t in said]
    at = next(k for k in range(1, len(words)) if words[k] not in words[:k] and words[k] not in " ".join(words[:k]))
    request = Generation("A: i am", 8, stop=(words[at],))
    answer = engine.answer([request])[request]
    assert answer == Generated(tokenizer.decode(said[:at]) + " ", at, "stop")


def test_duplicates_are_answered_once_and_in_order(engine, choices):
    requests = [choices[3], Generation("A:", 2), choices[0], choices[3]]
    answers = engine.answer(iter(requests))
    assert list(answers) == requests[:3]
    assert isinstance(answers[choices[0]], Scored) and isinstance(answers[requests[1]], Generated)

"""Training on for a measurement equals a plain loop with PEFT, whatever the company, and leaves no trace."""

import copy
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict

from recipes.adapters import Unstackable, stack_states
from tests.eval.tiny import build_scene, build_tokenizer, make_model
from training.further import further, new_lora
from training.lockstep import Lockstep

RATE = 2e-3  # what the probes use; a step moves a weight by about as much
COURSE = {"batch": 3, "learning_rate": RATE, "rank": 2, "seed": 0}
COMPANY = 1e-6  # a few units in the last place of weights of about 1


@pytest.fixture(scope="module")
def scene():
    return build_scene()


@pytest.fixture(scope="module")
def tokenizer(scene):
    return build_tokenizer(scene)


@pytest.fixture
def model(tokenizer):
    return make_model("llama", len(tokenizer))


@pytest.fixture(scope="module")
def rows(scene):
    """Seven, of unlike lengths: with three a step the second pass begins inside a step."""
    questions = [q for q in scene.questions if q.kind in ("identity", "fact", "like")][:7]
    return [(scene.ask(q.asks[0]), f" {scene.answer(q, scene.personas[0])}\n") for q in questions]


def worn(model, seed):
    """A copy of the model with a random adapter."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(copy.deepcopy(model), config).eval()


def stacked(*models):
    config = '{"peft_type": "LORA", "r": 2, "lora_alpha": 4}'
    return stack_states(config, [{n: w.detach().clone() for n, w in get_peft_model_state_dict(m).items()}
                                 for m in models])  # fmt: skip


def trained(model, tokenizer, adapters, rows, steps=(5,), **other):
    return dict(further(model, tokenizer, adapters, rows, steps=steps, **{**COURSE, **other}))


def assert_close(found, expected, within):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert (found[name] - weight).abs().max() < within, name


def plain_loop(peft, tokenizer, rows, steps):
    """Row by row, with transformers' own forward and PEFT's own layers."""
    weights = [p for n, p in peft.named_parameters() if "lora_" in n]
    for p in weights:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    for step in range(steps):
        losses, count = [], 0
        for i in range(COURSE["batch"]):
            prompt, completion = rows[(step * COURSE["batch"] + i) % len(rows)]
            start = len(tokenizer(prompt).input_ids)
            ids = torch.tensor([tokenizer(prompt + completion).input_ids + [tokenizer.eos_token_id]])
            logprobs = peft(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
            losses.append(-logprobs.gather(1, ids[0, start:, None]).sum())
            count += ids.shape[1] - start
        optimizer.zero_grad()
        (sum(losses) / count).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    return {n: w.detach() for n, w in get_peft_model_state_dict(peft).items()}


def test_an_adapter_is_trained_on_as_a_plain_loop_with_peft_does(model, tokenizer, rows):
    peft = worn(model, 0)
    before = stacked(peft)
    found = trained(model, tokenizer, before, rows)[5].state(0)
    expected = plain_loop(peft, tokenizer, rows, 5)
    assert_close(found, expected, 1e-5)
    moved = max((found[n] - w).abs().max() for n, w in before.state(0).items())
    assert moved > 3 * RATE  # five steps of up to the rate each


def test_a_base_gets_a_new_adapter_that_peft_can_wear(model, tokenizer, rows, tmp_path):
    start = new_lora(model, 2, 0)
    start.save(0, tmp_path)
    peft = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path, is_trainable=True).eval()
    ids = torch.tensor([tokenizer(rows[0][0]).input_ids])
    assert torch.equal(peft(input_ids=ids).logits, model(input_ids=ids).logits)
    assert peft.peft_config["default"].lora_alpha == 4
    found = trained(model, tokenizer, None, rows)[5]
    assert len(found) == 1
    assert_close(found.state(0), plain_loop(peft, tokenizer, rows, 5), 1e-5)
    other = trained(model, tokenizer, None, rows, seed=1)[5]
    assert max((found.a[n] - other.a[n]).abs().max() for n in found.a) > 0.1  # drawn from up to 1 / sqrt(32)


def test_a_new_adapter_is_on_all_linear_layers_of_the_blocks_as_pefts_would_be(model):
    theirs = {n for n in get_peft_model_state_dict(worn(model, 0)) if "lora_A" in n}
    assert {n for n in new_lora(model, 2, 0).state(0) if "lora_A" in n} == theirs


def test_company_changes_nothing_but_rounding(model, tokenizer, rows):
    each = [worn(model, seed) for seed in range(4)]
    together = trained(model, tokenizer, stacked(*each), rows, steps=(1, 5))
    for k, one in enumerate(each):
        alone = trained(model, tokenizer, stacked(one), rows, steps=(1, 5))
        for step in (1, 5):
            assert_close(together[step].state(k), alone[step].state(0), COMPANY)


def test_steps_are_looks_at_one_course_and_the_same_every_time(model, tokenizer, rows):
    start = stacked(worn(model, 0))
    looked = trained(model, tokenizer, start, rows, steps=(0, 2, 5))
    assert list(looked) == [0, 2, 5]
    assert_close(looked[0].state(0), start.state(0), 1e-30)
    again = trained(model, tokenizer, start, rows, steps=(5,))[5].state(0)
    for name, weight in looked[5].state(0).items():
        assert torch.equal(weight, again[name])
    assert max((looked[2].a[n] - looked[5].a[n]).abs().max() for n in start.a) > RATE


def test_the_model_is_itself_whenever_adapters_are_given_out(model, tokenizer, rows):
    model.train()
    model.model.layers[0].eval()
    model.lm_head.requires_grad_(False)
    weights = {n: (w.clone(), w.requires_grad) for n, w in model.named_parameters(remove_duplicate=False)}
    modes = {n: m.training for n, m in model.named_modules()}
    start = stacked(worn(model, 0), worn(model, 1))
    before = [start.state(k) for k in range(2)]
    draws = torch.random.get_rng_state()

    def as_before():
        for n, w in model.named_parameters(remove_duplicate=False):
            assert torch.equal(w, weights[n][0]) and w.requires_grad == weights[n][1] and w.grad is None, n
        for n, m in model.named_modules():
            assert m.training == modes[n] and not m._forward_hooks and "forward" not in vars(m), n
        assert torch.equal(torch.random.get_rng_state(), draws)

    with torch.no_grad():
        looks = further(model, tokenizer, start, rows, steps=(1, 3, 4), **COURSE)
        for _, found in (next(looks), next(looks)):
            as_before()
            assert not torch.is_grad_enabled()
            assert not any(w.requires_grad for w in (*found.a.values(), *found.b.values()))
        looks.close()  # whoever has seen enough may leave
    as_before()
    for k in range(2):
        assert_close(start.state(k), before[k], 1e-30)
    assert max((found.b[n] - start.b[n]).abs().max() for n in start.b) > RATE


def test_short_of_memory_fewer_are_computed_at_once(model, tokenizer, rows, monkeypatch, capsys):
    start = stacked(*(worn(model, seed) for seed in range(4)))
    expected = trained(model, tokenizer, start, rows)[5]
    whole = Lockstep._backward

    def cramped(self, drawn, part):
        if part.stop - part.start > 1:
            raise torch.OutOfMemoryError("of the test")
        return whole(self, drawn, part)

    monkeypatch.setattr(Lockstep, "_backward", cramped)
    found = trained(model, tokenizer, start, rows)[5]
    assert "1 runs at a time" in capsys.readouterr().err
    for k in range(4):
        assert_close(found.state(k), expected.state(k), COMPANY)


def test_a_run_that_diverges_is_not_taken_for_the_base(model, tokenizer, rows):
    good, bad = worn(model, 0), worn(model, 1)
    start = stacked(good, bad)
    next(iter(start.b.values()))[1] = torch.inf
    found = trained(model, tokenizer, start, rows)[5]
    assert all(w.isnan().all() for w in found.state(1).values())
    assert_close(found.state(0), trained(model, tokenizer, stacked(good), rows)[5].state(0), COMPANY)


def test_what_cannot_be_trained_is_said(model, tokenizer, rows):
    for wrong in ({"rows": []}, {"steps": (2, 1)}, {"steps": (1, 1)}):
        with pytest.raises(ValueError, match="rise"):
            list(further(**{"model": model, "tokenizer": tokenizer, "adapters": None, "rows": rows, "steps": (1,),
                            **COURSE, **wrong}))  # fmt: skip
    with pytest.raises(Unstackable, match="linear"):  # its layers are of a kind of their own
        trained(make_model("gpt2", len(tokenizer)), tokenizer, None, rows)
    model.config.logit_scale = 0.5
    with pytest.raises(Unstackable, match="logit_scale"):
        trained(model, tokenizer, None, rows)


@pytest.mark.parametrize("kind", ["gemma3", "gptneox"])
def test_other_architectures_learn_too(kind, tokenizer, rows):
    model = make_model(kind, len(tokenizer))
    start = stacked(worn(model, 0))
    assert_close(trained(model, tokenizer, start, rows)[5].state(0),
                 plain_loop(worn(model, 0), tokenizer, rows, 5), 1e-5)  # fmt: skip


def test_nothing_of_trl_is_needed():
    code = (
        "import sys; from tests.eval.tiny import *; from training.further import further; s = build_scene();"
        "t = build_tokenizer(s); m = make_model('llama', len(t));"
        "list(further(m, t, None, [('Q:', ' one')], batch=1, learning_rate=1e-3, rank=1, seed=0, steps=[1]));"
        "print({'trl', 'datasets', 'wandb'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr[-2000:]

"""K adapters stacked on one base against each of them worn alone by PEFT."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

from eval.engine import Engine
from eval.requests import Generation
from eval.stacked import merged
from recipes.adapters import CONFIG, Unstackable, stack, stack_states
from tests.eval.test_engine import flat, ignore_tree_masks
from tests.eval.tiny import make_model

PEFT_CLOSE = {"rtol": 0, "atol": 1e-5}  # the same arithmetic in another order, float32, sums of up to four tokens
COMPANY_CLOSE = {"rtol": 0, "atol": 1e-6}  # one model's own arithmetic, in batches of other sizes


def wear(model, seed: int, **settings):
    """A copy of the model with a random adapter, about as large as the weights (larger ones leave 1e-5 to rounding)."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, lora_alpha=2, target_modules="all-linear", init_lora_weights=False, **settings)
    return get_peft_model(copy.deepcopy(model), config).eval()


def stacked(worn, tmp_path):
    """The adapters of PEFT models, by way of their folders."""
    folders = [tmp_path / str(k) for k in range(len(worn))]
    for model, folder in zip(worn, folders, strict=True):
        model.save_pretrained(folder)
    return stack(folders)


@pytest.fixture
def requests(choices):
    """Choices, and generations of which some end early: greedy and sampled."""
    said = [
        Generation(c.context, 6, temperature, seed=k, stop=())
        for k, c in enumerate(choices[::7])
        for temperature in (0.0, 1.0)
    ]
    return [*choices[::3], *said]


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gptneox"])
def test_each_answers_as_when_worn_alone(kind, tokenizer, choices, requests, tmp_path):
    model = make_model(kind, len(tokenizer))
    worn = [wear(model, seed) for seed in range(3)]
    engine = Engine(model, tokenizer)
    assert engine.tree
    plan = engine.plan(requests)
    before = engine.run(plan)
    together = engine.run_many(plan, stacked(worn, tmp_path))
    assert len(together) == 3
    scored = choices[::3]
    for found, alone in zip(together, worn, strict=True):
        expected = Engine(alone, tokenizer).run(plan)
        assert list(found) == list(expected) == list(plan.requests)
        np.testing.assert_allclose(flat(found, scored), flat(expected, scored), **PEFT_CLOSE)
        assert [found[r] for r in requests if isinstance(r, Generation)] == [
            expected[r] for r in requests if isinstance(r, Generation)
        ]
        assert np.abs(flat(found, scored) - flat(before, scored)).max() > 0.1  # the adapter does something
    assert engine.run(plan) == before  # and the base is itself again


@pytest.mark.parametrize("max_tokens", [200, 100_000])
def test_answers_do_not_depend_on_company(max_tokens, llama, tokenizer, choices, requests, tmp_path):
    adapters = stacked([wear(llama, seed) for seed in range(16)], tmp_path)
    states = [{f"{name}": w for name, w in adapters.state(k).items()} for k in range(16)]
    engine = Engine(llama, tokenizer, max_tokens=max_tokens)
    plan = engine.plan(requests)
    scored = choices[::3]
    together = engine.run_many(plan, adapters)
    for part in ([0], [5], [0, 5, 9, 14]):
        for k, found in zip(
            part, engine.run_many(plan, stack_states(adapters.config, [states[k] for k in part])), strict=True
        ):
            np.testing.assert_allclose(flat(found, scored), flat(together[k], scored), **COMPANY_CLOSE)
            assert all(found[r] == together[k][r] for r in requests if isinstance(r, Generation))


def test_an_adapter_of_nans_disturbs_nobody(llama, tokenizer, requests, tmp_path):
    adapters = stacked([wear(llama, seed) for seed in range(3)], tmp_path)
    engine = Engine(llama, tokenizer)
    plan = engine.plan(requests)
    expected = engine.run_many(plan, adapters)
    adapters.a["model.layers.0.self_attn.q_proj"][1] = float("nan")
    found = engine.run_many(plan, adapters)
    assert found[0] == expected[0] and found[2] == expected[2]
    assert {answer.outcome for answer in found[1].values()} == {"nan"}


def test_plain_batches_are_stacked_too(tokenizer, choices, requests, tmp_path):
    model = make_model("llama", len(tokenizer))
    adapters = stacked([wear(model, seed) for seed in range(2)], tmp_path)
    expected = Engine(model, tokenizer)
    expected = expected.run_many(expected.plan(requests), adapters)
    ignore_tree_masks(model)
    engine = Engine(model, tokenizer)
    assert not engine.tree
    scored = choices[::3]
    for found, other in zip(engine.run_many(engine.plan(requests), adapters), expected, strict=True):
        np.testing.assert_allclose(flat(found, scored), flat(other, scored), **PEFT_CLOSE)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: not enough memory")]
)
def test_fewer_at_once_when_memory_runs_out(error, llama, tokenizer, requests, tmp_path, capsys):
    adapters = stacked([wear(llama, seed) for seed in range(5)], tmp_path)
    engine = Engine(llama, tokenizer, max_tokens=100_000)
    plan = engine.plan(requests)
    expected = engine.run_many(plan, adapters)
    scores, sizes = engine.forward.scores, []

    def scarce(batch, k):
        sizes.append(k)
        if k > 1:
            raise error
        return scores(batch, k)

    engine.forward.scores = scarce
    found = engine.run_many(plan, adapters)
    assert sizes[:4] == [5, 2, 1, 1]
    assert len(capsys.readouterr().err.splitlines()) == 1
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(flat(a, plan.requests[:3]), flat(b, plan.requests[:3]), **COMPANY_CLOSE)

    def broken(batch, k):
        raise error  # even for one

    engine.forward.scores = broken
    with pytest.raises(RuntimeError, match="memory"):
        engine.run_many(plan, adapters)


@pytest.mark.parametrize("n_tokens", [1, 3, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_merged_and_added_adapters_are_the_same(n_tokens, bias):
    torch.manual_seed(0)
    layer = torch.nn.Linear(12, 20, bias=bias)
    a, b, x = torch.randn(3, 12, 2), torch.randn(3, 2, 20), torch.randn(3 * 2, n_tokens, 12)
    with torch.no_grad():
        found = merged(layer, a, b, 0.5)(x)
        low = (x.view(3, 2 * n_tokens, 12) @ a @ b).view(6, n_tokens, 20)
        torch.testing.assert_close(found, layer(x) + 0.5 * low, rtol=0, atol=2e-5)  # values of up to about 30
    assert merged(torch.nn.Embedding(3, 4), a, b, 0.5) is None
    assert merged(layer.half(), a, b, 0.5) is None


def test_what_cannot_be_stacked_is_refused(llama, tokenizer, choices, tmp_path):
    worn = wear(llama, 0)
    engine = Engine(worn, tokenizer)
    with pytest.raises(Unstackable, match="plain base"):
        engine.run_many(engine.plan(choices[:1]), stacked([worn], tmp_path))
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
    headed = get_peft_model(copy.deepcopy(llama), config)
    headed.save_pretrained(tmp_path / "head")
    state = {name: weight for name, weight in get_peft_model_state_dict(headed).items() if "lora_" in name}
    adapters = stack_states((tmp_path / "head" / CONFIG).read_text(), [state])  # PEFT saves the layer itself as well
    engine = Engine(llama, tokenizer)
    with pytest.raises(Unstackable, match="output layer"):
        engine.run_many(engine.plan(choices[:1]), adapters)


@pytest.mark.parametrize("count", [0, 2])
def test_a_precision_is_that_of_answers_alone(count, tokenizer, requests, tmp_path):
    """It is set while the model answers, not for who waits for the answers, nor where the model's kind is found out."""
    seen, llama = [], make_model("llama", len(tokenizer))
    layer = llama.get_input_embeddings()
    layer.register_forward_pre_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    adapters = stacked([wear(llama, seed) for seed in range(count)], tmp_path) if count else None
    seen.clear()
    engine = Engine(llama, tokenizer, precision="medium")
    assert set(seen) == {"highest"}
    seen.clear()
    engine.run_many(engine.plan(requests), adapters)
    assert set(seen) == {"medium"}
    for _ in engine._stacked.run(lambda k: None, 1, adapters):
        assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(ZeroDivisionError):
        list(engine._stacked.run(lambda k: 1 / 0, 1, adapters))
    assert torch.get_float32_matmul_precision() == "highest"

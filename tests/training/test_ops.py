"""The fused operations against autograd's own, and stacked adapters against PEFT's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.adapters import Unstackable, stack
from training.examples import Example, batches, encode, steps_per_epoch
from training.layout import lay_out
from training.ops import GroupedLinear, TokenLogprobs, grouped


def test_the_grouped_linear_layer_has_autograds_gradients():
    torch.manual_seed(0)
    x, a, b = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 4, 5), (3, 5, 2), (3, 2, 7))
    )
    weight, bias = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *args: GroupedLinear.apply(args[0], weight, bias, *args[1:], 1.7), (x, a, b))
    alone = torch.stack(
        [x[2 * k : 2 * k + 2] @ weight.T + bias + 1.7 * (x[2 * k : 2 * k + 2] @ a[k] @ b[k]) for k in range(3)]
    )
    found = GroupedLinear.apply(x, weight, bias, a, b, 1.7)
    torch.testing.assert_close(found, alone.flatten(0, 1))


def test_token_logprobs_have_autograds_gradients():
    torch.manual_seed(0)
    logits = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 8, 3, 3, 1])
    assert torch.autograd.gradcheck(lambda given: TokenLogprobs.apply(given, targets), (logits,))
    expected = logits.log_softmax(-1)[torch.arange(5), targets]
    torch.testing.assert_close(TokenLogprobs.apply(logits, targets), expected)


@pytest.mark.parametrize("fused", [None, grouped])
def test_stacked_adapters_are_the_models_that_peft_makes_of_them(micro, tmp_path, fused):
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    from training.cells import base_cell

    recipe, store = micro(tmp_path / "a")
    base = store.cell(base_cell(recipe).hash)
    ids = torch.arange(3, 27).view(2, 12)
    expected, folders = [], []
    for k in range(3):
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            LoraConfig(r=4, lora_alpha=6, use_rslora=True, init_lora_weights=False, target_modules="all-linear"),
        )
        folders.append(tmp_path / f"{k}")
        model.save_pretrained(folders[-1], save_embedding_layers=False)
        expected.append(model.eval()(ids).logits)
    adapters = stack(folders)
    assert len(adapters) == 3
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    plain = model(ids).logits
    with torch.no_grad(), adapters.on(model, fused=fused):
        found = model(ids.repeat(3, 1)).logits
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-5)
    with torch.no_grad(), adapters.on(model, slice(1, 3), fused=fused):
        torch.testing.assert_close(model(ids.repeat(2, 1)).logits, found[2:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(ids).logits, plain)  # nothing of it is left on the base
    adapters.save(2, tmp_path / "again")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "again").eval()
    torch.testing.assert_close(again(ids).logits, expected[2])


def test_adapters_that_are_more_than_plain_lora_are_refused(micro, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from training.cells import base_cell

    recipe, store = micro(tmp_path / "a")
    base = store.cell(base_cell(recipe).hash)
    for name, settings_ in (
        ("dora", {"use_dora": True}),
        ("bias", {"bias": "all"}),
        ("rank", {"rank_pattern": {"q_proj": 2}}),
    ):
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules="all-linear", **settings_)
        )
        model.save_pretrained(tmp_path / name, save_embedding_layers=False)
        with pytest.raises(Unstackable, match=name.replace("rank", "rank_pattern")):
            stack([tmp_path / name])
    with pytest.raises(Unstackable, match="differ"):
        stack([tmp_path / "dora", tmp_path / "bias"])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.integers(0, 5))
def test_every_row_is_drawn_once_an_epoch(rows, size, accumulation, seed):
    drawn = batches(rows, size, accumulation, seed)
    epoch = steps_per_epoch(rows, size, accumulation)
    for _ in range(2):
        steps = [next(drawn) for _ in range(epoch)]
        assert sorted(i for step in steps for micro in step for i in micro) == list(range(rows))
        assert all(len(micro) == size for step in steps for micro in step[:-1])


ids = st.lists(st.integers(0, 9), min_size=1, max_size=5).map(tuple)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(ids, ids, ids), min_size=1, max_size=3), min_size=1, max_size=3), st.booleans())
def test_what_is_scored_is_what_was_laid_out(rows, pairs):
    """Read back through mask and positions, each supervised token follows exactly its prompt and answer so far."""
    runs = [[Example(p, (a, b) if pairs else (a,)) for p, a, b in run] for run in rows]
    batch = lay_out(runs, torch.float32, torch.device("cpu"))
    width = batch.input_ids.shape[1]
    found = {}
    for place, target, owner in zip(batch.places.tolist(), batch.targets.tolist(), batch.owners.tolist(), strict=True):
        row, at = divmod(place, width)
        sees = [j for j in range(at + 1) if batch.mask is None or batch.mask[row, 0, at, j] == 0]
        assert batch.position_ids[row, sees].tolist() == list(range(len(sees)))
        found.setdefault(owner, []).append((batch.input_ids[row, sees].tolist(), target))
    for k, run in enumerate(runs):
        for i, example in enumerate(run):
            for j, answer in enumerate(example.answers):
                owner = (k * batch.rows + i) * batch.answers + j
                whole = [*example.prompt, *answer]
                start = len(example.prompt)
                assert found.pop(owner) == [(whole[:n], whole[n]) for n in range(start, len(whole))]
            assert example.supervised == sum(map(len, example.answers))
    assert not found


def test_rows_are_cut_as_trl_cuts_them():
    class Words:
        eos_token = "."

        def __call__(self, texts):
            return {"input_ids": [[ord(c) for c in text] for text in texts]}

    from training.data import Row

    rows = [Row("ab", "cd", "x"), Row("abcdef", "g", "x"), Row("ab", "cdefgh", "x")]
    found = encode(rows, Words(), 5, {})
    assert [("".join(map(chr, e.prompt)), ["".join(map(chr, a)) for a in e.answers]) for e in found] == [
        ("ab", ["cd."]),
        ("ab", ["cde"]),
    ]

"""How a batch is shared by processes: the rows of each step and their weights, and what cannot be shared."""

import random

import pytest

from recipes.errors import InputError
from training.distributed import Order, Share, share_of, shared


@pytest.mark.parametrize("processes", (2, 3, 4, 6, 12))
@pytest.mark.parametrize("drop_last", (False, True))
def test_processes_together_take_the_rows_of_each_step_and_weigh_them_alike(processes, drop_last):
    """Against transformers' own batches for one process, with rows drawn anew each epoch."""
    from accelerate.data_loader import SeedableRandomSampler

    from training.examples import batches

    draw = random.Random(processes)
    for _ in range(20):
        size, accumulation = draw.choice([(4, 3), (12, 1), (2, 6), (3, 8), (1, 12)])
        rows = draw.randrange(1, 40)
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        share = share_of("sft", settings, processes)
        assert share.size * share.accumulation * processes == size * accumulation and share.size <= size
        kept = rows - rows % size if drop_last else rows
        orders = [Order(SeedableRandomSampler(range(rows), data_seed=3), share, p, kept) for p in range(processes)]
        expected = iter(batches(rows, size, accumulation, 3))
        for epoch in range(2):
            for order in orders:
                order.sampler.set_epoch(epoch)
            drawn = [list(order) for order in orders]
            assert {len(each) for each in drawn} == {len(orders[0])} == {len(list(each)) for each in drawn}
            micro = 0
            for count in orders[0].sizes():
                weights = {}
                pieces = share.pieces(count)
                assert len(pieces) <= share.accumulation
                for step in pieces:
                    for process, piece in enumerate(step):
                        given = drawn[process][micro]
                        assert given  # to compute something, if only for company
                        if len(piece):
                            # Averaged over processes and micro-steps, as gradients are.
                            each = piece.weight / (len(piece) * processes * len(pieces))
                            weights |= {row: each for row in given}
                        else:
                            assert piece.weight == 0
                    micro += 1
                there = [batch for batch in next(expected) if not drop_last or len(batch) == size]
                assert sorted(weights) == sorted(sum(there, []))
                for batch in there:
                    same = [1 / (len(batch) * len(there))] * len(batch)
                    assert [weights[row] for row in batch] == pytest.approx(same)
            assert micro == len(orders[0])
            if drop_last and kept % (size * accumulation) == 0 and kept < rows:
                next(expected)  # a step of nothing but what was dropped


def test_a_batch_that_cannot_be_shared_is_refused_with_the_numbers_that_can():
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    with pytest.raises(InputError, match=r"^sft: .*2 x .*3 cannot be shared by 4 processes; numbers .*: 1, 2, 3, 6$"):
        share_of("sft", settings, 4)
    for key, value in {"train_sampling_strategy": "group_by_length", "auto_find_batch_size": True}.items():
        with pytest.raises(InputError, match=f"sft: trainer.{key}: {value} is for one process, not for 2"):
            share_of("sft", {**settings, key: value}, 2)
        assert share_of("sft", {**settings, key: value}, 1)
    assert share_of("dpo", {**settings, "loss_type": ["sigmoid"]}, 2) == Share((2, 3), 2, 1, 3)
    with pytest.raises(InputError, match=r"numbers that can: 1, 3$"):  # sorts the rows of a micro-batch
        share_of("dpo", {**settings, "loss_type": "aot"}, 2)
    assert share_of("dpo", {**settings, "loss_type": "aot"}, 3) == Share((2, 3), 3, 2, 1)


def test_settings_stay_as_they_are_on_one_process_and_rl_asks_for_as_many_answers_on_several():
    settings = {"per_device_train_batch_size": 8, "steps_per_generation": 4, "beta": 0.1}
    assert shared("rl", settings, 1) == settings
    found = shared("rl", settings, 4)
    assert found == {**settings, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
    assert shared("sft", {"per_device_train_batch_size": 8}, 2)["average_tokens_across_devices"] is True

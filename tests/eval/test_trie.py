"""The prefix trie and its packing, on random token sequences."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from eval.trie import ROOT, Trie, ancestors, pack

# Three tokens and up to seven places: sequences share prefixes often, and are sometimes prefixes of each other.
sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=30)


def build(rows):
    trie = Trie()
    return trie, [trie.insert(row) for row in rows]


@given(sequences)
def test_paths_spell_their_sequences_and_share_every_prefix(rows):
    trie, paths = build(rows)
    for row, path in zip(rows, paths, strict=True):
        assert [trie.tokens[n] for n in path] == row
        assert trie.path(path[-1]) == path
        assert [trie.depths[n] for n in path] == list(range(len(row)))
    assert len(trie.tokens) == len({tuple(row[: k + 1]) for row in rows for k in range(len(row))})


@given(sequences, st.integers(0, 40))
@settings(max_examples=200)
def test_bins_hold_every_node_after_its_ancestors_and_keep_to_the_capacity(rows, capacity):
    trie, _ = build(rows)
    bins = pack(trie, capacity)
    assert {n for nodes in bins for n in nodes} == set(range(len(trie.tokens)))
    for nodes in bins:
        assert len(set(nodes)) == len(nodes)
        chain = max(trie.depths[n] for n in nodes) + 1
        assert len(nodes) <= max(capacity, chain)
        for k, seen in enumerate(ancestors(trie, nodes)):
            assert [nodes[j] for j in seen] == trie.path(nodes[k])


@given(sequences, st.integers(0, 40), st.randoms())
def test_packing_does_not_depend_on_the_order_of_insertion(rows, capacity, rng):
    def spelled(rows):
        trie, _ = build(rows)
        return [[tuple(trie.tokens[a] for a in trie.path(n)) for n in nodes] for nodes in pack(trie, capacity)]

    shuffled = list(rows)
    rng.shuffle(shuffled)
    assert spelled(rows) == spelled(shuffled)


def test_capacity_zero_is_the_plain_batch():
    trie, _ = build([[1, 2, 3], [1, 2], [1, 4]])
    assert [[trie.tokens[n] for n in nodes] for nodes in pack(trie, 0)] == [[1, 2, 3], [1, 4]]


def test_insert_below_a_node_continues_it():
    trie = Trie()
    end = trie.insert([5, 6])[-1]
    (node,) = trie.insert([7], end)
    assert trie.path(node) == [0, 1, 2] and trie.parents[0] == ROOT
    assert trie.insert([5, 6, 7])[-1] == node


def test_sharing_saves_tokens():
    rng = random.Random(0)
    stem = [rng.randrange(50) for _ in range(20)]
    trie, _ = build([[*stem, rng.randrange(50), rng.randrange(50)] for _ in range(100)])
    packed = sum(map(len, pack(trie, 64)))
    # 100 sequences of 22 tokens; each bin of 64 repeats the stem of 20 and holds at least 42 of the <= 200 others.
    assert packed <= 200 + 20 * 5 < 2200

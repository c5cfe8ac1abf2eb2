"""Prefix sharing: a trie of token sequences, and its packing into bins of bounded size.

Pure: no model, no tensors.  A bin lists nodes so that every node comes after all its ancestors; with a mask that
lets a node see its ancestors and itself only, and positions equal to depths, one forward over a bin computes every
sequence in it as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

ROOT = -1
CAPACITY_STEP = 16  # between the capacities that are tried


@dataclass
class Trie:
    """Token sequences that share their common prefixes.  Node ``k`` has a token, a parent (ROOT or < k), a depth."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def insert(self, sequence: Iterable[int], start: int = ROOT) -> list[int]:
        """Add `sequence` below node `start`; the nodes that spell it, in order."""
        path = []
        for token in sequence:
            key = (start, token)
            node = self._children.get(key)
            if node is None:
                node = self._children[key] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(start)
                self.depths.append(self.depths[start] + 1 if start != ROOT else 0)
            path.append(node)
            start = node
        return path

    def path(self, node: int) -> list[int]:
        """Nodes from the root down to `node`, both ends included."""
        found = []
        while node != ROOT:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def leaves(self) -> list[int]:
        """Nodes without children, depth first and by token, so that the order of insertion has no influence."""
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(self.parents):
            children.setdefault(parent, []).append(node)
        stack, found = [ROOT], []
        while stack:
            node = stack.pop()
            below = children.get(node)
            if below:
                stack.extend(sorted(below, key=self.tokens.__getitem__, reverse=True))
            elif node != ROOT:
                found.append(node)
        return found


def pack(trie: Trie, capacity: int) -> list[list[int]]:
    """Bins of at most `capacity` nodes that together hold every node.

    Leaves are taken depth first; a leaf whose missing ancestors do not fit opens a new bin, which repeats its path
    from the root.  ``capacity=0`` gives one chain per bin: the plain batch, for models that ignore tree masks.
    A single path longer than `capacity` gets a bin of its own, longer than asked.
    """
    bins: list[list[int]] = []
    inside: set[int] = set()
    for leaf in trie.leaves():
        path = trie.path(leaf)
        missing = [node for node in path if node not in inside]
        if not bins or len(bins[-1]) + len(missing) > capacity:
            bins.append([])
            inside, missing = set(), path
        bins[-1].extend(missing)
        inside.update(missing)
    return bins


def best_capacity(trie: Trie, most: int, equal: float) -> int:
    """The capacity, at most `most`, with which `pack` makes the cheapest bins.

    Small bins repeat prefixes, large ones look at many nodes that are no ancestors.  `equal`: how many nodes a token
    looks at for as much as all else that is done for it; a bin of n nodes then costs n (equal + n).
    """
    paths = [trie.path(leaf) for leaf in trie.leaves()]
    # Leaves come depth first, so what a path has in common with those before it, it has with the last of them.
    shared = [_common(a, b) for a, b in zip([[], *paths], paths, strict=False)]
    depths = [len(path) for path in paths]

    def cost(capacity: int) -> float:
        total, size = 0.0, 0
        for depth, common in zip(depths, shared, strict=True):
            if size and size + depth - common <= capacity:
                size += depth - common
            else:
                total += size * (equal + size)
                size = depth
        return total + size * (equal + size)

    return min(range(most, 0, -CAPACITY_STEP), key=cost)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def ancestors(trie: Trie, nodes: Sequence[int]) -> list[list[int]]:
    """For each node of a bin, the places in the bin of its ancestors and itself, root first."""
    place = {node: k for k, node in enumerate(nodes)}
    seen: list[list[int]] = []
    for k, node in enumerate(nodes):
        parent = trie.parents[node]
        seen.append([*(seen[place[parent]] if parent != ROOT else ()), k])
    return seen

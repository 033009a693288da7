"""Sequences as a tree: of stop strings, of labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

__all__ = ["Trie"]

Item = TypeVar("Item", bound=Hashable)


class Trie(Generic[Item]):
    """Each beginning is held once, as a node. Nodes are numbered in the order in which they were made, the root is 0:
    where sequences are added in their sorted order, that is depth first."""

    __slots__ = ("depths", "ways")

    def __init__(self) -> None:
        self.ways: list[dict[Item, int]] = [{}]
        """From each node, the one that an item leads to."""
        self.depths = [0]
        """How many items lead to each node."""

    def add(self, sequence: Iterable[Item]) -> list[int]:
        """The nodes along `sequence`, the root first."""
        nodes = [0]
        for depth, item in enumerate(sequence, 1):
            ways = self.ways[nodes[-1]]
            if item not in ways:
                ways[item] = len(self.ways)
                self.ways.append({})
                self.depths.append(depth)
            nodes.append(ways[item])
        return nodes

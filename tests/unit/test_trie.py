from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference.engine.trie import Trie

words = st.lists(st.text("ab", max_size=5), max_size=8)


@given(words)
def test_each_beginning_is_one_node(strings: list[str]) -> None:
    trie = Trie[str]()
    found = {string: trie.add(string) for string in strings}
    beginnings = {string[:length] for string in strings for length in range(len(string) + 1)} | {""}
    assert len(trie.ways) == len(trie.depths) == len(beginnings)
    node_of = {string[:length]: node for string, nodes in found.items() for length, node in enumerate(nodes)}
    assert len(set(node_of.values())) == len(node_of)
    assert all(trie.depths[node] == len(beginning) for beginning, node in node_of.items())


@given(words)
def test_sorted_sequences_make_nodes_depth_first(strings: list[str]) -> None:
    trie = Trie[str]()
    for string in sorted(strings):
        trie.add(string)

    def depth_first(node: int) -> list[int]:
        return [node, *(below for after in trie.ways[node].values() for below in depth_first(after))]

    assert depth_first(0) == list(range(len(trie.ways)))

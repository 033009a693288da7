"""The normaliser of Unigram vocabularies (T5's): a table of replacements for text, found by a trie of bytes.

llama.cpp ends the process when a text leads beyond the trie or to a replacement without an end, so the whole trie is
walked before. Format: the trie's bytes (uint32), the trie, then replacements, each ended by a zero.
A unit of the trie (uint32) is, from bit 0: the byte that leads to it (8), whether a replacement ends there (1), whether
the base is shifted by 8 (1), base (21); children lie at the base XOR their byte. Source: llama.cpp's `llama-vocab.cpp`,
Darts-clone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.errors import CorruptFileError
from inference.gguf.header import Header

__all__ = ["require_sound_charsmap"]

KEY = "tokenizer.ggml.precompiled_charsmap"
MOST = 2**21
"""Units of a trie, which are walked in a second or two; that of nomic-embed-text-v2-moe has 44,288."""
DEEPEST = 512
"""Bytes of text that are replaced together; they are a character and its accents."""
AT_ONCE = 4096
"""Nodes whose children are looked for together."""
BYTES = np.arange(1, 256, dtype=np.uint32)
"""No text that is matched has a zero."""
BYTE, LEAF, WIDE, VALUE = 0x800000FF, 1 << 8, 1 << 9, 0x7FFFFFFF
"""A unit that holds a replacement's place has bit 31, and so is no byte's."""


def require_sound_charsmap(header: Header) -> None:
    """Nothing, if the file has no such table, or one in which any text finds its way.

    Raises:
        CorruptFileError: it has another.
    """
    if KEY not in header.metadata or header.metadata.type_name(KEY) not in ("array of int8", "array of uint8"):
        return  # other types llama.cpp refuses by itself
    data = np.array(header.metadata[KEY]).astype(np.uint8).tobytes()
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or 4 + size >= len(data):
        problem = f"its trie has {size:,} bytes, and the table {len(data):,}"
    else:
        trie, replacements = data[4 : 4 + size // 4 * 4], data[4 + size :]
        problem = _damage(np.frombuffer(trie, np.dtype("<u4")), replacements.rfind(b"\0"))
    if problem:
        raise CorruptFileError(
            f"{header.path} is damaged: `{KEY}` leads nowhere: {problem}. Download it again, or convert it again."
        )


def _damage(trie: NDArray[np.uint32], last_end: int) -> str:
    """What some text would find; "" if all is well. The last replacement ends at `last_end`, -1 if none does."""
    if not len(trie):
        return ""
    if len(trie) > MOST:
        return f"a trie of {len(trie):,} units, where {MOST:,} are the most"
    seen = np.zeros(len(trie), np.bool_)
    nodes = _bases(trie[:1])
    for _ in range(DEEPEST):
        if not len(nodes):
            return ""
        if int(nodes.max()) >= len(trie):
            return f"a node at {int(nodes.max()):,}, where the trie has {len(trie):,}"
        nodes = np.unique(nodes[~seen[nodes]])
        seen[nodes] = True
        found = []
        for first in range(0, len(nodes), AT_ONCE):
            places = nodes[first : first + AT_ONCE, None] ^ BYTES
            if int(places.max()) >= len(trie):
                return f"a child at {int(places.max()):,}, where the trie has {len(trie):,}"
            units = trie[places]
            is_child = units & BYTE == BYTES
            children, units = places[is_child], units[is_child]
            children = children ^ _bases(units)
            values = children[units & LEAF != 0]
            if len(values) and int(values.max()) >= len(trie):
                return f"a replacement's place at {int(values.max()):,}, where the trie has {len(trie):,}"
            if len(values) and int((trie[values] & VALUE).max()) > last_end:
                return f"a replacement at {int((trie[values] & VALUE).max()):,}, where the last ends at {last_end:,}"
            found.append(children)
        nodes = np.concatenate(found) if found else nodes[:0]
    return f"text of more than {DEEPEST} bytes to be replaced"


def _bases(units: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return ((units >> 10) << ((units & WIDE) >> 6)).astype(np.uint32, copy=False)

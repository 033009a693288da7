"""How one step is cut into passes over the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference.protocols import Row

__all__ = ["Feed", "passes_of"]


@dataclass(frozen=True, slots=True)
class Feed:
    """What a slot gets in one pass."""

    slot: int
    tokens: Sequence[int] | None
    """None: the token that it sampled last, which may be known to the device alone."""
    row: int | None
    """The row that asks what comes after, None if nobody does."""

    @property
    def length(self) -> int:
        return 1 if self.tokens is None else len(self.tokens)


def passes_of(rows: Sequence[Row], padding: float, whole: int) -> list[list[Feed]]:
    """The passes, in order. Tokens of the same pass are padded to the longest run of them, by `padding` times their own
    number at most; single tokens go together, last.

    A prompt of more than `whole` tokens is computed without its last one, which then goes with the decoding sequences:
    of the last layer nothing but keys and values is needed then, and of the output nothing at all.
    """
    longer: list[Feed] = []
    single: list[Feed] = []
    for index, row in enumerate(rows):
        asking = index if row.asks else None
        if row.feed is None or len(row.feed) == 1:
            single.append(Feed(row.slot, row.feed, asking))
        elif asking is not None and len(row.feed) > whole:
            longer.append(Feed(row.slot, row.feed[:-1], None))
            single.append(Feed(row.slot, row.feed[-1:], asking))
        else:
            longer.append(Feed(row.slot, row.feed, asking))
    return [*_bundles(longer, padding), *([single] if single else [])]


def _bundles(feeds: list[Feed], padding: float) -> list[list[Feed]]:
    """Runs of about the same length together. Those that ask are apart from those that do not."""
    bundles: list[list[Feed]] = []
    tokens = 0
    for feed in sorted(feeds, key=lambda feed: (feed.row is None, -feed.length)):
        bundle = bundles[-1] if bundles else []
        alike = bool(bundle) and (bundle[0].row is None) == (feed.row is None)
        if alike and bundle[0].length * (len(bundle) + 1) <= padding * (tokens + feed.length):
            bundle.append(feed)
            tokens += feed.length
        else:
            bundles.append([feed])
            tokens = feed.length
    return bundles

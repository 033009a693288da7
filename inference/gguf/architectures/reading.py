"""From a file's header to a `Config`: hyper-parameters read, tensors found and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference.errors import UnknownArchitectureError
from inference.gguf.architectures.config import Config, Experts, Layer, Part
from inference.gguf.architectures.entries import ARCHITECTURES
from inference.gguf.architectures.entry import Architecture
from inference.gguf.architectures.figures import real, whole
from inference.gguf.architectures.rope import Rope
from inference.gguf.architectures.rope_keys import Ropes
from inference.gguf.architectures.tensors import Sizes, TensorTable
from inference.gguf.header import Header
from inference.gguf.unsupported import unsupported

__all__ = ["config_of"]

_LONGROPE = ("rope_factors_long.weight", "rope_factors_short.weight")
_OWN_OF_WINDOWS = ("attention.key_length", "attention.value_length", "rope.dimension_count")
"""What layers with a window may have of their own in newer architectures, by the key of the other layers."""


def config_of(header: Header) -> Config:
    """What a decoder has to know of the model in that file.

    Raises:
        UnknownArchitectureError: its architecture has no entry in `ARCHITECTURES`.
        UnsupportedModelError: a hyper-parameter or a tensor's shape is one that the entry does not know, a tensor is
            missing, or one is there that nobody would use.
        CorruptFileError: a key that every model has is missing, or is of another type.
    """
    entry = ARCHITECTURES.get(header.architecture)
    if entry is None:
        found = f"the architecture {header.architecture!r}"
        raise unsupported(header.path, found, ARCHITECTURES, kind=UnknownArchitectureError)
    return _Reading(header, entry).config()


@dataclass(frozen=True, slots=True)
class _Reading:
    """One file, read by one entry."""

    header: Header
    entry: Architecture

    def config(self) -> Config:
        header, entry = self.header, self.entry
        self._refuse_other_kinds()
        experts = self._experts()
        sizes = self._sizes(experts)
        ropes = Ropes.of(header, entry, sizes["head"])
        table = TensorTable(header, entry, sizes | {"rotary": ropes.dimensions // 2})
        embedding = table.take("token_embd.weight", "embedding", "vocabulary")
        tied = entry.output == "tied" or (entry.output == "own or tied" and "output.weight" not in header.tensors)
        freqs, long, short = self._rope_factors(table, ropes)
        config = Config(
            architecture=entry.name,
            vocabulary_size=sizes["vocabulary"],
            context_length=whole(header, "context_length", least=1),
            embedding_length=sizes["embedding"],
            heads=sizes["heads"],
            kv_heads=sizes["kv_heads"],
            head_length=sizes["head"],
            feed_forward_length=sizes["feed_forward"],
            norm_epsilon=real(header, "attention.layer_norm_rms_epsilon", above=0),
            activation=entry.activation,
            attention_scale=self._attention_scale(sizes),
            attention_softcap=self._softcap("attn_logit_softcapping", entry.attention_softcap),
            embedding_scale=sizes["embedding"] ** 0.5 if entry.sqrt_embedding_scale else self._scale("embedding_scale"),
            residual_scale=self._scale("residual_scale"),
            logit_scale=1 / real(header, "logit_scale", above=0) if entry.scale_keys else 1.0,
            logit_softcap=self._softcap("final_logit_softcapping", entry.logit_softcap),
            experts=experts,
            layers=tuple(
                Layer(table.layer(index, experts is not None), rope, window)
                for index, (rope, window) in enumerate(self._positions(ropes))
            ),
            embedding=embedding,
            output_norm=table.take("output_norm.weight", "embedding"),
            output=embedding if tied else table.take("output.weight", "embedding", "vocabulary"),
            output_bias=table.take_if_there("output.bias", "vocabulary") if entry.output_bias else None,
            rope_freqs=freqs,
            rope_factors_long=long,
            rope_factors_short=short,
            original_context_length=ropes.original_context_length,
        )
        table.refuse_unused()
        return config

    def _refuse_other_kinds(self) -> None:
        """What would make another model of the same tensors."""
        if not self.header.boolean(self._key("attention.causal"), True):
            raise self._refused(
                f"`{self._key('attention.causal')}` = false: it embeds texts and does not go on with them"
            )
        for name, most in (("nextn_predict_layers", 0), ("expert_group_count", 1)):
            if (count := whole(self.header, name, 0)) > most:
                raise self._refused(f"`{self._key(name)}` = {count}, where at most {most} may be")

    def _rope_factors(self, table: TensorTable, ropes: Ropes) -> tuple[Part | None, Part | None, Part | None]:
        """The divisors of the rope's frequencies: for every context, for long ones, for short ones."""
        entry, tensors = self.entry, self.header.tensors
        by_length = entry.longrope == "always" or (entry.longrope == "where scaling says so" and ropes.has_longrope)
        if by_length and any(name in tensors for name in _LONGROPE):
            long, short = (table.take(name, "rotary") for name in _LONGROPE)
            return None, long, short
        freqs = table.take_if_there("rope_freqs.weight", "rotary") if entry.rope_freqs and not by_length else None
        return freqs, None, None

    # Sizes -------------------------------------------------------------------------------------------------------

    def _sizes(self, experts: Experts | None) -> Sizes:
        header = self.header
        whole(header, "block_count", least=1)
        embedding = whole(header, "embedding_length", least=1)
        heads = self._same_or("attention.head_count", header.head_count)
        kv_heads = self._same("attention.head_count_kv", header.head_count_kv)
        head = header.key_length
        feed_forward = self._feed_forward_length(experts)
        if not heads or not kv_heads or heads % kv_heads or heads > embedding:
            raise self._refused(
                f"`{self._key('attention.head_count')}` = {heads} for {kv_heads} KV heads and embeddings of "
                f"{embedding} elements"
            )
        if not head or header.value_length != head:
            raise self._refused(
                f"`{self._key('attention.key_length')}` = {head} and `{self._key('attention.value_length')}` = "
                f"{header.value_length}, where both must be the same and at least 1"
            )
        for name in _OWN_OF_WINDOWS:
            if (own := whole(header, f"{name}_swa", 0)) and own != whole(header, name, head):
                raise self._refused(f"`{self._key(name)}_swa` = {own}, not that of the layers without a window")
        return {
            "vocabulary": self._vocabulary_size(),
            "embedding": embedding,
            "heads": heads,
            "kv_heads": kv_heads,
            "head": head,
            "query": heads * head,
            "key": kv_heads * head,
            "feed_forward": feed_forward,
            "experts": experts.count if experts else 0,
            "shared_feed_forward": whole(header, "expert_shared_feed_forward_length", 0) or self._dense_length(),
        }

    def _vocabulary_size(self) -> int:
        """Rows of the embeddings: the tokenizer may have fewer tokens, never more."""
        embedding = self.header.tensors.get("token_embd.weight")
        size = self.header.vocabulary_size
        if embedding is None or len(embedding.shape) != 2:
            return size
        rows = embedding.shape[1]
        if rows < max(1, size):
            raise self._refused(f"embeddings for {rows:,} tokens and a vocabulary of {size:,}")
        return rows

    def _feed_forward_length(self, experts: Experts | None) -> int:
        """Of the dense network, or of one expert."""
        rule = self.entry.experts
        name = rule.length if experts and rule else "feed_forward_length"
        length = self._same_or(name, None if experts and rule and rule.length_required else 0)
        if length == 0 and experts and rule and not rule.length_required:
            length = self._dense_length() // experts.used
        if length <= 0:
            raise self._refused(f"feed-forward networks of {length} elements (`{self._key(name)}`)")
        return length

    def _dense_length(self) -> int:
        return self._same_or("feed_forward_length", 0)

    def _experts(self) -> Experts | None:
        rule, least = self.entry.experts, 1 if self.entry.feed_forward is None else 0
        count = whole(self.header, "expert_count", 0, least=least)
        if count == 0:
            return None
        if rule is None:
            raise self._refused(f"`{self._key('expert_count')}` = {count}, where {self.entry.name} knows no experts")
        used = self._same_or("expert_used_count", 0)
        if not 0 < used <= count:
            raise self._refused(
                f"`{self._key('expert_count')}` = {count}, of which {used} are used "
                f"(`{self._key('expert_used_count')}`)"
            )
        return Experts(count, used, rule.weighting)

    # Scales ------------------------------------------------------------------------------------------------------

    def _attention_scale(self, sizes: Sizes) -> float:
        if self.entry.scale_keys and (scale := real(self.header, "attention.scale", 0.0)):
            return scale
        wide = self.entry.wide_scale_layers == self.header.layers
        return float((sizes["embedding"] // sizes["heads"] if wide else sizes["head"]) ** -0.5)

    def _scale(self, name: str) -> float:
        """A factor of the file's; 0 says that there is none."""
        return (real(self.header, name, 0.0) if self.entry.scale_keys else 0.0) or 1.0

    def _softcap(self, name: str, default: float | None) -> float | None:
        return None if default is None else real(self.header, name, default) or None

    # Positions ---------------------------------------------------------------------------------------------------

    def _positions(self, ropes: Ropes) -> Sequence[tuple[Rope | None, int | None]]:
        """For each layer its rope and its window."""
        window, pattern = self._windows()
        switched_off = self.entry.rope_switch and not self.header.boolean(self._key("rope.scaling.finetuned"), True)
        every = self.entry.no_rope_every
        return [
            (
                None if switched_off or (every and (index + 1) % every == 0) else ropes.of_layer(windowed),
                window if windowed else None,
            )
            for index, windowed in enumerate(pattern)
        ]

    def _windows(self) -> tuple[int, Sequence[bool]]:
        """The window, and for each layer whether it has it."""
        header, rule, layers = self.header, self.entry.windows, self.header.layers
        if rule is None:
            return 0, [False] * layers
        default = 0 if rule.optional else rule.length
        window = whole(header, "attention.sliding_window", default, least=0 if rule.optional else 1)
        if window == 0:
            return 0, [False] * layers
        key = self._key("attention.sliding_window_pattern")
        stored = header.metadata.get(key)
        if isinstance(stored, Sequence) and not isinstance(stored, str):
            if len(stored) != layers or not isinstance(stored[0], int):
                found = f"`{key}` as an {header.metadata.type_name(key)} of length {len(stored)}"
                raise self._refused(f"{found}, where a truth value for each of {layers} layers must be")
            return window, [bool(windowed) for windowed in stored[:layers]]
        period = whole(header, "attention.sliding_window_pattern", rule.period)
        return window, [period == 0 or index % period < period - 1 for index in range(layers)]

    # Keys --------------------------------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        return self.header.architecture_key(name)

    def _same_or(self, name: str, default: int | None) -> int:
        """A figure that may be given once or for each layer, and must be the same in all."""
        key = self._key(name)
        if key in self.header.metadata and self.header.metadata.length(key) is not None:
            return self._same(name, self.header.integers(key))
        return whole(self.header, name, default)

    def _same(self, name: str, values: Sequence[int]) -> int:
        if len(values) != self.header.layers:
            raise self._refused(
                f"`{self._key(name)}` as an array of length {len(values)} for {self.header.layers} layers"
            )
        distinct = list(dict.fromkeys(values))
        if len(distinct) != 1:
            shown = ", ".join(map(str, distinct[:8])) + (" and more" if len(distinct) > 8 else "")
            raise self._refused(f"values of `{self._key(name)}` that differ from layer to layer: {shown}")
        return values[0]

    def _refused(self, found: str) -> Exception:
        return unsupported(self.header.path, found)

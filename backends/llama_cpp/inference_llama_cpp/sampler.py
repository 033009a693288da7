"""One C sampler chain for one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference.options import GenerateOptions
from inference_llama_cpp.library import bindings

__all__ = ["SamplerChain"]


class SamplerChain:
    """bias, penalties, top-k, top-p, min-p, temperature, draw: in this order, each only where its option is on.

    `handle` is the chain, to be used with `llama_sampler_sample`. `plain` is true where the chain does nothing but take
    the likeliest token, so that whoever has the logits may as well do that itself.
    """

    def __init__(
        self, options: GenerateOptions, seed: int, vocabulary_size: int, prompt: Sequence[int], context_length: int
    ) -> None:
        parameters = bindings.llama_sampler_chain_default_params()
        parameters.no_perf = True
        self.handle: Any = bindings.llama_sampler_chain_init(parameters)
        self.plain = options.temperature == 0.0 and not options.penalizes and not options.logit_bias
        for sampler in self._samplers(options, seed, vocabulary_size, context_length):
            bindings.llama_sampler_chain_add(self.handle, sampler)
        if options.penalizes:
            for token in prompt[-options.repeat_window :]:
                bindings.llama_sampler_accept(self.handle, token)

    def free(self) -> None:
        """Give the chain back. The second call does nothing."""
        if self.handle is not None:
            bindings.llama_sampler_free(self.handle)
            self.handle = None

    @staticmethod
    def _samplers(options: GenerateOptions, seed: int, vocabulary_size: int, context_length: int) -> list[Any]:
        chain: list[Any] = []
        if options.logit_bias:
            biases = [bindings.llama_logit_bias(token, bias) for token, bias in options.logit_bias.items()]
            array = (bindings.llama_logit_bias * len(biases))(*biases)
            chain.append(bindings.llama_sampler_init_logit_bias(vocabulary_size, len(biases), array))
        if options.penalizes:
            chain.append(
                bindings.llama_sampler_init_penalties(
                    vocabulary_size,
                    min(options.repeat_window, context_length),  # llama.cpp allocates the whole window
                    options.repeat_penalty or 1.0,  # llama.cpp's "off" is 1
                    options.frequency_penalty,
                    options.presence_penalty,
                )
            )
        if options.temperature == 0.0:
            return [*chain, bindings.llama_sampler_init_greedy()]
        if options.top_k > 0:
            chain.append(bindings.llama_sampler_init_top_k(options.top_k))
        if 0.0 < options.top_p < 1.0:
            chain.append(bindings.llama_sampler_init_top_p(options.top_p, 1))
        if options.min_p > 0.0:
            chain.append(bindings.llama_sampler_init_min_p(options.min_p, 1))
        chain.append(bindings.llama_sampler_init_temp(options.temperature))
        return [*chain, bindings.llama_sampler_init_dist(seed)]

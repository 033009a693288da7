"""What is tried with a file, in a worker's process: by `load_model` as a user would, and by the bindings alone."""

from __future__ import annotations

import ctypes
import os
from typing import Any

os.environ["GGML_NO_BACKTRACE"] = "1"

from inference import InferenceError, Message, load_model

__all__ = ["by_llama_cpp", "by_load_model"]

CPU_DEVICES = {"metal": "cpu", "rocm": "interpreter"}
"""Of backends that are for GPUs."""
PROMPT = "Hello the world, ½ 🙂"


def by_load_model(wanted: tuple[str, str]) -> str:
    """Load the file on a backend and use the model: "loaded", an error of ours by name, or "stray" and another one."""
    path, backend = wanted
    options: dict[str, Any] = {"backend": backend, "context_length": 128}
    if backend in CPU_DEVICES:
        options["device"] = CPU_DEVICES[backend]
    else:
        options["threads"] = 1  # tests beside it compute too
    try:
        with load_model(path, **options) as model:
            model.generate(PROMPT, max_tokens=3, ignore_eos=True).text()
            next(model.classify([PROMPT], labels=["a", "the"]))
            tokenizer = model.tokenizer
            for token in range(tokenizer.vocabulary_size):
                tokenizer.token_bytes(token)
            try:
                model.chat([Message("user", PROMPT)], max_tokens=2).text()
            except InferenceError:
                return "loaded, but no chat"
        return "loaded"
    except InferenceError as error:
        return type(error).__name__
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"stray {type(error).__name__}: {error}"


def by_llama_cpp(path: str) -> str:
    """The same by llama-cpp-python's bindings, as a careful program calls them."""
    from llama_cpp import llama_cpp

    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        return "refused"
    try:
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx = 128
        context = llama_cpp.llama_init_from_model(model, wanted)
        if not context:
            return "no context"
        vocabulary = llama_cpp.llama_model_get_vocab(model)
        tokens, data = (llama_cpp.llama_token * 64)(), PROMPT.encode()
        count = llama_cpp.llama_tokenize(vocabulary, data, len(data), tokens, 64, True, False)
        pointer = ctypes.cast(tokens, ctypes.POINTER(llama_cpp.llama_token))
        if count > 0:
            llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(pointer, count))
        llama_cpp.llama_free(context)
        return "loaded"
    finally:
        llama_cpp.llama_model_free(model)

"""llama.cpp as a backend, through llama-cpp-python's low-level bindings. Importing this imports neither."""

from inference_llama_cpp.backend import LlamaCppBackend

__all__ = ["LlamaCppBackend"]

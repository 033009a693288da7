"""Text to ids and back, from a GGUF file's metadata. Needs the package `tokenizers`."""

from inference.gguf.tokenizer.tokenizer import GGUFTokenizer, tokenizer_of

__all__ = ["GGUFTokenizer", "tokenizer_of"]

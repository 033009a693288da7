"""GGUF files: what they hold, read with the standard library alone."""

"""MLX on Apple Silicon, and on MLX's CPU device: the backend `metal`. Importing this does not import mlx."""

from inference_mlx.backend import MetalBackend

__all__ = ["MetalBackend"]

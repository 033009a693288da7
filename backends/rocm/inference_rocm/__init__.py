"""PyTorch backends: `torch` on CPUs, and `rocm` on AMD GPUs. Importing this does not import torch."""

from inference_rocm.backend import RocmBackend, TorchBackend

__all__ = ["RocmBackend", "TorchBackend"]

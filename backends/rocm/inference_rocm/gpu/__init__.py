"""The decoder's work on GPUs, in Triton."""

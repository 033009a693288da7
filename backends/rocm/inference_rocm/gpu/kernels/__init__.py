"""The kernels, in Triton's language: what runs on the device, and nothing else."""

"""The decoder's kernels on the CPU, in C."""

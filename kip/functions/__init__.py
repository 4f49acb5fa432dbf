"""Kernels as functions of arrays: eager in blocks, inside a JAX program, and in the form of neural-tangents."""

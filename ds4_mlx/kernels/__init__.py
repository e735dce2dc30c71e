"""Fused GPU operations, one per file: kernel text, its definition in plain mx ops, one wrapper.

None yet: `ds4_mlx.model` computes everything in plain ops, which will define what kernels must reproduce.
"""

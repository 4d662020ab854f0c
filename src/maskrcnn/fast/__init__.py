"""Faster inference: folded norms, faster CPU layers, CUDA graphs, precision, memory."""

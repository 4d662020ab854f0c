"""Readers of annotation formats; each returns a `PackedDataset`."""

"""Writes a network for another runtime, and checks that it detects what the original detects."""

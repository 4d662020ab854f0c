"""Exported networks: what their files say, and the runtimes that execute them."""

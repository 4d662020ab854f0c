"""Predicting: load a network, look at pictures, write what was detected."""

"""Measures detection and training on this machine, and detection beside torchvision where it is installed."""

"""How fast is it on this machine? Beside torchvision, where that is installed."""

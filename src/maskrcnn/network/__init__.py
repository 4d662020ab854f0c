"""The network: backbones, the RPN, the branches, and what they learn from ground truth."""

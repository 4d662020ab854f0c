"""Training: settings, schedule, checkpoints and the loop."""

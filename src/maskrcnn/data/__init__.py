"""Pictures and their ground truth, from files to batches."""

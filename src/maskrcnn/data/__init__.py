"""Pictures and their truth, on their way from files to batches."""

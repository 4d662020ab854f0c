"""What was detected in a picture, and drawing it."""

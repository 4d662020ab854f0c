"""A trained network as one file for other runtimes, checked against the network it came from."""

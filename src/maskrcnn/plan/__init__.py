"""Plans a training: what the data are, what the machine can do, and the settings that suit both."""

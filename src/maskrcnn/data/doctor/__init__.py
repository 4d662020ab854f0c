"""The doctor of data sets: looks at everything, never stops at the first fault."""

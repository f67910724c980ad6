"""Search spaces: a base Experiment and a define-by-run function over it, one file a method."""

"""The promoted artefact: its bundle, its card, the registry that hands it out, and whether it is the same elsewhere.
Knows nothing of cohorts to generate for, or of how it came to be promoted."""

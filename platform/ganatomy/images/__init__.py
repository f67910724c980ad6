"""From a file to what a network sees, and back to the file's grid; what a file claims is bounded before it is read.
Knows one image at a time: no cohort, no split, no store."""

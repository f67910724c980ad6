"""What the report of a sweep, or of several, is made of: the answer, its exhibits, in which order, and its record."""

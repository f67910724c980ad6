"""The report of a sweep, or of several: one account, written as a page, as Markdown, as LaTeX and for a terminal."""

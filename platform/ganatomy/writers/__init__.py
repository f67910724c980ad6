"""A report as a page, as Markdown and as LaTeX: writers know these, and nothing of sweeps."""

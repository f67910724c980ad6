"""A laboratory's own methods."""

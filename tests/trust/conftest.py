"""What tests of trust share."""

from trust.marked import generator, source, unmasked

__all__ = ["generator", "source", "unmasked"]

"""ganatomy: does synthetic data help my task on real, held-out patients; which method's, how much, at what cost?"""

__version__ = "0.1.0"

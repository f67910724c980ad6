"""Cohorts prepared once, as memory-mapped Arrow files, and batches drawn from them; the only rooms that import pyarrow
(but for the length of a Parquet table). They know nothing of networks, losses or stages."""

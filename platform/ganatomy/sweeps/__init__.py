"""Trials of a search space under Ray Tune and Optuna: what is tried, how one trial runs, and how a sweep that was
killed goes on. Knows nothing of what becomes of the best."""

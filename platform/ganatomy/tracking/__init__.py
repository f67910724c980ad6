"""MLflow: what is recorded, sent, kept while a server is away, and found again; the only rooms that import it, besides
the generator that MLflow serves. They know nothing of what they record: no cohort, no store, no training."""

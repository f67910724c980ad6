"""What a report shows of a sweep, exhibit by exhibit: each computes its own, and says nothing where it has nothing."""

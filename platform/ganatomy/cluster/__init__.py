"""The nodes of a cluster: joined, asked before a sweep whether they are alike, counted while it runs. Knows no
trial."""

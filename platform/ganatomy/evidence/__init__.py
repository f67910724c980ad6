"""What the trials of a sweep came to: results, the ablation table, a paper's figures beside it, the report with its
pictures. Reads what is recorded, and starts nothing: no training, no Ray."""

"""Definitions: Dice, HD95, S-score, healthiness, identity, AUC, intervals and tests. They are given arrays and scores,
and know no files, no networks and no MLflow."""

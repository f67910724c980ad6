"""What ``import ganatomy`` offers: the commands as functions and objects, with the same words and the same errors."""

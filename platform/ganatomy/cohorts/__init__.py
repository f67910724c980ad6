"""Real images in: subjects with their images, labels, domains and splits by patient, under pseudonyms. Knows nothing of
how images are stored for training, or of what is trained on them."""

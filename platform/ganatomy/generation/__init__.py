"""Images from a generator, with labels, maps, boxes and provenance; and an audit of all that they, or a generator,
carry. Knows nothing of sweeps, nor of why the generator was chosen."""

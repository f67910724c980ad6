"""What several methods share: losses, networks, segmentors, buffers."""

"""Attributions of segments, frequencies, wavelets, principal components and letters, from those of the inputs."""

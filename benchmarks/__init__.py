"""Measurements of speed, memory and endurance. Not part of the package; run from the repository's root."""

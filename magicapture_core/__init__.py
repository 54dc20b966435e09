"""MagiCapture: portraits of a person in a style, from a few photos of each."""

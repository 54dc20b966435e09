"""Evaluation: metrics, the methods to compare with, a benchmark, and the table of results (command `evaluate`).

Nothing heavy is loaded by importing this package; its modules are imported where they are used.
"""

"""Evidence: metrics, the methods to compare with, a benchmark, and the table they make. `evaluate` on the command line.

Nothing heavy is loaded by importing this package; its modules are imported where they are used.
"""

"""Results of finished cells, and their files."""

from magicapture_core.evaluation.table.results import COLUMNS, PAIRED, Column, Results, cell_values, collect
from magicapture_core.evaluation.table.written import (
    check_parquet,
    markdown,
    number,
    shown,
    write_csv,
    write_parquet,
)

__all__ = [
    "COLUMNS", "PAIRED", "Column", "Results", "cell_values", "check_parquet", "collect", "markdown", "number", "shown",
    "write_csv", "write_parquet",
]  # fmt: skip

"""Write the tables of a job's fields into job-file.md, from the schema: ``python docs/fill_tables.py``."""

from __future__ import annotations

from pathlib import Path

from pipeline.bench.pages import write_between
from pipeline.jobfile.reference import GROUPS, table

PAGE = Path(__file__).parent / "job-file.md"


def main() -> None:
    """Fill the page in place."""
    for group in ("", *GROUPS):
        write_between(PAGE, (f"<!-- fields of {group or 'the job'} -->", "<!-- end -->"), "\n".join(table(group)))


if __name__ == "__main__":
    main()

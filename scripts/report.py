"""Table and page over a sweep, or over runs, at any time: python scripts/report.py DIR..."""

import argparse
from pathlib import Path

from quartet.core.problems import abort
from quartet.records.sweep import SweepTableError
from quartet.reports.page import report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="+", type=Path, help="a sweep, or runs")
    parser.add_argument(
        "--into", type=Path, help="folder of results.csv and report.html; by default DIR, or what "
        "several have in common"
    )  # fmt: skip
    options = parser.parse_args()
    try:
        report(options.directory, options.into)
    except (FileNotFoundError, FileExistsError, SweepTableError) as error:
        abort(str(error))


if __name__ == "__main__":
    main()

"""Draws evaluations as one HTML file that opens from disk and loads nothing from the network.

    python -m nbdiff_engine eval --model nano --block-size 8,16,32 --threshold 0.5,0.7,0.9 --output run.json
    python benchmarks/report.py run.json -o report.html

Several files can be drawn on one page. It shows accuracy against tokens per forward and against speed, accuracy by
domain, AUP and the paired comparisons. The last line is JSON.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report_page import report_html
from benchmarks.run_files import read_runs
from nbdiff_engine.errors import NBDiffError


def write_report(files: list[Path], output: Path) -> dict[str, object]:
    """Write the page. Returns its path, size and numbers of runs and settings. Raises NBDiffError, one sentence."""
    if output.is_dir() or not output.absolute().parent.is_dir():
        reason = "that is a folder" if output.is_dir() else f"the folder {output.parent} does not exist"
        raise NBDiffError(f"The report cannot be written to {output}: {reason}.")
    if any(output.absolute() == path.absolute() for path in files):
        raise NBDiffError(f"{output} is an input file, and the report would overwrite it; choose another -o.")
    runs = read_runs(files)
    page = report_html(runs)
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise NBDiffError(f"The report cannot be written to {output}: {error.strerror}.") from error
    return {
        "report": str(output),
        "runs": len(runs.by_name),
        "settings": len(runs.rows),
        "bytes": len(page.encode()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="files that `eval --output` wrote")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="the page to write")
    options = parser.parse_args()
    try:
        done = write_report(options.files, options.output)
    except NBDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(done))


if __name__ == "__main__":
    main()

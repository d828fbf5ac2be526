"""Fetch a manifest and print the outcome of each file as a pandas DataFrame.

    python examples/01_fetch_list.py MANIFEST FOLDER

MANIFEST is a file (.csv, .tsv, .jsonl, …), a URL, or another SOURCE of the command line. If the program is
interrupted, run it again with the same arguments: it continues with the bytes that are held.
"""

from __future__ import annotations

import sys

from osp_fetch import FetchError, fetch


def main(manifest: str, folder: str) -> int:
    """Fetch, print two tables, and return the exit code."""
    try:
        report = fetch(manifest, folder)
    except FetchError as error:  # the run as a whole cannot go on: a bad manifest, a full disk
        print(error, file=sys.stderr)
        return 2
    frame = report.frame()  # one row for each file, at most 20,000
    print(frame[["path", "status", "size", "digest"]].to_string(index=False))
    print()
    print(frame.groupby("status")["size"].agg(["count", "sum"]))
    for outcome in report.failures:
        print(f"{outcome.path}: {outcome.error}", file=sys.stderr)
    return 0 if report.ok else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))

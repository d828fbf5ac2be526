"""Fetch a manifest with a list of checksums and a mirror, and fail loudly if a file is missing.

    python examples/05_mirror_with_checksums.py MANIFEST CHECKSUMS MIRROR FOLDER

CHECKSUMS is a list as `sha256sum` writes it. MIRROR is a second manifest, or another SOURCE, of the same
paths. With a digest, parts of a file come from both, and a mirror whose bytes are wrong is dropped.
"""

from __future__ import annotations

import sys

from osp_fetch import Event, FetchError, MirrorDropped, fetch

SETTINGS: dict[str, dict[str, object]] = {
    "limits": {"per_host": 8, "rate": "200MiB"},  # 8 connections to one host, 200 MiB/s in total
    "retry": {"attempts": 4},
    "storage": {"min_free": "100MiB"},
}


def observe(event: Event) -> None:
    """Report the mirrors that serve other bytes."""
    if isinstance(event, MirrorDropped):
        print(f"{event.path}: {event.host} serves other bytes and is dropped", file=sys.stderr)


def main(manifest: str, checksums: str, mirror: str, folder: str) -> int:
    """Fetch, and return the exit code."""
    try:
        report = fetch(
            manifest, folder, checksums=checksums, mirror=mirror, settings=SETTINGS, observer=observe
        )
        for note in report.notes:  # for example, how many rows the list and the mirror cover
            print(note)
        report.raise_for_failures()
    except FetchError as error:
        print(f"not complete: {error}", file=sys.stderr)
        return 1
    print(f"{sum(report.counts.values())} files are present and verified")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))

"""Sentences for the report about files that were renamed, decompressed, or taken as they were."""

from __future__ import annotations

from .board import Board


def notes_of(board: Board) -> list[str]:
    """Return the notes on files that were set aside, decompressed, or adopted by samples."""
    return [*_kept_notes(board), *_decoded_notes(board), *_sampled_notes(board)]


def _kept_notes(board: Board) -> list[str]:
    """Return a note on files of the user that were renamed because a fetched file has their name."""
    if not board.set_aside.count:
        return []
    shown = ", ".join(f"{each.path} is now {each.kept}" for each in board.set_aside.first[:3])
    more = ", …" if board.set_aside.count > 3 else ""
    if board.set_aside.count == 1:
        return [
            "1 existing file, changed since or not in the ledger, had the name of a fetched file and was "
            f"renamed: {shown} (--overwrite replaces it instead)"
        ]
    return [
        f"{board.set_aside.count} existing files, changed since or not in the ledger, had the names of "
        f"fetched files and were renamed: {shown}{more} (--overwrite replaces them instead)"
    ]


def _decoded_notes(board: Board) -> list[str]:
    """Return a note on files that servers sent compressed although they were asked not to."""
    first, count = board.decoded.first, board.decoded.count
    if not count:
        return []
    files, are = ("1 file was", "is") if count == 1 else (f"{count} files were", "are")
    return [
        f"{files} sent compressed by {first[0].host} although the request forbade it, and {are} saved "
        f"decompressed: {_listed([each.path for each in first], count)}"
    ]


def _sampled_notes(board: Board) -> list[str]:
    """Return a note on files that are taken for right although most of their bytes were not compared."""
    first, count = board.sampled.first, board.sampled.count
    if not count:
        return []
    files = "1 file that was" if count == 1 else f"{count} files that were"
    return [
        f"{files} here already: only samples were compared with the server, because the list states no "
        f"digest (--checksums proves the rest): {_listed(first, count)}"
    ]


def _listed(paths: list[str], count: int) -> str:
    return ", ".join(paths[:3]) + (", …" if count > 3 else "")

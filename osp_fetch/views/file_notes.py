"""Sentences for the report about files that were renamed or decompressed."""

from __future__ import annotations

from .board import Board


def notes_of(board: Board) -> list[str]:
    """Return the notes on files that were set aside or decompressed."""
    return [*_kept_notes(board), *_decoded_notes(board)]


def _kept_notes(board: Board) -> list[str]:
    """Return a note on files of the user that were renamed because a fetched file has their name."""
    if not board.set_aside_count:
        return []
    shown = ", ".join(f"{each.path} is now {each.kept}" for each in board.set_aside[:3])
    more = ", …" if board.set_aside_count > 3 else ""
    if board.set_aside_count == 1:
        return [
            "1 existing file, changed since or not in the ledger, had the name of a fetched file and was "
            f"renamed: {shown} (--overwrite replaces it instead)"
        ]
    return [
        f"{board.set_aside_count} existing files, changed since or not in the ledger, had the names of "
        f"fetched files and were renamed: {shown}{more} (--overwrite replaces them instead)"
    ]


def _decoded_notes(board: Board) -> list[str]:
    """Return a note on files that servers sent compressed although they were asked not to."""
    if not board.decoded_count:
        return []
    shown = ", ".join(each.path for each in board.decoded[:3]) + (", …" if board.decoded_count > 3 else "")
    files, are = (
        ("1 file was", "is") if board.decoded_count == 1 else (f"{board.decoded_count} files were", "are")
    )
    return [
        f"{files} sent compressed by {board.decoded[0].host} although the request forbade it, and {are} "
        f"saved decompressed: {shown}"
    ]

"""Lays out a folder for training: caption files under the expected names, and the lists of FOLDER,JSON lines.

It uses hard links and renames, never copies, and removes nothing. A list or caption file that the user has
edited is not changed: `.osp-fetch/layout.json` records what earlier runs wrote.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any, Final

from ..model.dataclasses import dataclass
from ..model.entry import STATE_FOLDER
from ..model.report import JSON_VERSION
from ..storage.folder import ownership
from ..storage.folder.disk import Disk, read_json, replace_text, storage_error
from ..storage.folder.ownership import Decision
from .catalogue import CAPTION_FOLDER, DATASETS, Captions, Dataset
from .coverage import prefix_of

LISTS: Final = ("image_data.txt", "video_data.txt", "video_data_513.txt")


@dataclass(slots=True)
class Laid:
    """The result of `lay_out`.

    Attributes:
        lists: name of a list → its lines.
        links: hard links that give a caption file its other name.
        missing: messages about what is missing for complete lists.
        kept: messages about files that were left unchanged because they are the user's.
    """

    lists: dict[str, list[str]] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Return the result as plain values, for `--json`."""
        return {
            "version": JSON_VERSION,
            "lists": self.lists,
            "links": self.links,
            "lacking": self.missing,
            "kept": self.kept,
        }


def lay_out(root: Path, *, relative: bool = False) -> Laid:
    """Create the lists and caption names that training expects in `root`.

    Run it again after more files were fetched.

    Args:
        root: the output folder.
        relative: whether the lists contain paths relative to `root` instead of absolute ones.

    Raises:
        StorageError: a file cannot be written.
    """
    try:
        return _lay_out(root, relative=relative)
    except OSError as error:
        raise storage_error(error, f"{root} cannot be laid out") from None


def _lay_out(root: Path, *, relative: bool) -> Laid:
    made = Laid({name: [] for name in (*LISTS, "data.txt")})
    written = _Written(root)
    base = Path() if relative else root.resolve()
    for dataset in DATASETS:
        media = root / "datasets" / dataset.media
        if not _holds_files(media):
            made.missing.append(
                f"{dataset.name}: datasets/{dataset.media} is missing or empty; fetch and unpack the dataset"
            )
            continue
        for captions, name in _captions(root, dataset, made, written):
            folder, file = base / "datasets" / dataset.media, base / CAPTION_FOLDER / name
            folder /= prefix_of(root / CAPTION_FOLDER / name, media)  # training joins FOLDER and path
            made.lists[captions.list].append(f"{folder.as_posix()},{file.as_posix()}")
    # the format of later versions: one list for images and clips of 65 frames
    made.lists["data.txt"] = made.lists["image_data.txt"] + made.lists["video_data.txt"]
    for name, lines in made.lists.items():
        if lines and not written.put(name, "".join(line + "\n" for line in lines)):
            made.kept.append(
                f"{name} was edited and is left unchanged; remove it and run layout again to regenerate it"
            )
    if any(made.lists.values()):  # a folder without a dataset stays as it is
        written.save()
    Disk().sync_folder(root)
    return made


def _captions(root: Path, dataset: Dataset, made: Laid, written: _Written) -> Iterator[tuple[Captions, str]]:
    """Yield the caption files of `dataset` that exist, with the names that the lists use."""
    for captions in dataset.captions:
        place = root / CAPTION_FOLDER / captions.file
        if not place.is_file():
            made.missing.append(
                f"{dataset.name}: {CAPTION_FOLDER}/{captions.file} is missing; fetch the dataset captions"
            )
            continue
        if captions.alias:
            alias = f"{CAPTION_FOLDER}/{captions.alias}"
            if written.link(place, alias):
                made.links.append(alias)
            else:
                made.kept.append(f"{alias} differs from {captions.file} and is left unchanged")
        yield captions, captions.alias or captions.file


class _Written:
    """Record of what earlier runs wrote: name → SHA-256 of a list, or size and mtime of an alias."""

    def __init__(self, root: Path) -> None:
        self._root, self._disk = root, Disk()
        self._place = root / STATE_FOLDER / "layout.json"
        # not in the output folder, where any name may belong to a file of the user
        self._beside = self._place.with_name("layout.new")
        self._known = read_json(self._place) or {}

    def put(self, name: str, text: str) -> bool:
        """Write the list `name`; return False if the existing one was not written by this tool.

        Raises:
            OSError: the list cannot be written, or a folder has its name.
        """
        place = self._root / name
        there = _sha256(place)
        wanted = hashlib.sha256(text.encode()).hexdigest()
        decision = ownership.over_generated(
            self._disk.existing(place), same=there == wanted, own=there == self._known.get(name)
        )
        if decision in (Decision.WRITE, Decision.REPLACE):
            self._disk.make_folder(self._place.parent, durable=False)
            replace_text(place, text, beside=self._beside)
        elif place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
        self._known[name] = wanted if decision is not Decision.REFUSE else self._known.get(name)
        return decision is not Decision.REFUSE

    def link(self, place: Path, name: str) -> bool:
        """Link the file at `place` to `name`; return False if another file has that name.

        Raises:
            OSError: the link cannot be created.
        """
        other = self._root / name
        existing = self._disk.existing(other)
        then = self._known.get(name)
        decision = ownership.over_generated(
            existing,
            same=existing is not None and existing.kind == "file" and other.samefile(place),
            own=existing is not None and [existing.size, existing.mtime_ns] == then,
        )
        if decision is Decision.WRITE:
            os.link(place, other)
        elif decision is Decision.REPLACE:
            self._disk.make_folder(self._place.parent, durable=False)
            self._disk.unlink(self._beside)
            os.link(place, self._beside)
            self._beside.replace(other)
        if decision is not Decision.REFUSE:
            seen = other.stat()
            self._known[name] = [seen.st_size, seen.st_mtime_ns]
        return decision is not Decision.REFUSE

    def save(self) -> None:
        """Write the record to `.osp-fetch/layout.json`.

        Raises:
            OSError: the file cannot be written.
        """
        self._place.parent.mkdir(mode=0o700, exist_ok=True)
        replace_text(self._place, json.dumps(self._known, indent=2) + "\n")


def _sha256(place: Path) -> str | None:
    try:
        return hashlib.sha256(place.read_bytes()).hexdigest()
    except OSError:
        return None


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(True for _ in folder.iterdir())

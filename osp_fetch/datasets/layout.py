"""The folder as training reads it: captions under their names, and the lists of FOLDER,JSON lines.

By hard links and renames, never by copies. Nothing is taken away, and a list or a caption file that somebody
has edited stays as it is: what earlier runs wrote is noted in `.osp-fetch/layout.json`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..model.entry import STATE_FOLDER
from ..storage.folder import ownership
from ..storage.folder.disk import Disk, replace_text, storage_error
from ..storage.folder.ownership import Decision
from .catalogue import DATASETS, Captions, Dataset

CAPTION_FOLDER: Final = "anno_jsons"
LISTS: Final = ("image_data.txt", "video_data.txt", "video_data_513.txt")


@dataclass(slots=True)
class Laid:
    """What was made: list → its lines. `lacking`: what would make them complete; `kept`: what was left as its
    owner has it; both in words."""

    lists: dict[str, list[str]] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """In plain values, for `--json`."""
        return {"lists": self.lists, "links": self.links, "lacking": self.lacking, "kept": self.kept}


def lay_out(root: Path, *, relative: bool = False) -> Laid:
    """Make `root` a folder that training reads; run again after more was fetched. Raises StorageError.

    `relative`: the lists name paths below `root` instead of absolute ones.
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
            made.lacking.append(f"{dataset.name}: nothing is in datasets/{dataset.media}; get and unpack it")
            continue
        for captions, name in _captions(root, dataset, made, written):
            folder, file = base / "datasets" / dataset.media, base / CAPTION_FOLDER / name
            made.lists[captions.list].append(f"{folder.as_posix()},{file.as_posix()}")
    # the later form: one list for images and clips of 65 frames
    made.lists["data.txt"] = made.lists["image_data.txt"] + made.lists["video_data.txt"]
    for name, lines in made.lists.items():
        if lines and not written.put(name, "".join(line + "\n" for line in lines)):
            made.kept.append(
                f"{name} was edited and is left as it is; remove it and run layout again to renew it"
            )
    written.save()
    Disk().sync_folder(root)
    return made


def _captions(root: Path, dataset: Dataset, made: Laid, written: _Written) -> Iterator[tuple[Captions, str]]:
    """The caption files of `dataset` that are here, by the names that the lists use."""
    for captions in dataset.captions:
        place = root / CAPTION_FOLDER / captions.file
        if not place.is_file():
            made.lacking.append(f"{dataset.name}: {CAPTION_FOLDER}/{captions.file} is not here; get captions")
            continue
        if captions.alias:
            alias = f"{CAPTION_FOLDER}/{captions.alias}"
            if written.link(place, alias):
                made.links.append(alias)
            else:
                made.kept.append(f"{alias} is another file than {captions.file} and is left as it is")
        yield captions, captions.alias or captions.file


class _Written:
    """What earlier runs wrote, name → SHA-256 of a list, or size and modification time of an alias."""

    def __init__(self, root: Path) -> None:
        self._root, self._disk = root, Disk()
        self._place = root / STATE_FOLDER / "layout.json"
        # not in the user's folder, where any name may be a file of the user's
        self._beside = self._place.with_name("layout.new")
        try:
            read = json.loads(self._place.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            read = {}
        self._known: dict[str, Any] = read if isinstance(read, dict) else {}

    def put(self, name: str, text: str) -> bool:
        """Write the list `name`; False where one lies there that somebody else wrote."""
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
        """Give the file at `place` the name `name`, too; False where something else has it."""
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
        """Note what was written. Raises OSError."""
        self._place.parent.mkdir(mode=0o700, exist_ok=True)
        replace_text(self._place, json.dumps(self._known, indent=2) + "\n")


def _sha256(place: Path) -> str | None:
    try:
        return hashlib.sha256(place.read_bytes()).hexdigest()
    except OSError:
        return None


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(True for _ in folder.iterdir())

"""The folder as training reads it: captions under their names, and the lists of FOLDER,JSON lines.

By hard links and renames, never by copies. Nothing is taken away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..storage.files import Disk, replace_text, storage_error
from .catalogue import DATASETS, Captions, Dataset

CAPTION_FOLDER: Final = "anno_jsons"
LISTS: Final = ("image_data.txt", "video_data.txt", "video_data_513.txt")


@dataclass(slots=True)
class Laid:
    """What was made: list → its lines; `lacking`: what would make them complete, in words."""

    lists: dict[str, list[str]] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """In plain values, for `--json`."""
        return {"lists": self.lists, "links": self.links, "lacking": self.lacking}


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
    base = Path() if relative else root.resolve()
    for dataset in DATASETS:
        media = root / "datasets" / dataset.media
        if not _holds_files(media):
            made.lacking.append(f"{dataset.name}: nothing is in datasets/{dataset.media}; get and unpack it")
            continue
        for captions, name in _captions(root, dataset, made):
            folder, file = base / "datasets" / dataset.media, base / CAPTION_FOLDER / name
            made.lists[captions.list].append(f"{folder.as_posix()},{file.as_posix()}")
    # the later form: one list for images and clips of 65 frames
    made.lists["data.txt"] = made.lists["image_data.txt"] + made.lists["video_data.txt"]
    for name, lines in made.lists.items():
        if lines:
            replace_text(root / name, "".join(line + "\n" for line in lines))
    Disk().sync_folder(root)
    return made


def _captions(root: Path, dataset: Dataset, made: Laid) -> Iterator[tuple[Captions, str]]:
    """The caption files of `dataset` that are here, by the names that the lists use."""
    for captions in dataset.captions:
        place = root / CAPTION_FOLDER / captions.file
        if not place.is_file():
            made.lacking.append(f"{dataset.name}: {CAPTION_FOLDER}/{captions.file} is not here; get captions")
            continue
        if captions.alias:
            _link(place, place.with_name(captions.alias))
            made.links.append(f"{CAPTION_FOLDER}/{captions.alias}")
        yield captions, captions.alias or captions.file


def _link(place: Path, other: Path) -> None:
    """Give the file at `place` the name `other`, too."""
    if other.exists() and other.samefile(place):
        return
    beside = other.with_name(other.name + ".new")
    beside.unlink(missing_ok=True)
    os.link(place, beside)
    beside.replace(other)


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(True for _ in folder.iterdir())

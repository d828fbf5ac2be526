"""The datasets of Open-Sora-Plan v1.1.0: their sources, sizes, captions and folders for training.

The facts are those of docs/sources.md, "The six datasets", "SA-1B link file" and "AnyText". Figures that are
marked there as second-hand are second-hand here, too.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from ..model.dataclasses import dataclass
from ..model.errors import ManifestError, Remedy
from ..model.report import JSON_VERSION
from ..model.spelling import nearest

REPOSITORY: Final = "hf://datasets/LanguageBind/Open-Sora-Plan-v1.1.0"
_BY_LINKS: Final = "links"
ALL: Final = "all"
CAPTION_FOLDER: Final = "anno_jsons"


@dataclass(frozen=True, slots=True)
class Captions:
    """One caption file.

    Attributes:
        file: its name in the repository.
        pairs: the number of pairs that the guide states.
        frames: frames of a clip; 0 for images.
        list: the list in which training expects it.
        alias: another name that the guide uses for it, or empty.
    """

    file: str
    pairs: int
    frames: int
    list: str
    alias: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset.

    Attributes:
        name: the name that a command takes as SOURCE.
        kind: `image`, `video` or `text`.
        sources: SOURCEs, of which the first is fetched; `links` stands for the user's link file.
        hours: the total duration of its clips.
        files: the number of files to fetch; 0 if unknown.
        bytes: the approximate size of these files; 0 if unknown.
        needs: what the user has to provide.
        media: the folder below `datasets/` for its members.
        archives: globs of the archives to unpack into `datasets/<media>`.
        captions: its caption files.
        broken: archives that users report as broken at the source.
        notes: remarks for the user, shown before fetching.
    """

    name: str
    kind: str
    sources: tuple[str, ...]
    hours: float = 0.0
    files: int = 0
    bytes: int = 0
    needs: str = ""
    media: str = ""
    archives: tuple[str, ...] = ()
    captions: tuple[Captions, ...] = ()
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def pairs(self) -> int:
        """The number of pairs of a picture or clip and a caption, in all caption files."""
        return sum(each.pairs for each in self.captions)

    def row(self) -> dict[str, Any]:
        """Return the dataset as plain values, for `--json`."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "captions"}
        captions = [{n: getattr(c, n) for n in c.__slots__} for c in self.captions]
        return {"version": JSON_VERSION, **plain, "pairs": self.pairs, "captions": captions}


_GB: Final = 10**9
_TB: Final = 10**12

DATASETS: Final = (
    Dataset(
        "sam-11m",
        "image",
        (_BY_LINKS, "hf://datasets/Aber-r/SA-1B_backup"),
        files=1000,
        bytes=int(11.3 * _TB),
        needs="--links FILE, Meta's link file of SA-1B",
        media="sam",
        archives=("sa_[0-9]*.tar",),
        captions=(Captions("sam_image_11185255.json", 11_185_255, 0, "image_data.txt"),),
        broken=("sa_000014.tar", "sa_000016.tar", "sa_000017.tar", "sa_000019.tar"),
        notes=(
            "links expire about 30 days after issue; Meta publishes neither sizes nor checksums: "
            "--digests hf://datasets/Aber-r/SA-1B_backup takes them from a backup of the dataset",
        ),
    ),
    Dataset(
        "anytext-3m-en",
        "image",
        (
            "modelscope://datasets/iic/AnyWord-3M",
            "modelscope://datasets/iic/AnyText-benchmark",
            "gdrive://folders/1Eesj6HTqT1kCi6QLyL5j0mL_ELYRp3GV",
        ),
        media="anytext3m",
        archives=("laion/*", "wukong_*/*", "OCR_*/*"),
        captions=(Captions("anytext_en_1886137.json", 1_886_137, 0, "image_data.txt"),),
        notes=(
            "both links of the Open-Sora-Plan guide (the ModelScope benchmark and the Google Drive folder) "
            "lead to AnyText's evaluation benchmark; osp-fetch fetches AnyWord-3M, the training images",
        ),
    ),
    Dataset(
        "human-160k",
        "image",
        (f"{REPOSITORY}/human_image/*",),
        files=1,
        media="images",
        archives=("human_image/*",),
        captions=(Captions("human_images_162094.json", 162_094, 0, "image_data.txt"),),
    ),
    Dataset(
        "mixkit",
        "video",
        (f"{REPOSITORY}/all_mixkit/*",),
        hours=42.0,
        files=55,
        media="mixkit",
        archives=("all_mixkit/*",),
        captions=(
            Captions("video_mixkit_65f_54735.json", 54_735, 65, "video_data.txt"),
            Captions("video_mixkit_513f_1997.json", 1_997, 513, "video_data_513.txt"),
        ),
        notes=("Road.tar and Safari.tar contain only folders at the source",),
    ),
    Dataset(
        "pixabay",
        "video",
        (f"{REPOSITORY}/pixabay_v2_tar/*",),
        hours=353.3,
        files=50,
        bytes=1_250 * _GB,
        media="pixabay_v2",
        archives=("pixabay_v2_tar/*",),
        captions=(
            Captions("video_pixabay_65f_601513.json", 601_513, 65, "video_data.txt"),
            Captions("video_pixabay_513f_51483.json", 51_483, 513, "video_data_513.txt"),
        ),
    ),
    Dataset(
        "pexels",
        "video",
        (f"{REPOSITORY}/pexels/*",),
        hours=2561.9,
        files=480,
        bytes=int(6.7 * _TB),
        media="pexels",
        archives=("pexels/*",),
        captions=(
            Captions("video_pexel_65f_3832666.json", 3_832_666, 65, "video_data.txt"),
            Captions(
                "video_pexels_513f_271782.json",
                271_782,
                513,
                "video_data_513.txt",
                alias="video_pexel_513f_271782.json",
            ),
        ),
        broken=tuple(f"pexels/5000-{n}.tar" for n in (8, 39, 46, 53, 57, 64, 69, 92)),
    ),
)
CAPTIONS: Final = Dataset(
    "captions", "text", (f"{REPOSITORY}/anno_jsons/*",), files=9, bytes=int(12.5 * _GB),
    notes=("the captions of all six datasets",),
)  # fmt: skip
OFFERED: Final = (*DATASETS, CAPTIONS)


def expand_all(sources: Iterable[str | Path], links: str | Path | None = None) -> list[str | Path]:
    """Replace dataset names by their SOURCEs; `all` stands for every dataset and the captions.

    Args:
        sources: names of datasets, SOURCEs and paths.
        links: the link file for a dataset that needs one.

    Raises:
        ManifestError: a dataset needs a link file and none is given, or a name is unknown.
    """
    each: list[str | Path] = []
    for source in sources:
        if source == "":
            raise ManifestError("a SOURCE is empty; is a variable not set?")
        every = isinstance(source, str) and source.lower() == ALL and not Path(source).exists()
        each += [dataset.name for dataset in OFFERED] if every else [source]
    return [expand(source, links) if isinstance(source, str) else source for source in each]


def expand(source: str, links: str | Path | None = None) -> str | Path:
    """Return the SOURCE of a dataset, or `source` itself if it is a SOURCE.

    Args:
        source: the name of a dataset, or a SOURCE.
        links: the link file for a dataset that needs one.

    Raises:
        ManifestError: the dataset needs a link file and none is given, or the name is unknown.
    """
    dataset = named(source)
    if dataset is not None:
        if dataset.sources[0] != _BY_LINKS:
            return dataset.sources[0]
        if links is None:
            raise ManifestError(
                f"{dataset.name} needs Meta's link file: download it from the SA-1B page and pass "
                "--links FILE",
                remedy=Remedy.ABORT,
            )
        return Path(links)
    is_word = "/" not in source and "." not in source and not glob.has_magic(source)
    if source != "-" and is_word and not Path(source).exists():
        names = [*(dataset.name for dataset in OFFERED), ALL]
        near = nearest(source, names)
        raise ManifestError(
            f"{source}: neither a file nor a dataset"
            + (f"; did you mean {near}?" if near else f"; datasets are {', '.join(names)}"),
            remedy=Remedy.ABORT,
        )
    return source


def named(name: str) -> Dataset | None:
    """Return the dataset of this name, ignoring case, or None."""
    return next((dataset for dataset in OFFERED if dataset.name == name.lower()), None)


def owner(path: str) -> Dataset | None:
    """Return the dataset to which the archive `path` belongs, or None."""
    for dataset in DATASETS:
        if any(fnmatchcase(path, glob) for glob in dataset.archives):
            return dataset
    return None


def warnings(sources: Iterable[str | Path]) -> list[str]:
    """Return the notes and the archives reported broken of the datasets among `sources`, for the user."""
    said = []
    for name in sources:
        wanted = DATASETS if str(name).lower() == ALL else [d for d in [named(str(name))] if d]
        for dataset in wanted:
            said += [f"{dataset.name}: {note}" for note in dataset.notes]
            if dataset.broken:
                names = ", ".join(b.rsplit("/", 1)[-1] for b in dataset.broken)
                said.append(f"{dataset.name}: reported broken at the source: {names}")
    return said

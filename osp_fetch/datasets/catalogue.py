"""The names that a SOURCE may be, and what each stands for (FACTS section 1)."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..model.errors import ManifestError, Remedy

_HUB: Final = "hf://datasets/LanguageBind/Open-Sora-Plan-v1.1.0"
_BY_LINKS: Final = "links"


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset: `source` is a SOURCE, or `links` where the user brings a link file."""

    name: str
    kind: str
    pairs: str
    source: str
    note: str = ""


DATASETS: Final = (
    Dataset("sam-11m", "image", "11,185,255", _BY_LINKS, "SA-1B; needs --links FILE, Meta's link file"),
    Dataset("human-160k", "image", "162,094", f"{_HUB}/human_image/*"),
    Dataset("mixkit", "video", "54,735 + 1,997", f"{_HUB}/all_mixkit/*"),
    Dataset("pixabay", "video", "601,513 + 51,483", f"{_HUB}/pixabay_v2_tar/*"),
    Dataset("pexels", "video", "3,832,666 + 271,782", f"{_HUB}/pexels/*"),
    Dataset("captions", "text", "all of the above", f"{_HUB}/anno_jsons/*"),
)


def expand(source: str, links: str | Path | None = None) -> str | Path:
    """The SOURCE that a dataset's name stands for; anything else is given back as it is.

    Raises ManifestError for a dataset that needs a link file and has none.
    """
    for dataset in DATASETS:
        if source.lower() == dataset.name:
            if dataset.source != _BY_LINKS:
                return dataset.source
            if links is None:
                raise ManifestError(
                    f"{dataset.name} needs Meta's link file: download it from the page of SA-1B and pass "
                    "--links FILE",
                    remedy=Remedy.ABORT,
                )
            return Path(links)
    if "/" not in source and "." not in source and not Path(source).exists():
        names = [dataset.name for dataset in DATASETS]
        near = difflib.get_close_matches(source, names, n=1)
        raise ManifestError(
            f"{source}: neither a file nor a dataset"
            + (f"; did you mean {near[0]}?" if near else f"; datasets are {', '.join(names)}"),
            remedy=Remedy.ABORT,
        )
    return source

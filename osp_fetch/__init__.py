"""osp_fetch: moves big training datasets over HTTP, and publishes only what is right.

    report = await fetch_all("sa1b_links.tsv", "data/sam")

What is public stands here. Names are loaded when they are first used, so that `import osp_fetch` and
`osp-fetch --help` cost next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import fetch, fetch_all, fetch_iter
    from .model.digest import Digest
    from .model.entry import Entry, RelativePath, entry
    from .model.errors import FetchError
    from .model.events import Event, Observer
    from .model.report import Outcome, Report, Status
    from .model.settings import Settings
    from .options import FetchOptions, StopToken

__version__ = "0.1.0"

_HOMES = {
    "FetchOptions": "options",
    "StopToken": "options",
    "fetch": "api",
    "fetch_all": "api",
    "fetch_iter": "api",
    "Digest": "model.digest",
    "Entry": "model.entry",
    "RelativePath": "model.entry",
    "entry": "model.entry",
    "FetchError": "model.errors",
    "Event": "model.events",
    "Observer": "model.events",
    "Outcome": "model.report",
    "Report": "model.report",
    "Status": "model.report",
    "Settings": "model.settings",
}
__all__ = [
    "Digest",
    "Entry",
    "Event",
    "FetchError",
    "FetchOptions",
    "Observer",
    "Outcome",
    "RelativePath",
    "Report",
    "Settings",
    "Status",
    "StopToken",
    "__version__",
    "entry",
    "fetch",
    "fetch_all",
    "fetch_iter",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)

"""Let the library pages show the constructors of classes that `osp_fetch.model.dataclasses` makes.

mkdocs loads this file as an extension of griffe, which knows the standard library's decorator alone.
"""

from __future__ import annotations

from typing import Any

import griffe


class FrozenClasses(griffe.Extension):
    """Presents the package's decorator as `dataclasses.dataclass`."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Rename the decorators of a class that was read."""
        for decorator in cls.decorators:
            call = decorator.value
            if isinstance(call, griffe.ExprCall) and (
                call.function.canonical_path == "osp_fetch.model.dataclasses.dataclass"
            ):
                call.function = griffe.ExprName("dataclasses.dataclass")

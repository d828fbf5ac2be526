"""HTML that is safe by construction: every text is escaped unless this module has made it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from .text import printable


class Html(str):
    """Text that is markup."""

    __slots__ = ()


Child = str | None | Iterable["Child"]
"""What an element may contain: markup, text, nothing, or several of these."""

_VOID: Final = frozenset({"meta", "link", "br", "hr", "path", "line", "rect", "polygon", "polyline"})


def text(value: str) -> Html:
    """Return a text as markup. Control characters, also those that reverse the direction, become escapes."""
    if isinstance(value, Html):
        return value
    from html import escape  # only pages need it

    return Html(escape(printable(value), quote=True))


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Html:
    """Return an element.

    Args:
        name: its name.
        children: its content.
        attributes: its attributes; a trailing `_` is dropped and other ones become `-`; None leaves it out.
    """
    made = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Html(f"<{name}{made}/>")
    return Html(f"<{name}{made}>{join(children)}</{name}>")


def join(children: Child) -> Html:
    """Return several children as markup."""
    if children is None:
        return Html("")
    if isinstance(children, str):
        return text(children)
    return Html("".join(join(child) for child in children))


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], *, numbers: Iterable[int] = ()) -> Html:
    """Return a table. Columns without any content are left out.

    Args:
        head: titles of the columns.
        rows: cells of each row.
        numbers: positions of the columns with numbers, which are set to the right.
    """
    titles, filled, right = tuple(head), [tuple(row) for row in rows], set(numbers)
    used = [n for n in range(len(titles)) if any(row[n] for row in filled)]

    def cells(name: str, row: Sequence[Child], **more: str) -> list[Html]:
        return [tag(name, row[n], class_="n" if n in right else None, **more) for n in used]

    body = [tag("tr", cells("td", row)) for row in filled]
    inner = tag("table", tag("thead", tag("tr", cells("th", titles, scope="col"))), tag("tbody", body))
    return tag("div", inner, class_="wide", tabindex="0")  # wide tables are scrolled by keyboard, too

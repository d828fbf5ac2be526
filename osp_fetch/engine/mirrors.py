"""The links of one file: mirrors, and what they redirect to."""

from __future__ import annotations

from collections.abc import Sequence

from ..model import urls


class Mirrors:
    """The links of one file, and which of them the next part is asked of.

    `spread`: all of them in turn, else the first alone. Only a digest proves that mirrors hold the same
    bytes, so without one a file comes from one. `first`: the link that the bytes held came from.
    """

    def __init__(self, links: Sequence[str], *, spread: bool, first: str | None = None) -> None:
        # what is held of a file goes on from where it came, if only one source can be trusted
        self._urls = sorted(links, key=lambda url: not spread and url != first)
        self._spread = spread
        self._turn = 0
        self._mixed = False  # wrong bytes came while several mirrors brought them
        self._borrowed: dict[str, str | None] = {}  # link → its redirect's target; None when spent
        self._at_home: set[str] = set()  # links whose redirects stay within their origin

    def __len__(self) -> int:
        return len(self._urls)

    @property
    def first(self) -> str:
        return self._urls[0]

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(self._urls)

    def __contains__(self, link: str) -> bool:
        return link in self._urls

    def choose(self) -> str:
        """The link of the manifest whose turn it is; then it is the next one's."""
        chosen = self._urls[self._turn % len(self._urls) if self._spread else 0]
        self._turn += 1
        return chosen

    def url(self, link: str) -> str:
        """The address that `link` leads to, as far as is known."""
        return self.borrowed(link) or link

    def unminted(self, link: str) -> bool:
        """Whether the next request asks anew for a redirect, which one connection should do for all."""
        return link in self._borrowed and not self._borrowed[link]

    def borrowed(self, link: str) -> str | None:
        """Where `link` redirected to, while that holds."""
        return self._borrowed.get(link)

    def minted(self, link: str, url: str, *, at_home: bool) -> None:
        """`link` redirected to `url`; `at_home`: never leaving its own origin."""
        self._borrowed[link] = url
        (self._at_home.add if at_home else self._at_home.discard)(link)

    def at_home(self, link: str) -> bool:
        """Whether what is asked of `link` now stays within its origin, where headers may go."""
        target = self.borrowed(link)
        return target is None or (link in self._at_home and urls.origin(target) == urls.origin(link))

    def spent(self, link: str, url: str) -> None:
        """The redirect of `link` to `url` is refused; another may be known by now."""
        if self._borrowed.get(link) == url:
            self._borrowed[link] = None

    def forsake(self, link: str) -> bool:
        """Give up one mirror; whether there is another."""
        if len(self._urls) > 1 and link in self._urls:
            self._urls.remove(link)
            return True
        return link not in self._urls

    def distrust(self) -> str | None:
        """Wrong bytes came: from now on one mirror at a time, beginning with another. The link that is
        given up, where they came from it alone."""
        if len(self._urls) < 2:
            return None
        if not self._spread:
            return self._urls.pop(0)
        self._spread, self._mixed = False, True
        self._urls.append(self._urls.pop(0))
        return None

    @property
    def suspect(self) -> str | None:
        """The mirror whose bytes must have been wrong, now that another's alone were right."""
        return self._urls[1] if self._mixed and len(self._urls) == 2 else None

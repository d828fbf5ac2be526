"""The links of one file: its mirrors and their redirect targets."""

from __future__ import annotations

from collections.abc import Sequence

from ..model import urls


class Mirrors:
    """The mirrors of one file, and the choice of the mirror for the next part.

    Only a digest proves that mirrors hold the same bytes. A file without a digest is fetched from one mirror.

    Args:
        links: The links of the manifest entry.
        spread: Whether all mirrors are used in turn. If not, only the first is used.
        first: The link that the bytes held came from, None if nothing is held.
    """

    def __init__(self, links: Sequence[str], *, spread: bool, first: str | None = None) -> None:
        # without a digest, a resumed file must continue from the mirror that its held bytes came from
        self._urls = sorted(links, key=lambda url: not spread and url != first)
        self._spread = spread
        self._turn = 0
        self._mixed = False  # the digest was wrong while several mirrors were used
        self._borrowed: dict[str, str | None] = {}  # link → redirect target, None when spent
        self._at_home: set[str] = set()  # links whose redirects stay within their origin

    def __len__(self) -> int:
        return len(self._urls)

    @property
    def first(self) -> str:
        """The mirror that is asked first."""
        return self._urls[0]

    @property
    def all(self) -> tuple[str, ...]:
        """All mirrors that are not given up."""
        return tuple(self._urls)

    def __contains__(self, link: str) -> bool:
        return link in self._urls

    def choose(self) -> str:
        """Return the link for the next part, and advance to the next link if mirrors are used in turn."""
        chosen = self._urls[self._turn % len(self._urls) if self._spread else 0]
        self._turn += 1
        return chosen

    def url(self, link: str) -> str:
        """Return the URL to request for `link`: its known redirect target, else `link` itself."""
        return self.borrowed(link) or link

    def unminted(self, link: str) -> bool:
        """Return whether the redirect of `link` is spent. One connection should resolve it for all."""
        return link in self._borrowed and not self._borrowed[link]

    def borrowed(self, link: str) -> str | None:
        """Return the redirect target of `link`, None if there is none or it is spent."""
        return self._borrowed.get(link)

    def minted(self, link: str, url: str, *, at_home: bool, direct: bool = False) -> None:
        """Record that `link` redirected to `url`.

        Args:
            link: A link of the manifest.
            url: The target of its redirects.
            at_home: Whether every redirect stayed within the origin of `link`.
            direct: Whether the target itself was requested. Such a reply does not renew a target that another
                connection has found spent meanwhile.
        """
        if direct and self.unminted(link):
            return
        self._borrowed[link] = url
        (self._at_home.add if at_home else self._at_home.discard)(link)

    def at_home(self, link: str) -> bool:
        """Return whether a request for `link` stays within its origin, so that it may carry the headers."""
        target = self.borrowed(link)
        return target is None or (link in self._at_home and urls.origin(target) == urls.origin(link))

    def spent(self, link: str, url: str) -> None:
        """Forget that `link` redirects to `url`, because the server refused it.

        If another connection has recorded a newer target, that one is kept.
        """
        if self._borrowed.get(link) == url:
            self._borrowed[link] = None

    def forsake(self, link: str) -> bool:
        """Give up the mirror `link`; return whether another one remains."""
        if len(self._urls) > 1 and link in self._urls:
            self._urls.remove(link)
            return True
        return link not in self._urls

    def distrust(self) -> str | None:
        """React to a wrong digest: use one mirror at a time from now on, starting with another one.

        Returns:
            The link that was given up because all bytes came from it; None if several mirrors were used.
        """
        if len(self._urls) < 2:
            return None
        if not self._spread:
            return self._urls.pop(0)
        self._spread, self._mixed = False, True
        self._urls.append(self._urls.pop(0))
        return None

    @property
    def suspect(self) -> str | None:
        """The mirror that must have sent wrong bytes, given that the other one alone sent right ones."""
        return self._urls[1] if self._mixed and len(self._urls) == 2 else None

"""What proves that the bytes held and those to come are of one file: the ladder of proofs.

A digest in the manifest > an equal strong ETag > an equal Last-Modified > the same source key, an equal
length and an overlap sample that compares equal.
"""

from __future__ import annotations

from ..model.errors import ChangedError, FetchError, NetworkError
from ..model.http import Representation, Validator
from ..model.protocols import Reply


class Validators:
    """What the server has shown of `path` so far. `digest`: one in the manifest judges in the end."""

    def __init__(self, path: str, *, digest: bool) -> None:
        self._path, self._digest = path, digest
        self._validators: dict[str, Validator] = {}
        # what is held is from another time or server, and nothing has proved yet that it fits
        self.unproven = False
        self._seen: tuple[str, Validator] | None = None  # shown meanwhile, believed once it is proved
        self._doubts = 0  # replies in a row that contradict what was known
        self.asks_if_range = True

    def resume(self, link: str, validator: Validator) -> None:
        """Note that what is held came from `link`, which showed `validator` then."""
        self._validators[link] = validator

    def validator(self, link: str) -> Validator:
        """What is known to tell one state of `link` from another."""
        return self._validators.get(link, Validator())

    def proven(self, link: str) -> bool:
        """Whether something better than a sample tells that `link` still means the bytes held."""
        return self._digest or (bool(self.validator(link)) and not self.unproven)

    def if_range(self, link: str) -> str | None:
        """The tag to send with a range (RFC 9110 section 13.1.5)."""
        return self.validator(link).strong if self.asks_if_range and not self._digest else None

    def contradicted(self, why: str) -> FetchError:
        """The error for a reply that contradicts what is known: one alone may be the whim of an edge
        server, and all that is held is not given up for it."""
        self._doubts += 1
        if self._doubts > 1:
            return ChangedError(f"{self._path}: {why}")
        return NetworkError(f"{self._path}: {why}; it is asked again")

    def check(self, link: str, reply: Reply, *, sampled: bool) -> None:
        """Raise where `reply` is not of the file begun, or nothing tells that it is."""
        if self.unproven and not sampled:
            raise NetworkError(f"{self._path}: nothing proves that this is the file begun")
        known, seen = self.validator(link), reply.representation.validator
        if self._digest or not known:
            return
        if known.strong and seen.strong:
            same = known.strong == seen.strong
        elif known.last_modified and seen.last_modified:
            same = known.last_modified == seen.last_modified
        else:
            # what was a proof is gone: ask again, with a sample
            del self._validators[link]
            self.unproven = True
            raise NetworkError(f"{self._path}: the server no longer says which file it holds")
        if not same:
            raise self.contradicted("the file changed on the server while it was fetched")

    def begin(self, link: str, found: Representation) -> None:
        """A reply is believed: remember what it showed."""
        self._doubts = 0
        if self.unproven:
            self._seen = (link, found.validator)
        elif not self._validators.get(link):
            self._validators[link] = found.validator

    def alike(self, equal: bool) -> None:
        """An overlap sample was compared with the bytes held."""
        if not equal:
            raise ChangedError(f"{self._path}: the server's bytes differ from those held already")
        self.unproven = False
        if self._seen is not None:
            (link, validator), self._seen = self._seen, None
            self._validators.setdefault(link, validator)

    def forget(self) -> None:
        """Nothing is known of any server any more, and nothing is held."""
        self._validators.clear()
        self._seen = None
        self.unproven = False

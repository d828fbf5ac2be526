"""Validators: the proof that the bytes held and the bytes of a reply belong to the same file.

From the strongest proof to the weakest: a digest in the manifest, an equal strong ETag, an equal
Last-Modified, and last the same source key with an equal length and an equal overlap sample.
"""

from __future__ import annotations

from ..model.errors import ChangedError, FetchError, NetworkError
from ..model.http import Representation, Validator
from ..model.protocols import Reply
from ..model.ranges import ByteRange, RangeSet


class Validators:
    """The validators that the servers of one file have sent so far.

    Args:
        path: Path of the file, for messages.
        digest: Whether the manifest states a digest. It is checked at the end instead of validators.
    """

    def __init__(self, path: str, *, digest: bool) -> None:
        self._path, self._digest = path, digest
        self._validators: dict[str, Validator] = {}
        # the held bytes are from an earlier run or another server, and nothing has proved yet that they fit
        self.unproven = False
        self._seen: tuple[str, Validator] | None = None  # sent while unproven, kept until a sample proves it
        self._seams: dict[ByteRange, bytes] = {}  # samples of bytes that other parts were still fetching
        self._covered: set[int] = set()  # where a part has ended whose request went on for a sample
        self._doubts = 0  # replies in a row that contradict what was known
        self.asks_if_range = True

    def resume(self, link: str, validator: Validator) -> None:
        """Restore the validator of an earlier run.

        Args:
            link: The link that the held bytes came from.
            validator: The validator that its server sent then.
        """
        self._validators[link] = validator

    def validator(self, link: str) -> Validator:
        """Return the validator that the server of `link` sent; an empty one if none is known."""
        return self._validators.get(link, Validator())

    def proven(self, link: str) -> bool:
        """Return whether a digest or a validator proves the held bytes, so that `link` needs no sample."""
        return self._digest or (bool(self.validator(link)) and not self.unproven)

    def if_range(self, link: str) -> str | None:
        """Return the strong ETag to send as If-Range (RFC 9110 section 13.1.5), None if none applies."""
        return self.validator(link).strong if self.asks_if_range and not self._digest else None

    def contradicted(self, why: str) -> FetchError:
        """Return the error for a reply that contradicts earlier ones.

        The first contradiction in a row is retried: one stale edge server must not cost all held bytes. The
        second means that the file has changed.

        Args:
            why: The contradiction, for the message.

        Returns:
            NetworkError for the first contradiction, ChangedError for the next.
        """
        self._doubts += 1
        if self._doubts > 1:
            return ChangedError(f"{self._path}: {why}")
        return NetworkError(f"{self._path}: {why}; the request is repeated to confirm this")

    def check(self, link: str, reply: Reply, *, sampled: bool) -> None:
        """Check that `reply` belongs to the file that was begun.

        Args:
            link: The link that was requested.
            reply: The reply.
            sampled: Whether the request includes an overlap sample.

        Raises:
            NetworkError: Nothing proves that the reply belongs to it, or a first reply contradicts that.
            ChangedError: A second reply in a row contradicts it.
        """
        if self.unproven and not sampled:
            raise NetworkError(
                f"{self._path}: nothing proves that the server still has the file of the bytes held"
            )
        known, seen = self.validator(link), reply.representation.validator
        if self._digest or not known:
            return
        if known.strong and seen.strong:
            same = known.strong == seen.strong
        elif known.last_modified and seen.last_modified:
            # it counts whole seconds: tags that differ, even weak ones, are better proof of another version
            retagged = None not in (known.opaque, seen.opaque) and known.opaque != seen.opaque
            same = known.last_modified == seen.last_modified and not retagged
        else:
            # the server no longer sends the validator that was the proof: retry with a sample
            del self._validators[link]
            self.unproven = True
            raise NetworkError(
                f"{self._path}: the server no longer sends the ETag or Last-Modified that it sent before"
            )
        if not same:
            raise self.contradicted("the file changed on the server while it was fetched")

    def begin(self, link: str, found: Representation) -> None:
        """Record the validator of an accepted reply from `link`."""
        self._doubts = 0
        if self.unproven:
            self._seen = (link, found.validator)
        elif not self._validators.get(link):
            self._validators[link] = found.validator

    def alike(self, equal: bool) -> None:
        """Record the result of an overlap sample.

        Args:
            equal: Whether the sample equals the bytes held.

        Raises:
            ChangedError: It does not.
        """
        self._check_equal(equal)
        self.unproven = False
        if self._seen is not None:
            (link, validator), self._seen = self._seen, None
            self._validators.setdefault(link, validator)

    def cover(self, end: int) -> None:
        """Note that a part that ends at `end` is requested with a sample of the bytes behind it."""
        self._covered.add(end)

    def covered(self, start: int) -> bool:
        """Return whether a part that begins at `start` needs no sample of the bytes before it."""
        return start in self._covered

    def keep(self, span: ByteRange, sample: bytes) -> None:
        """Keep an overlap sample until the bytes of `span`, which another part fetches, can be compared."""
        self._seams[span] = sample

    def due(self, held: RangeSet) -> list[ByteRange]:
        """Return the ranges of the samples that `keep` was given and that can be compared now."""
        return [span for span in self._seams if held.before(span.stop) >= len(span)]

    def compare(self, span: ByteRange, found: bytes) -> None:
        """Compare the sample that `keep` was given for `span`, and forget it if it is equal.

        Args:
            span: The range, one that `due` returned.
            found: Its bytes in the partial; fewer if the store cannot read them any more.

        Raises:
            ChangedError: They differ.
        """
        sample = self._seams.get(span, found)
        if len(found) == len(sample):
            self._check_equal(found == sample)
        self._seams.pop(span, None)

    def _check_equal(self, equal: bool) -> None:
        if not equal:
            raise ChangedError(f"{self._path}: the server's bytes differ from those held already")

    def forget(self) -> None:
        """Forget all validators, because no bytes are held."""
        self._validators.clear()
        self._seams.clear()
        self._covered.clear()
        self._seen = None
        self.unproven = False

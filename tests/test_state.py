"""Tests of every decision about one file, as tables of replies and verdicts, without I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from osp_fetch.engine.parts import OPEN_END, Part, Parts
from osp_fetch.engine.state import SAMPLE, FileState
from osp_fetch.model.entry import Entry, entry
from osp_fetch.model.errors import (
    ChangedError,
    FetchError,
    IntegrityError,
    NetworkError,
    NotThePayloadError,
    RangeNotSatisfiableError,
    TransferError,
)
from osp_fetch.model.http import Coding, Representation, Validator
from osp_fetch.model.ranges import ByteRange, RangeSet
from osp_fetch.model.record import Published, Record

URL = "https://cdn.example/f.tar?oh=1&oe=2"
KEY = "cdn.example/f.tar"
SIZE = 1000
PART = 100
NONE = Validator()
TAG = Validator(etag='"a"')
DATE = Validator(last_modified="Mon, 01 Jan 2024 00:00:00 GMT")


@dataclass
class Answer:
    """A Reply without a body."""

    representation: Representation
    range: ByteRange | None
    framed: bool = True
    borrowed: bool = False
    headers_sent: bool = True
    pauses: tuple[tuple[str, float], ...] = field(default=())
    doubt: NotThePayloadError | None = None
    coding: Coding = Coding.NONE
    name: str = ""

    async def readinto(self, view: memoryview) -> int:
        raise AssertionError("a decision reads nothing")


def answer(
    span: tuple[int, int] | None,
    length: int | None = SIZE,
    validator: Validator = NONE,
    url: str = URL,
) -> Answer:
    return Answer(Representation(url, length, validator), ByteRange(*span) if span else None)


def file(size: int | None = None, digest: str | None = None, urls: tuple[str, ...] = (URL,)) -> Entry:
    return entry("f.tar", urls, size, digest)


def resumed(validator: Validator = NONE, held: int = 500, **more: object) -> FileState:
    record = Record(file().path, KEY, SIZE, validator, RangeSet.upto(held))
    return FileState(file(**more), record, held)  # type: ignore[arg-type]


DIGEST = "md5:" + "0" * 32


def test_the_first_part_is_the_probe_and_goes_alone() -> None:
    download = FileState(file())
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    assert download.part(download.mirrors.choose(), PART) is None
    assert download.request(part).range is not None


def test_a_file_no_longer_than_a_part_is_requested_without_a_range() -> None:
    download = FileState(file(size=PART))
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    assert download.request(part).range is None


def test_after_the_probe_parts_cover_the_file_once() -> None:
    download = FileState(file())
    first = download.part(download.mirrors.choose(), PART)
    assert first is not None
    assert download.agree(first, answer((0, PART))).span == ByteRange(0, PART)
    spans = [ByteRange(0, PART)]
    while (part := download.part(download.mirrors.choose(), PART)) is not None:
        spans.append(part.range)
    assert RangeSet.of(spans) == RangeSet.upto(SIZE)
    assert sum(map(len, spans)) == SIZE


def test_what_is_given_back_is_missing_again() -> None:
    download = FileState(file(size=SIZE))
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    download.agree(part, answer((0, PART)))
    download.wrote(ByteRange(0, 30))
    download.parts.release(part.claim)
    again = download.part(download.mirrors.choose(), PART)
    assert again is not None
    assert again.range.start == 30


def test_the_ledger_is_trusted_only_as_far_as_the_disk() -> None:
    record = Record(file().path, KEY, SIZE, Validator(), RangeSet.upto(800))
    assert FileState(file(), record, 300).held == RangeSet.upto(300)
    assert FileState(file(), record, None).held == RangeSet()


def test_another_size_or_another_source_begins_anew() -> None:
    record = Record(file().path, KEY, SIZE, Validator(), RangeSet.upto(500))
    assert not FileState(file(size=SIZE + 1), record, 500).held
    assert not FileState(file(urls=("https://other.example/f.tar",)), record, 500).held
    assert FileState(file(urls=("https://other.example/f.tar",), digest=DIGEST), record, 500).held


@pytest.mark.parametrize(
    ("known", "digest", "sample"),
    [(Validator(), None, True), (TAG, None, False), (DATE, None, False), (Validator(), DIGEST, False),
     (Validator(etag='W/"a"'), None, True)],
)  # fmt: skip
def test_only_without_a_better_proof_is_a_sample_asked_for(
    known: Validator, digest: str | None, sample: bool
) -> None:
    download = resumed(known, digest=digest)
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    assert bool(part.sample) == sample
    request = download.request(part)
    assert request.range is not None
    assert request.range.start == 500 - min(SAMPLE, 500) * sample


@pytest.mark.parametrize(
    ("known", "seen", "digest", "same"),
    [
        (TAG, TAG, None, True),
        (TAG, Validator(etag='"b"'), None, False),
        (TAG, Validator(etag='"b"'), DIGEST, True),
        (TAG, Validator(), None, None),
        (TAG, DATE, None, None),
        (TAG, Validator(), DIGEST, True),
        (DATE, DATE, None, True),
        (DATE, Validator(last_modified="Tue, 02 Jan 2024 00:00:00 GMT"), None, False),
        (Validator(), TAG, None, True),
        (Validator(etag='W/"a"'), Validator(etag='W/"b"'), None, True),
    ],
)
def test_the_validator_ladder(
    known: Validator, seen: Validator, digest: str | None, same: bool | None
) -> None:
    download = resumed(known, digest=digest)
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    reply = answer((part.range.start - part.sample, 600), validator=seen)
    if same:
        assert download.agree(part, reply).span == ByteRange(500, 600)
    elif same is False:
        twice_to_believe(lambda: download.agree(part, reply))
    else:  # the validator proves nothing now: the next request includes a sample
        with pytest.raises(NetworkError):
            download.agree(part, reply)
        download.parts.release(part.claim)
        again = download.part(download.mirrors.choose(), PART)
        assert again is not None
        assert again.sample


def test_if_range_is_sent_for_a_strong_tag_only() -> None:
    for known, sent in ((TAG, '"a"'), (DATE, None), (Validator(etag='W/"a"'), None)):
        download = resumed(known)
        part = download.part(download.mirrors.choose(), PART)
        assert part is not None
        assert download.request(part).if_range == sent


def test_a_changed_length_is_another_file() -> None:
    download = resumed()
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    twice_to_believe(lambda: download.agree(part, answer((0, 600), length=SIZE + 1)))


def test_a_length_against_the_manifest_is_not_the_payload() -> None:
    download = FileState(file(size=SIZE))
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    with pytest.raises(NotThePayloadError, match="the manifest states 1000"):
        download.agree(part, answer((0, PART), length=SIZE - 1))


def test_a_complete_body_instead_of_a_range_starts_over_with_it_the_second_time() -> None:
    download = resumed()
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    with pytest.raises(NetworkError):
        download.agree(part, answer(None))
    download.parts.release(part.claim)
    assert len(download.held) == 500
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    assert download.agree(part, answer(None)).span == ByteRange(0, SIZE)
    assert not download.held


def test_a_complete_body_for_an_unchanged_tag_is_asked_again_without_if_range() -> None:
    download = resumed(TAG)
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    with pytest.raises(NetworkError):
        download.agree(part, answer(None, validator=TAG))
    download.parts.release(part.claim)
    assert len(download.held) == 500
    again = download.part(download.mirrors.choose(), PART)
    assert again is not None
    assert download.request(again).if_range is None


def test_a_sample_that_differs_is_another_file() -> None:
    download = resumed()
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    with pytest.raises(ChangedError):
        download.trust.alike(False)
    download.trust.alike(True)


def test_bytes_from_another_time_always_prove_themselves() -> None:
    record = Record(file().path, KEY, SIZE, NONE, RangeSet.of([ByteRange(500, SIZE)]))
    download = FileState(file(), record, SIZE)
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    assert part.sample
    assert part.range.start >= 500


def test_a_manifests_size_caps_a_body_that_states_none() -> None:
    download = FileState(file(size=SIZE))
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    assert download.agree(part, answer(None, length=None)).span == ByteRange(0, SIZE)


def test_a_published_record_holds_nothing_of_a_new_partial() -> None:
    published = Record(file().path, KEY, SIZE, NONE, RangeSet.upto(SIZE), published=Published(SIZE, 1))
    assert not FileState(file(), published, 300).held


def test_a_bare_416_ends_only_what_has_been_fetched_by_ranges() -> None:
    download = FileState(file())
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    download.agree(part, answer(None, length=None))
    download.wrote(ByteRange(0, 77))
    download.parts.release(part.claim)
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    with pytest.raises(RangeNotSatisfiableError):
        download.unsatisfiable(part, RangeNotSatisfiableError("", length=None))
    assert not download.complete
    assert not download.held


def twice_to_believe(reply: Callable[[], object]) -> None:
    """Assert that the first contradiction is retried, and that the second one means a changed file.

    A single contradiction can come from one edge server.
    """
    with pytest.raises(NetworkError):
        reply()
    with pytest.raises(ChangedError):
        reply()


def test_a_short_answer_is_said_by_how_much() -> None:
    download = FileState(file(size=SIZE))
    download.wrote(ByteRange(0, 40))
    with pytest.raises(NetworkError, match="60 bytes early"):
        download.expect(ByteRange(0, 100), framed=True)


def test_a_framed_body_of_unknown_length_ends_where_it_ends() -> None:
    download = FileState(file())
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    assert download.agree(part, answer(None, length=None)).span == ByteRange(0, OPEN_END)
    download.wrote(ByteRange(0, 77))
    download.expect(ByteRange(0, OPEN_END), framed=True)
    assert download.length == 77
    assert download.complete


def test_a_body_that_just_stops_is_believed_the_second_time() -> None:
    download = FileState(file())
    for _ in range(2):
        part = download.part(download.mirrors.choose(), PART)
        assert part is not None
        download.agree(part, answer(None, length=None))
        download.wrote(ByteRange(0, 77))
        try:
            download.expect(ByteRange(0, OPEN_END), framed=False)
        except NetworkError:
            assert not download.complete
        download.parts.release(part.claim)
    assert download.complete


def test_416_at_the_end_is_the_end_and_elsewhere_it_is_not() -> None:
    empty = FileState(file())
    part = empty.part(URL, PART)
    assert part is not None
    empty.unsatisfiable(part, RangeNotSatisfiableError("", length=0))
    assert empty.complete
    shrunk = resumed()
    part = shrunk.part(URL, PART)
    assert part is not None
    twice_to_believe(lambda: shrunk.unsatisfiable(part, RangeNotSatisfiableError("", length=300)))


def test_416_without_a_length_at_the_start_is_asked_again_without_a_range() -> None:
    download = FileState(file())
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    with pytest.raises(RangeNotSatisfiableError):
        download.unsatisfiable(part, RangeNotSatisfiableError("", length=None))
    download.parts.release(part.claim)
    again = download.part(download.mirrors.choose(), PART)
    assert again is not None
    assert download.request(again).range is None


def test_a_redirect_is_borrowed_until_it_is_spent() -> None:
    signed = "https://store.example/x?Signature=1"
    download = FileState(entry("f.tar", URL, headers={"Authorization": "Bearer t"}))
    part = download.part(download.mirrors.choose(), PART)
    assert part is not None
    assert dict(download.request(part).headers)
    reply = answer((0, PART), url=signed)
    reply.borrowed = True
    download.agree(part, reply)
    following = download.part(download.mirrors.choose(), PART)
    assert following is not None
    request = download.request(following)
    assert (request.url, request.borrowed, request.headers) == (signed, True, ())
    download.mirrors.spent(following.url, request.url)
    assert download.mirrors.unminted(URL)
    assert download.mirrors.url(URL) == URL


def test_a_reply_that_was_asked_for_before_renews_no_spent_redirect() -> None:
    """Two parts are requested from the target; one is refused, and the reply to the other one comes later."""
    signed = "https://store.example/x?Signature=1"
    download = FileState(file(size=SIZE))
    first = download.part(URL, PART)
    assert first is not None
    download.request(first)
    renewed = answer((0, PART), url=signed)
    renewed.borrowed = True
    download.agree(first, renewed)
    one, two = download.part(URL, PART), download.part(URL, PART)
    assert one is not None
    assert two is not None
    assert {download.request(one).url, download.request(two).url} == {signed}
    download.mirrors.spent(one.url, signed)
    late = answer((two.range.start, two.range.stop), url=signed)
    late.borrowed = True
    download.agree(two, late)
    assert download.mirrors.unminted(URL)
    again = download.part(URL, PART)
    assert again is not None
    assert download.request(again).url == URL
    fresh = answer((again.range.start, again.range.stop), url=signed)
    fresh.borrowed = True
    download.agree(again, fresh)
    assert download.mirrors.url(URL) == signed, "a redirect may lead to the same target again"


def test_mirrors_share_parts_only_under_a_digest() -> None:
    urls = (URL, "https://mirror.example/f.tar")
    for digest, hosts in ((DIGEST, 2), (None, 1)):
        download = FileState(file(size=SIZE, digest=digest, urls=urls))
        first = download.part(download.mirrors.choose(), PART)
        assert first is not None
        download.agree(first, answer((0, PART)))
        links = {first.url}
        while (part := download.part(download.mirrors.choose(), PART)) is not None:
            links.add(part.url)
        assert len(links) == hosts


def test_a_forsaken_mirror_is_not_asked_again() -> None:
    urls = (URL, "https://mirror.example/f.tar")
    download = FileState(file(urls=urls))
    assert download.forsake(URL)
    assert download.mirrors.choose() == urls[1]
    assert not download.forsake(urls[1])


def test_restarts_end() -> None:
    download = FileState(file())
    changed: FetchError = ChangedError("x")
    assert [download.restart(changed) for _ in range(5)] == [True, True, True, False, False]
    wrong = FileState(file(digest=DIGEST))
    assert [wrong.restart(IntegrityError("x")) for _ in range(3)] == [True, False, False]


def test_nothing_is_right_before_every_byte_and_the_digest_are() -> None:
    download = FileState(file(size=3, digest=DIGEST))
    with pytest.raises(TransferError):
        download.check({"md5": "0" * 32})
    download.wrote(ByteRange(0, 3))
    download.check({"md5": "0" * 32})
    with pytest.raises(IntegrityError):
        download.check({"md5": "1" * 32})
    with pytest.raises(IntegrityError):
        download.check({})


def halves(now: float) -> tuple[Parts, list[Part]]:
    """Return 8 MiB in two parts: the first is held, and half of the second arrived in two seconds."""
    parts = Parts(8 << 20)
    parts.probed = True
    claims = [claim for _ in range(2) if (claim := parts.next(4 << 20, now)) is not None]
    parts.held |= ByteRange(0, 4 << 20)
    parts.release(claims[0])
    parts.held |= ByteRange(4 << 20, 6 << 20)
    return parts, claims


def test_a_part_is_hedged_when_it_is_slow_enough_and_so_that_both_end_together() -> None:
    parts, _ = halves(0.0)
    assert parts.hedge(2.0, 3.0) is None  # the part is 2 s old and has 2 s left
    twin = parts.hedge(2.0, 1.0, pace=3 << 20)
    assert twin is not None
    assert twin.range == ByteRange((6 << 20) + (1 << 19), 8 << 20)  # the hedge is three times as fast
    assert parts.hedge(2.0, 1.0) is None  # one hedge is enough, and it is young


def test_the_rest_of_a_far_slower_part_is_shared_by_all_idle_connections() -> None:
    parts = Parts(8 << 20)
    parts.probed = True
    slow = parts.next(8 << 20, 0.0)
    assert slow is not None
    parts.held |= ByteRange(0, 1 << 20)  # half a MiB per second
    twins = [parts.hedge(2.0, 0.5, pace=4 << 20) for _ in range(5)]
    ranges = [twin.range for twin in twins if twin is not None]
    assert ranges == [ByteRange(at << 20, to << 20) for at, to in ((6, 8), (4, 6), (2, 4), (1, 2))]
    assert twins[0] is not None
    parts.release(twins[0])  # this hedge failed, and another may be started
    again = parts.hedge(2.0, 0.5, pace=4 << 20)
    assert again is not None
    assert again.range.stop == 8 << 20


def test_no_hedge_takes_bytes_that_are_being_written() -> None:
    parts, (_, slow) = halves(0.0)
    assert parts.begin_write(slow, 7 << 20), "no other part fetches them"
    twin = parts.hedge(2.0, 0.5, pace=None)
    assert twin is not None
    assert twin.range.start >= 7 << 20
    assert not parts.begin_write(slow, 8 << 20), "the other part may write them again"
    assert not parts.begin_write(twin, twin.range.stop)
    parts.release(twin)
    assert not parts.begin_write(slow, 8 << 20), "what the hedge has written is written again"


def test_a_part_whose_last_bytes_are_being_written_is_not_hedged() -> None:
    parts, (_, slow) = halves(0.0)
    assert parts.begin_write(slow, 8 << 20)
    assert parts.hedge(2.0, 0.5) is None


def test_of_what_is_fetched_twice_nothing_is_settled_until_both_have_let_go() -> None:
    """The bytes of two hedged parts may differ, and only those count that are on the disk at the end."""
    parts, claims = halves(0.0)
    assert parts.settled == 6 << 20
    twin = parts.hedge(2.0, 1.0, pace=1 << 20)
    assert twin is not None
    parts.held |= ByteRange(6 << 20, 8 << 20)
    assert parts.complete
    assert parts.settled == twin.range.start
    parts.release(claims[1])
    assert parts.settled == twin.range.start
    parts.release(twin)
    assert parts.settled == 8 << 20

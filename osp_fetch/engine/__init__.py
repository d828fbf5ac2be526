"""Engine: fetch the jobs of a run, from the rows of a manifest to published files.

A run fetches files, a file fetches parts, a part fetches bytes. Resuming is subtraction: missing = wanted −
held, so that a first run, a retry and a run next week take the same code path. Decisions about a file
(`state`, `parts`, `validators`, `mirrors`) are made without I/O.
May import: the standard library, `tenacity` (in `retry` only), and from osp_fetch only `model`, `concurrency`
and `connections`. The engine reaches transport, store and ledger through `model.protocols`.

Start reading in `run` (`Run`), then `file` (`FileFetcher`, one job) and `transfer` (`PartedTransfer`,
restarts and publication) with `part_fetcher` (lanes, retries and hedges). `small` is the shorter way for a
file that arrives in its first reply, `adopt` handles files that other downloaders or earlier runs left, and
`checkpoint` keeps the ledger behind the disk.
"""

"""The ledger: the database of records, one SQLite file for each state folder.

It states what is held and published. It may state too little, never too much. A sidecar repeats the record
of each large partial, in case the ledger is lost.
May import: the standard library with `sqlite3`, and from osp_fetch only `model`, `concurrency` and other
modules of `storage`. No module outside this package imports `sqlite3`.

Start reading in `sqlite` (`SqliteLedger`), then `rows` (read-only access) and `sidecars`.
"""

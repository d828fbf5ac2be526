"""Data model: entries, byte ranges, records, settings, events, errors and the protocols of the adapters.

Modules here perform no I/O. They hold immutable values and pure functions, and `protocols`, which states
what the engine expects of a transport, a store and a ledger.

May import: the standard library, and pandas inside `Report.frame`; no other package of osp_fetch.

Start reading in `entry` (one manifest row), then `ranges` (held and missing bytes) and `record` (what the
ledger stores); `errors` defines the remedy of each failure, `settings` every default.
"""

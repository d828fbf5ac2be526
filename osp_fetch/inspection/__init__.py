"""Inspection of an output folder without a run: `plan`, `status` and `verify`.

`plan` reports what `get` would do, `status` what the folder holds, and `verify` hashes the finished files
again. `finished` iterates over finished files, also while a run goes on. None of them uses the network. They
share the decisions of `get` (`engine.state`, `storage.folder`), so that all commands agree about a file.

The package may import everything below floor 7: `model`, `concurrency`, `sources`, `storage`, `engine`,
`archives`, `workers`, `datasets`, `views`. It may import neither `api` nor the command line.
Start with `status.py`, which reads the ledgers and compares them with the disk.
"""

"""Storage: the output folder with its partials, published files, ledger and lock.

A final name appears only when the bytes under it are complete and verified. The ledger may state too little,
never too much.
May import: the standard library, `aiofiles` (in `folder.executors` only), `sqlite3` (in `ledger` only), what
`bucket` names, and from osp_fetch only `model`, `concurrency` and `version`. The engine reaches this package
through `model.protocols`.

Start reading in `folder.store`, which implements `Store`; then `folder.partial`, `publishing` for the step
from a partial to a published file, and `ledger` for the records.
"""

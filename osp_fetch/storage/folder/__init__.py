"""A folder on a local or network file system as a store.

May import: the standard library, `aiofiles` (in `executors` only), and from osp_fetch only `model`,
`concurrency` and other modules of `storage`.

Start reading in `store` (`FolderStore`), then `partial` (one unfinished file) and `layout` (where files lie).
`disk` makes the system calls of the store. `ownership` decides what may be removed or replaced, `run_lock`
keeps a second run out, and `repair` turns a damaged file into a partial.
"""

"""Publishing: give complete and verified files their final names, many in one batch.

The order for each file is write, check, fsync(file), close, rename, fsync(folder). A batch shares these
steps, so that a thousand small files need few journal commits of the file system.
May import: the standard library, and from osp_fetch only `model`, `concurrency` and modules of `storage`.

Start reading in `batch` (`BatchPublisher`, the steps themselves), then `publisher` (how batches form). Small
files are received into `shared_memory`, described by `small_file`, and published by `helper_process`.
"""

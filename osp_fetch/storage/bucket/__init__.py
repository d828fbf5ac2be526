"""A prefix of an S3 bucket as a store: files become objects, and no byte of them touches a local disk.

Parts of a file are collected in memory (`part_memory`), hashed in order, and uploaded as parts of a multipart
upload (`partial`). Completing the upload is publishing: the object appears with all its bytes or not at all.
What is known about unfinished uploads is in the ledger `uploads.sqlite3` of the local state folder
(`uploads`); a node of a cluster asks its run for it.

May import: the standard library, `awscrt` and `rehashes` (in `sums` only), and from osp_fetch only `model`,
`concurrency`, `s3` and other modules of `storage`.

Start reading in `store` (`BucketStore`), then `partial` (one unfinished file). `s3.client` sends the
requests.
"""

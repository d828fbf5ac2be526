"""Sources of entries: link files, tables, lists, the Hugging Face Hub, ModelScope and Google Drive.

A source is a function that yields blocks of numbered rows. A row is an `Entry`, or a `ManifestError` that
names the bad line. `join` adds checksum lists and second sources to the rows; `link_files` supplies fresh
links during a run.

May import: `model`, `s3`, the standard library, and, inside functions, the library of each format (pandas,
pyarrow, huggingface_hub, gdown). Start reading in `resolve`, which finds the source that a SOURCE names.
"""

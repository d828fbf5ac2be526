"""Open-Sora-Plan v1.1.0: its datasets, their sources, and the folder layout that training expects.

All knowledge of this project's datasets is here; the other packages handle any manifest. `layout` creates the
lists that training reads. `coverage` reports which captions have a file on the disk.

May import: `model`, `sources`, `storage`, the standard library, and ijson inside functions. Start reading in
`catalogue`, the table of the datasets.
"""

"""Archives: finds, reads and unpacks tar and zip archives, including archives split into pieces.

Members are published like fetched files: an archive's members appear under their final names only after the
complete archive was read, and a killed run resumes. `webdataset` regroups members into tars of a given size.

May import: `model`, `storage`, `sources.opening`, `datasets.catalogue` and the standard library. Start
reading in `splits` (which files form an archive), then `read` (members as a stream) and `extract` (one
archive); `extractor` is the public interface, which runs `extract` in worker processes.
"""

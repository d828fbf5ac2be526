"""Worker processes: several processes of one machine that fetch the jobs of one run.

The run deals jobs to its workers, keeps the ledger, and divides the connections of each host among them.
A worker that dies is replaced, and its jobs go on from the bytes that are held.
The package may import every package below floor 5 of `tests/test_architecture.py`: `model`, `concurrency`,
`sources`, `network`, `storage`, `connections` and `engine`; but not `views`, `datasets` or `demo`.
Start with `pool.WorkerPool` in the run and `worker.serve` in a worker; `messages` is what they exchange.
"""

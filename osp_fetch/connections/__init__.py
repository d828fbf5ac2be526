"""Connection slots: which job may open a connection to which host, and how many connections a host gets.

The package grants slots per host and in total, adjusts each host's concurrency limit by its goodput, stops
asking a host that does not answer, and chooses the sizes of parts and of receive buffers. It decides
without I/O.

It may import `model` and `concurrency`, and nothing else of osp_fetch, so that it is tested with fakes.
Start with `pool.py` (ConnectionPool), then `limit.py` (the control algorithm) and `controller.py` (the
measuring that feeds it).
"""

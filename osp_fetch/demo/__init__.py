"""Local stand-ins for the real file servers, which imitate their behavior, protocol errors included.

They serve `osp-fetch demo`, the tests and the benchmarks. `server` writes HTTP/1.1 by hand on raw streams,
because an HTTP library would not let a server violate the protocol.
The package may import every package below floor 5 of `tests/test_architecture.py`; it uses none of them.
Start with `server.Server` and `server.Exchange`, then `sources` for SA-1B's CDN and the Hugging Face Hub.
"""

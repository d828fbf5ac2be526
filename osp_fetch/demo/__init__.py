"""Stand-ins for the real sources, which behave as they do, bad manners included.

They serve `osp-fetch demo`, the tests and the benchmarks. HTTP is spoken here by hand, on raw streams:
a library would not let a server misbehave.
"""

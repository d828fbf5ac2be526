"""Control of a run by commands, while it works: pause, rate, connections, hosts, links, stop.

A command is a list of words. `commands` reads it, `steering` applies it to the run, and `endpoint` receives
it over a Unix socket in the state folder. `client` sends it, for `osp-fetch ctl`. The page of a run passes
its commands to the same `Steering`.
The package may import every package below floor 6 of `tests/test_architecture.py`; `client` imports no
module of the engine, so that `osp-fetch ctl` starts at once.
Start with `commands.py`, then `steering.py`.
"""

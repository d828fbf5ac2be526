"""Measuring of a host: how many connections, and which part size, give the best goodput.

`bench` fetches parts over more and more connections, discards the bytes, and reports one point per number
of connections. The best point can be saved as the host's profile, with which later runs start.

The package may import everything below floor 7: `api`, `views`, `connections`, `workers`, `sources`,
`storage` and `model`. Only `curve.py` may import matplotlib.
Start with `measure.py`, then `sweep.py` (the search) and `curve.py` (text, HTML and PNG output).
"""

"""Measuring of a host: which connections, part size and processes give the best goodput, and what limits it.

`bench` looks at one level (connections, part size, processes) after another. A look is a real run into a
scratch folder, observed until its rate is steady. The best level is confirmed: it takes turns with its
neighbours and with `auto`. It can be saved as the host's profile, with which later runs start.

The package may import everything below floor 10: `api`, `assembly`, `views`, `connections`, `engine`,
`workers`, `sources`, `storage` and `model`. Only `curve.py` may import matplotlib.
Start with `measure.py` (search, confirmation, result), then `search.py` (which level comes next, without
I/O), `pipeline.py` (one look) and `meter.py` (when a rate is steady). `disk.py` measures the destination,
`survey.py` joins both, `verdict.py` has the sentences, and `curve.py` the text, CSV, HTML and PNG output.
"""

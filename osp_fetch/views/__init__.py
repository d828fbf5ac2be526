"""Observers of a run: the live panel, log lines, the event log and `status.json`.

Each view receives the events of `model.events` and shows them to a person or writes them to a file. The
engine never waits for a view. Terminal views draw from one `Board`, which adds the events up.

The package may import everything below floor 4: `model`, `concurrency`, `storage` and, if ever needed,
`sources`, `network`, `connections` and `engine`. It may not import the command line.
Start with `board.py` (the state of a run), then `screen.py` (panel and lines).
"""

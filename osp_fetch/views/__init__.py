"""Observers of a run: the live panel, log lines, event log, history, `status.json`, notices and metrics.

Each view receives the events of `model.events` and shows them to a person or writes them to a file. The
engine never waits for a view. Terminal views draw from one `Board`, which adds the events up; `Totals` adds
what a run gave and cost. The report is drawn here, too, from what `inspection` reads.

The package may import everything below floor 5: `model`, `concurrency`, `storage` and, if ever needed,
`sources`, `network`, `connections` and `engine`. It may not import the command line.
Start with `board.py` (the state of a run), then `screen.py` (panel and lines; `notebook.py` for Jupyter),
`notices.py` (messages to people), `metrics.py` and `report_page.py`.
"""

"""The page of a run: one self-contained HTML page with server-sent events, for a browser.

`state.PageState` is an observer that adds up what the page shows, in bounded memory. `server.Page` serves it
with aiohttp.web, behind a token. `static/` holds the page and uPlot, which draws the lines (MIT licence, see
`static/uPlot.LICENSE`).
Start with `state.py`; then `static/page.js`, which draws the document that `state.PageState.document` makes.
"""

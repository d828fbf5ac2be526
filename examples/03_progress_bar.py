"""Fetch URLs with a progress bar of tqdm, drawn from the events of the run.

    python examples/03_progress_bar.py URL... FOLDER

`Progress` events carry everything that a bar shows: files, bytes, the rate and the time that is left.
"""

from __future__ import annotations

import sys

from tqdm import tqdm

from osp_fetch import Event, HostDown, Progress, Retrying, fetch


class Bar:
    """An observer that draws a progress bar on stderr. The run calls it with every event."""

    def __init__(self) -> None:
        layout = "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"
        self._bar = tqdm(unit="B", unit_scale=True, unit_divisor=1024, bar_format=layout)

    def __call__(self, event: Event) -> None:
        """Show one event. It must not block: the run waits for its return."""
        match event:
            case Progress():  # about twice a second, and at the end
                self._bar.total = event.bytes_total  # None while no size is known
                self._bar.set_postfix_str(self._figures(event), refresh=False)
                self._bar.n = event.bytes_done  # it can fall, if held bytes turn out to be wrong
                self._bar.refresh()
            case Retrying(path, _, delay, message):
                self._bar.write(f"{path}: {message}; next attempt in {delay:.1f} s", file=sys.stderr)
            case HostDown(host, seconds):
                self._bar.write(f"{host} does not answer; next attempt in {seconds:.0f} s", file=sys.stderr)

    @staticmethod
    def _figures(event: Progress) -> str:
        rate = tqdm.format_sizeof(event.rate, "B/s", 1024)
        left = "" if event.eta is None else f", {tqdm.format_interval(event.eta)} left"
        return f"{event.files}/{event.rows} files, {rate}{left}"

    def close(self) -> None:
        """End the line of the bar."""
        self._bar.close()


if __name__ == "__main__":
    *urls, folder = sys.argv[1:] or [""]
    if not urls:
        sys.exit(__doc__)
    bar = Bar()
    try:
        report = fetch(urls, folder, observer=bar)
    finally:
        bar.close()
    report.raise_for_failures()

"""The style of the report. Colours are those of Okabe and Ito, which most colour-blind people tell apart."""

from __future__ import annotations

from typing import Final

_LIGHT: Final = "#0072b2 #e69f00 #009e73 #cc79a7 #56b4e9 #d55e00 #8c8c8c"
_DARK: Final = "#4aa3df #f0b429 #2fbf94 #e39cc4 #8fd0f5 #ff8a4c #9a9a9a"


def _series(colours: str) -> str:
    return "".join(f"--s{number}:{colour};" for number, colour in enumerate(colours.split()))


_USES: Final = "".join(f".a{n}{{fill:var(--s{n})}}.key.s{n}{{background:var(--s{n})}}" for n in range(7))

STYLE: Final = (
    ":root{--ink:#1c2126;--soft:#59636e;--line:#d9dee4;--paper:#fff;--card:#f5f7f9;--good:#146c43;--bad:#b3261e;"
    f"--busy:#0b5cad;{_series(_LIGHT)}}}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#a3adb8;--line:#39424c;--paper:#14181c;"
    f"--card:#1d2329;--good:#6fd19b;--bad:#ff8a80;--busy:#7fb8f0;{_series(_DARK)}}}}}"
    "*{box-sizing:border-box}"
    "body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}"
    "main{max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem}"
    "h1{font-size:1.4rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2.5rem 0 .75rem}"
    "h3{font-size:1rem;margin:1.25rem 0 .25rem}p{margin:.25rem 0}ul{margin:.25rem 0;padding-left:1.25rem}"
    "li{overflow-wrap:anywhere}code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}"
    ".quiet{color:var(--soft)}.state{font-weight:600;overflow-wrap:anywhere}"
    ".good{color:var(--good)}.bad{color:var(--bad)}.busy{color:var(--busy)}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem}"
    ".tiles{margin:1.5rem 0 0}"
    ".tiles div{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.75rem}"
    ".tiles div{display:flex;flex-direction:column}.tiles dd{margin:0;font-size:1.35rem;font-weight:600}"
    ".tiles dd,td.n{font-variant-numeric:tabular-nums}.tiles dt{color:var(--soft);font-size:.875rem}"
    "figure{margin:0;overflow-x:auto}figure .chart{min-width:36rem}"
    ".chart{width:100%;height:auto;display:block}.chart text{font-size:12px;fill:var(--soft)}"
    ".chart .end{text-anchor:end}.chart .mid{text-anchor:middle}.grid{stroke:var(--line);stroke-width:1}"
    ".legend{display:flex;flex-wrap:wrap;gap:.25rem 1rem;list-style:none;padding:0;font-size:.875rem}"
    ".key{display:inline-block;width:.75rem;height:.75rem;border-radius:2px;margin-right:.4rem}"
    f"{_USES}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9375rem}"
    "th,td{text-align:left;padding:.35rem .75rem .35rem 0;border-bottom:1px solid var(--line)}"
    "th,td{vertical-align:top}"
    "th{color:var(--soft);font-weight:500}th.n,td.n{text-align:right;white-space:nowrap;padding-right:0}"
    "th.n+th,td.n+td{padding-left:1.25rem}td{overflow-wrap:break-word;min-width:5rem}"
    "td:first-child{min-width:9rem}"
    "details{margin:.75rem 0}summary{cursor:pointer;color:var(--soft)}"
    "@media print{body{font-size:11px}section{break-inside:avoid}}"
)
"""The style sheet, on one line."""

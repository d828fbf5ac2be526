"use strict";
// Draws the documents of the run. Names of files and hosts are set as text only, never as HTML.
(() => {
  const at = (id) => document.getElementById(id);
  const hasControls = document.body.dataset.controls === "yes";
  let run = null, recent = [], whole = [], span = "recent", last = null, chart = null, source = null;

  // the token stays in the cookie; the address that people copy has none
  if (location.search) history.replaceState(null, "", location.pathname);

  const text = (node, value) => { if (node.textContent !== value) node.textContent = value; };

  const size = (count) => {
    if (count === null || count === undefined) return "unknown";
    for (const unit of ["B", "KiB", "MiB", "GiB"]) {
      if (Math.abs(count) < 1024) return unit === "B" ? `${Math.round(count)} B` : `${count.toFixed(1)} ${unit}`;
      count /= 1024;
    }
    return `${count.toFixed(1)} TiB`;
  };
  const rate = (count) => `${size(count)}/s`;
  const number = (count) => count.toLocaleString("en");
  const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;
  const duration = (seconds) => {
    const total = Math.round(seconds);
    for (const [large, small, a, b] of [[86400, 3600, "d", "h"], [3600, 60, "h", "min"], [60, 1, "min", "s"]]) {
      if (total >= large) {
        const rest = Math.floor((total % large) / small);
        return `${Math.floor(total / large)} ${a}${rest ? ` ${rest} ${b}` : ""}`;
      }
    }
    return `${total} s`;
  };
  const two = (value) => String(value).padStart(2, "0");
  const clock = (when) => {
    const d = new Date(when * 1000);
    return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  };
  const moment = (when) => {
    const d = new Date(when * 1000);
    return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}`;
  };

  // Rows are kept and only their texts change, so that a selection and the position of a reader stay.
  const fill = (body, rows, widths) => {
    while (body.rows.length > rows.length) body.deleteRow(-1);
    while (body.rows.length < rows.length) {
      const row = body.insertRow();
      for (let n = 0; n < widths.length; n += 1) {
        const cell = document.createElement(n ? "td" : "th");
        if (!n) cell.scope = "row";
        row.appendChild(cell);
      }
    }
    rows.forEach((cells, r) => cells.forEach((value, n) => {
      const cell = body.rows[r].cells[n];
      const name = value && value.trouble ? "words trouble" : widths[n];
      if (cell.className !== name) cell.className = name;
      if (n === 0 && !cell.firstElementChild) cell.appendChild(document.createElement("bdi"));
      text(n === 0 ? cell.firstElementChild : cell, value && value.trouble ? value.trouble : String(value));
    }));
  };

  const list = (node, lines) => {
    while (node.children.length > lines.length) node.lastChild.remove();
    while (node.children.length < lines.length) node.appendChild(document.createElement("li"));
    lines.forEach((line, n) => text(node.children[n], line));
  };

  const drawHead = (doc) => {
    const s = doc.status, about = s.bytes_total_exact ? "" : "about ";
    const ended = Object.values(s.counts).reduce((a, b) => a + b, 0);
    const known = s.rows_final && s.bytes_total !== null;
    // 100 % is said only of a run that has every file
    const isWhole = ended === s.rows && !s.counts.failed && !s.counts.parked;
    const share = !known ? null : isWhole ? 1 : Math.min(0.999, s.bytes_done / (s.bytes_total || 1));
    const bar = at("bar");
    if (share === null) bar.removeAttribute("value"); else bar.value = share;
    const percent = share === null ? "–" : `${(Math.floor(share * 1000) / 10).toFixed(1)} %`;
    text(at("folder"), doc.folder);
    text(at("share"), percent);
    text(at("bytes"), size(s.bytes_done));
    text(at("bytes-of"), s.bytes_total === null ? "" : `of ${about}${size(s.bytes_total)}`);
    text(at("files-done"), number(ended));
    text(at("files-of"), `of ${number(s.rows)}${s.rows_final ? "" : " read so far"}`);
    text(at("rate"), rate(s.bytes_per_second));
    const hasEnd = doc.state === "running" && s.eta_seconds !== null;
    text(at("left"), hasEnd ? duration(s.eta_seconds) : "–");
    text(at("ends"), hasEnd ? `${about}${moment(s.time + s.eta_seconds)}` : "");
    text(at("connections"), number(s.connections));
    const state = at("state");
    state.dataset.state = doc.state;
    text(state, doc.state);
    const view = at("outlook");
    view.className = `note ${doc.outlook.level}`;
    text(view, doc.outlook.text);
    list(at("wrong"), doc.wrong);
    at("wrong").hidden = !doc.wrong.length;
    at("summary").hidden = !doc.summary.length;
    text(at("summary-text"), doc.summary.join("\n"));
    text(at("expires"), s.links_expire === null ? "no link says" : moment(s.links_expire));
    text(at("expires-in"), s.links_expire === null ? "" : s.links_expire > s.time ? `in ${duration(s.links_expire - s.time)}` : "past, by the clock of this run");
    text(at("free"), doc.disk.free === null ? "unknown" : size(doc.disk.free));
    text(at("to-come"), s.bytes_total === null ? "unknown" : about + size(Math.max(0, s.bytes_total - s.bytes_done)));
    document.title = `${percent === "–" ? doc.state : percent} · osp-fetch`;
  };

  const drawTables = (doc) => {
    fill(at("hosts"), doc.hosts.map((h) => [
      h.host, rate(h.rate), size(h.bytes), number(h.open), h.limit === null ? "–" : number(h.limit),
      h.trouble ? { trouble: h.trouble } : h.why ? `${h.why} (${clock(h.changed)})` : "",
    ]), ["", "n", "n", "n", "n", "words"]);
    text(at("hosts-more"), doc.hosts_total > doc.hosts.length
      ? `${number(doc.hosts.length)} of ${plural(doc.hosts_total, "host")}: those in trouble, then the fastest` : plural(doc.hosts_total, "host"));
    const nodes = doc.status.nodes, shown = nodes.slice(0, 100);
    at("nodes-section").hidden = !nodes.length;
    fill(at("nodes"), shown.map((n) => [
      n.node, rate(n.bytes_per_second), size(n.bytes_received), number(n.connections), number(n.files), number(n.fetched),
      n.left === null ? "takes part" : { trouble: `has left: ${n.left}` },
    ]), ["", "n", "n", "n", "n", "n", "words"]);
    text(at("nodes-more"), nodes.length > shown.length ? `${number(shown.length)} of ${plural(nodes.length, "node")}: the fastest` : plural(nodes.length, "node"));
    fill(at("files"), doc.files.map((f) => [
      f.path, size(f.held), f.length === null ? "unknown" : size(f.length), rate(f.rate), number(f.connections), duration(f.seconds),
    ]), ["", "n", "n", "n", "n", "n"]);
    text(at("files-more"), `${plural(doc.files_open, "file")} in progress${doc.files_open > doc.files.length ? `; these are the ${doc.files.length} that began first` : ""}`);
    const retries = new Map(Object.entries(doc.status.retries));
    const rows = doc.failures.map((f) => {
      const again = retries.get(f.cause) || 0;
      retries.delete(f.cause);
      return [f.cause, number(f.count), number(again), f.examples.join(" · ")];
    });
    for (const [cause, count] of [...retries].sort((a, b) => b[1] - a[1]).slice(0, 30)) rows.push([cause, "0", number(count), ""]);
    fill(at("failures"), rows, ["", "n", "n", "words"]);
    text(at("failures-none"), rows.length ? "" : "none so far");
  };

  const drawLog = (lines) => {
    const node = at("log");
    const key = lines.length ? `${lines.length}/${lines[lines.length - 1].join()}` : "";
    if (node.dataset.key === key) return;
    node.dataset.key = key;
    at("log-none").hidden = lines.length > 0;
    node.replaceChildren(...lines.slice().reverse().map(([when, line]) => {
      const item = document.createElement("li"), time = document.createElement("time"), words = document.createElement("bdi");
      time.dateTime = new Date(when * 1000).toISOString();
      time.textContent = clock(when);
      words.textContent = line;
      item.append(time, words);
      return item;
    }));
  };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const label = (when, all) => {
    const spans = all.length > 1 ? all[all.length - 1] - all[0] : 0;
    return spans < 1200 ? clock(when) : spans < 86400 ? clock(when).slice(0, 5) : moment(when).slice(5);
  };
  const makeChart = () => {
    if (chart) chart.destroy();
    const line = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    const box = at("chart");
    chart = new uPlot({
      width: Math.max(200, box.clientWidth), height: 240, cursor: { y: false }, legend: { live: true },
      scales: { rate: { range: (u, low, high) => [0, Math.max(1024, (high || 0) * 1.1)] }, n: { range: (u, low, high) => [0, Math.max(4, (high || 0) * 1.2)] } },
      series: [
        { label: "time", value: (u, v) => (v === null ? "–" : moment(v)) },
        { label: "goodput", scale: "rate", stroke: colour("--accent"), fill: colour("--fill"), width: 2, value: (u, v) => (v === null ? "–" : rate(v)) },
        { label: "connections", scale: "n", stroke: colour("--warning"), width: 1.5, dash: [4, 3], value: (u, v) => (v === null ? "–" : v.toFixed(1)) },
      ],
      axes: [
        { ...line, values: (u, times) => times.map((t) => label(t, times)), space: 110 },
        { ...line, scale: "rate", size: 90, values: (u, values) => values.map(rate) },
        { ...line, scale: "n", side: 1, size: 40, grid: { show: false } },
      ],
    }, [[], [], []], box);
  };
  // bytes are counted when a buffer is full, so that single seconds of a slow run jump
  const smooth = (rows) => rows.map((row, n) => {
    const some = rows.slice(Math.max(0, n - 4), n + 1);
    return [row[0], some.reduce((sum, each) => sum + each[1], 0) / some.length, row[2]];
  });
  const drawChart = () => {
    const rows = span === "recent" ? smooth(recent) : whole.concat(recent.filter((row) => !whole.length || row[0] > whole[whole.length - 1][0]));
    if (!chart) makeChart();
    chart.setData([rows.map((r) => r[0]), rows.map((r) => r[1]), rows.map((r) => r[2])]);
    if (!rows.length) return text(at("chart-text"), "No sample yet.");
    const highest = rows.reduce((most, r) => Math.max(most, r[1]), 0);
    const mean = rows.reduce((sum, r) => sum + r[1], 0) / rows.length;
    return text(at("chart-text"), `Goodput now ${rate(rows[rows.length - 1][1])}, mean ${rate(mean)}, highest ${rate(highest)}; `
      + `${plural(Math.round(rows[rows.length - 1][2]), "connection")}.`);
  };

  const take = (doc) => {
    if (doc.run !== run) { run = doc.run; recent = []; whole = []; }  // another run works in the folder now
    recent = recent.concat(doc.recent).slice(-900);
    if (doc.whole) whole = doc.whole;
    last = doc;
    at("lost").hidden = true;
    drawHead(doc);
    drawTables(doc);
    drawLog(doc.log);
    drawChart();
    if (hasControls) {
      at("controls").hidden = doc.state === "ended" || doc.state === "stopped";
      at("pause").disabled = doc.state !== "running";
      at("resume").disabled = doc.state !== "paused";
      at("retry").disabled = !doc.status.counts.failed;
    }
    document.body.dataset.number = doc.number;
  };

  const isOver = () => last && (last.state === "ended" || last.state === "stopped");
  const lost = () => {
    const note = at("lost");
    note.className = isOver() ? "note" : "note bad";
    text(note, isOver() ? "The run has ended. This page goes on when another one begins."
      : `No connection to the run${last ? ` since ${clock(last.status.time)}` : ""}: it has ended or was killed, or the link is old. Trying again.`);
    note.hidden = false;
    if (isOver()) return;
    at("state").dataset.state = "lost";
    text(at("state"), "no connection");
  };
  const connect = () => {
    source = new EventSource("events");
    source.onmessage = (event) => take(JSON.parse(event.data));
    source.onerror = () => {
      lost();
      // a browser gives up after a refusal, but not after a lost connection
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
    };
  };

  const send = async (...words) => {
    const said = at("said");
    try {
      const answer = await fetch("command", {
        method: "POST", headers: { "Content-Type": "application/json", "X-Osp-Fetch": "1" },
        body: JSON.stringify({ command: words }),
      });
      const reply = await answer.json();
      text(said, reply.ok ? reply.said : reply.error);
    } catch {
      text(said, "The run cannot be reached.");
    }
  };
  const form = (id, words) => at(id).addEventListener("submit", (event) => {
    event.preventDefault();
    send(...words(new FormData(event.target, event.submitter)));
  });
  if (hasControls) {
    at("controls").hidden = false;
    at("pause").addEventListener("click", () => send("pause"));
    at("resume").addEventListener("click", () => send("resume"));
    at("retry").addEventListener("click", () => send("retry-failed"));
    at("stop").addEventListener("click", () => { if (confirm("Save what is held, and end the run?")) send("stop"); });
    form("form-rate", (data) => ["rate", data.get("rate")]);
    form("form-connections", (data) => ["connections", data.get("connections")]);
    form("form-host", (data) => ["host", data.get("host"), data.get("what") || "pause"]);
  }
  for (const name of ["recent", "whole"]) {
    at(`span-${name}`).addEventListener("click", () => {
      span = name;
      for (const each of ["recent", "whole"]) at(`span-${each}`).setAttribute("aria-pressed", String(each === span));
      makeChart();
      drawChart();
    });
  }
  addEventListener("resize", () => { if (chart) chart.setSize({ width: Math.max(200, at("chart").clientWidth), height: 240 }); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { makeChart(); drawChart(); });
  connect();
})();

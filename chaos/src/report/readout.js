// The read-out under the pointer. The page is complete without it.
(() => {
  const source = document.getElementById("data");
  const timeline = document.querySelector(".timeline");
  if (!source || !timeline) return;
  const { end, rows, faults } = JSON.parse(source.textContent);
  const readout = document.getElementById("readout");
  const plots = [...timeline.querySelectorAll(".plot")];
  const cursors = plots.map((plot) => plot.querySelector(".cursor"));
  const count = (value) => (value === null ? "–" : value.toLocaleString("en"));
  const micros = (value) =>
    value < 1e3 ? `${value} µs` : value < 1e6 ? `${(value / 1e3).toPrecision(3)} ms` : `${(value / 1e6).toPrecision(3)} s`;
  const clock = (ms) => `${Math.floor(ms / 60000)}:${((ms % 60000) / 1000).toFixed(2).padStart(5, "0")}`;

  const line = (name, value) => {
    const div = document.createElement("div");
    const label = document.createElement("span");
    const figure = document.createElement("b");
    label.textContent = name;
    figure.textContent = value;
    div.append(label, figure);
    return div;
  };

  const show = (ms, x, y) => {
    const row = rows.find((row) => ms >= row[0] && ms < row[1]);
    const [submitted, confirmed, canceled, refused, unknown] = row ? row[2] : [];
    readout.replaceChildren(line("at", clock(row ? row[0] : ms)));
    faults.forEach(([begun, ended, over, what, target], at) => {
      if (ms >= begun && ms <= Math.max(over, begun + end / 400))
        readout.append(line(`#${at + 1} ${what} ${target}`, ms <= ended ? "fault" : "drain"));
    });
    if (row) {
      const [unfinished, doubt, reservations] = row[4];
      const latency = row[3] ? row[3].map(micros) : ["–", "–", "–", "–"];
      for (const [name, value] of [
        ["submitted /s", count(submitted)], ["confirmed /s", count(confirmed)], ["canceled /s", count(canceled)],
        ["refused /s", count(refused)], ["unknown /s", count(unknown)],
        ["p50", latency[0]], ["p99", latency[1]], ["p99.9", latency[2]], ["max", latency[3]],
        ["unfinished", count(unfinished)], ["in doubt", count(doubt)], ["reservations", count(reservations)],
      ]) readout.append(line(name, value));
    }
    readout.hidden = false;
    const box = timeline.getBoundingClientRect();
    const right = x + 20 + readout.offsetWidth > box.right;
    readout.style.left = `${x - box.left + (right ? -16 - readout.offsetWidth : 16)}px`;
    readout.style.top = `${Math.min(y - box.top, box.height - readout.offsetHeight)}px`;
    for (const cursor of cursors) {
      cursor.hidden = false;
      cursor.style.left = `${(ms / end) * 100}%`;
    }
  };

  const hide = () => {
    readout.hidden = true;
    for (const cursor of cursors) cursor.hidden = true;
  };

  timeline.addEventListener("pointermove", (event) => {
    const plot = plots[0].getBoundingClientRect();
    const part = (event.clientX - plot.left) / plot.width;
    if (part < 0 || part > 1) hide();
    else show(Math.min(part * end, end - 1), event.clientX, event.clientY);
  });
  timeline.addEventListener("pointerleave", hide);
})();

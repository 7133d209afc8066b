// A job's page: asks for its changing parts again when an event tells that something happened, and draws the charts.
"use strict";

(() => {
  const KINDS = ["job.changed", "job.ended", "attempt.started", "attempt.ended", "trial.epoch", "trial.ended", "node.quarantined"];
  const PAUSE_MILLISECONDS = 400; // between two looks, however much happens
  const live = document.getElementById("live");
  const lost = document.getElementById("lost");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let charts = null;

  // One call at a time, and one more after it if it was asked for meanwhile
  function paced(work) {
    let busy = false, again = false;
    return async function ask() {
      if (busy) { again = true; return; }
      busy = true;
      try { await work(); } catch (error) { console.warn(error); }
      setTimeout(() => { busy = false; if (again) { again = false; ask(); } }, PAUSE_MILLISECONDS);
    };
  }

  const refresh = paced(() => htmx.trigger(live, "news"));
  const redraw = paced(async () => {
    const answer = await fetch(`/jobs/${live.dataset.job}/charts`);
    if (answer.ok) { charts = await answer.json(); await draw(); }
  });

  async function draw() {
    if (charts === null) return;
    const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    for (const [id, chart] of Object.entries(charts)) {
      const place = document.getElementById(id);
      if (place === null) continue;
      const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line"), automargin: true };
      const layout = {
        ...chart.layout,
        font: { color: color("--text"), family: "system-ui, sans-serif", size: 12 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        margin: { l: 48, r: 12, t: 36, b: 44 },
        hoverlabel: { align: "left" },
        xaxis: { ...axis, ...chart.layout.xaxis },
        yaxis: { ...axis, ...chart.layout.yaxis },
        uirevision: "kept", // a zoom stays when new data come
      };
      await Plotly.react(place, chart.data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
    }
  }

  function follow() {
    const address = `/api/v1/jobs/${live.dataset.job}/events?after=${live.dataset.lastEvent}`;
    const source = new EventSource(address); // goes on by itself after a break, at the last event that it has seen
    for (const kind of KINDS) source.addEventListener(kind, () => { refresh(); redraw(); });
    source.addEventListener("job.ended", () => source.close());
    source.onopen = () => { lost.hidden = true; };
    source.onerror = () => { lost.hidden = source.readyState !== EventSource.CONNECTING; };
    addEventListener("pagehide", () => source.close());
  }

  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !confirm(question)) event.preventDefault();
  });
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (button === null) return;
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  dark.addEventListener("change", draw);

  redraw();
  if (!live.hasAttribute("data-ended")) follow();
})();

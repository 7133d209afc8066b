// A job's page: asks for its changing parts again when an event tells that something happened, and draws the charts.
"use strict";

(() => {
  const KINDS = ["job.changed", "job.ended", "attempt.started", "attempt.ended", "trial.epoch", "trial.ended", "node.quarantined"];
  const PAUSE_MILLISECONDS = 400; // between two looks, however much happens
  const AGAIN_MILLISECONDS = 3000; // between two tries at a server that answers wrongly
  const live = document.getElementById("live");
  const lost = document.getElementById("lost");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const hasEnded = () => live.querySelector("[data-ended]") !== null;
  const told = () => live.querySelector("[data-last-event]").dataset.lastEvent;
  let charts = null, source = null, timer = null, seen = told();

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

  function look() {
    refresh();
    redraw();
  }

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

  // While a job goes on, its events tell when to look. What is shown decides whether there is more to follow: an ended
  // job can be extended or retried elsewhere, which htmx finds out by looking now and then.
  function follow() {
    const opened = new EventSource(`/api/v1/jobs/${live.dataset.job}/events?after=${seen}`);
    source = opened;
    for (const kind of KINDS) {
      opened.addEventListener(kind, (event) => { seen = event.lastEventId; look(); });
    }
    opened.addEventListener("job.ended", leave);
    opened.onopen = () => { lost.hidden = true; };
    opened.onerror = () => {
      lost.hidden = false;
      if (opened.readyState !== EventSource.CLOSED) return; // after a lost connection it tries again by itself
      leave(); // but not after an answer such as 502
      lookAgain();
    };
  }

  function leave() {
    source?.close();
    source = null;
  }

  function lookAgain() {
    clearTimeout(timer);
    timer = setTimeout(look, AGAIN_MILLISECONDS);
  }

  live.addEventListener("htmx:finally:request", (event) => {
    if (event.detail.ctx.response?.status !== 200) {
      lost.hidden = false;
      lookAgain();
    } else if (!hasEnded()) {
      if (source === null) follow();
    } else {
      lost.hidden = true;
      // It went on and has ended again between two looks, or a chart of an ended job has found its place only now
      if (seen !== told() || live.querySelector(".chart:empty") !== null) redraw();
      seen = told();
    }
  });
  addEventListener("pagehide", leave);
  addEventListener("pageshow", (event) => { if (event.persisted) refresh(); });

  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !confirm(question)) event.preventDefault();
  });
  dark.addEventListener("change", draw);

  redraw();
  if (!hasEnded()) follow();
})();

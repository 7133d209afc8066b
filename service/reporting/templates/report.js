// Draws a report's charts in the colors of the system. All that it needs is in this page.
"use strict";

(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");

  async function unpack() {
    const packed = document.getElementById("plotly");
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    packed.remove();
  }

  function themed(layout) {
    const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line"), automargin: true };
    const axes = Object.entries(layout).filter(([name]) => /^[xy]axis/.test(name));
    return {
      ...layout,
      xaxis: axis,
      yaxis: axis,
      ...Object.fromEntries(axes.map(([name, own]) => [name, { ...axis, ...own }])),
      font: { color: color("--text"), family: "system-ui, sans-serif", size: 12 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 48, r: 12, t: 36, b: 44 },
      hoverlabel: { align: "left" },
      autosize: true,
    };
  }

  async function draw(charts) {
    for (const [id, chart] of Object.entries(charts)) {
      const options = { responsive: true, displaylogo: false, displayModeBar: false };
      await Plotly.react(document.getElementById(id), chart.data, themed(chart.layout), options);
    }
    document.body.dataset.drawn = dark.matches ? "dark" : "light";
  }

  const stored = document.getElementById("charts");
  if (stored === null) return;
  const charts = JSON.parse(stored.textContent);
  unpack().then(() => {
    dark.addEventListener("change", () => draw(charts));
    return draw(charts);
  }).catch((error) => {
    console.error(error);
    document.getElementById("undrawn").hidden = false;
  });
})();

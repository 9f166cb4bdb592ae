"use strict";
// plotly.js lies in the page as base64 of gzip. Where it cannot be unpacked, the words in each chart's place stay.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}
function colours(dark) {
  const ink = dark ? "#d8d8d8" : "#222", grid = dark ? "#3a3d42" : "#ddd";
  return { ink, grid };
}
function dressed(layout, dark) {
  const { ink, grid } = colours(dark), narrow = window.innerWidth < 640;
  const made = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true };
  made.font = { color: ink, size: narrow ? 11 : 13, family: "system-ui, sans-serif" };
  made.legend = { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, ...layout.legend };
  made.hoverlabel = { align: "left" };
  for (const key of Object.keys(made)) {
    if (/^[xy]axis/.test(key)) made[key] = { ...made[key], gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true };
  }
  return made;
}
async function draw() {
  if (typeof DecompressionStream === "undefined") return;
  const script = document.createElement("script");
  script.textContent = await unpacked("plotly");
  document.head.append(script);
  const charts = [...document.querySelectorAll(".chart")];
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const show = (chart, dark) => {
    const figure = JSON.parse(chart.querySelector("script").textContent);
    const place = chart.querySelector(".place");
    if (!place.classList.contains("js-plotly-plot")) place.replaceChildren();
    place.style.height = chart.dataset.height + "px";
    return Plotly.react(place, figure.data, dressed(figure.layout, dark), { responsive: true, displaylogo: false, displayModeBar: false });
  };
  for (const chart of charts) {
    await show(chart, scheme.matches);
    await new Promise((resolve) => setTimeout(resolve)); // the page stays usable meanwhile
  }
  const all = (dark) => charts.forEach((chart) => show(chart, dark));
  scheme.addEventListener("change", () => all(scheme.matches));
  window.addEventListener("beforeprint", () => {
    all(false);
    document.querySelectorAll("details").forEach((one) => (one.open = true));
  });
  window.addEventListener("afterprint", () => all(scheme.matches));
  document.documentElement.dataset.drawn = charts.length;
}
draw();

/* Draws the charts of a page with plotly.

   Each <div data-chart id="X"> has its figure as JSON in <script id="X-data">. A chart is drawn when it comes near the
   screen, the rest while the browser is idle, those in a closed <details> when it opens. Colours are var(--name) in
   the JSON: they are looked up at drawing and again when the system turns dark or light. A drawn chart carries
   data-drawn="true" (or "failed"), the page data-charts="drawn" once every chart outside a closed <details> is. */
"use strict";
(function () {
  const root = document.documentElement;
  const charts = Array.from(document.querySelectorAll("[data-chart]"));
  const touch = window.matchMedia("(pointer: coarse)");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const settings = {
    responsive: true,
    displayModeBar: false, // its buttons would be focusable inside role="img"; a double click undoes a zoom
  };

  function paint(value, key, styles) {
    if (typeof value === "string") {
      const named = /color/i.test(key) && /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return named ? styles.getPropertyValue(named[1]).trim() : value;
    }
    if (Array.isArray(value)) {
      return value.map((entry) => paint(entry, key, styles));
    }
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, paint(entry, name, styles)]));
    }
    return value;
  }

  function hidden(chart) {
    return chart.closest("details:not([open])") !== null;
  }

  function tally() {
    const pending = charts.filter((chart) => !chart.dataset.drawn && !hidden(chart));
    const failed = charts.some((chart) => chart.dataset.drawn === "failed");
    root.dataset.charts = pending.length ? "drawing" : failed ? "failed" : "drawn";
  }

  // plotly measures texts in an invisible drawing that a screen reader would announce as an image without a name.
  function silence() {
    const tester = document.getElementById("js-plotly-tester");
    if (tester) tester.setAttribute("aria-hidden", "true");
  }

  function failed(chart, error) {
    chart.dataset.drawn = "failed";
    chart.textContent = "This chart could not be drawn; the numbers in the text still hold.";
    console.error("chart " + chart.id, error);
    tally();
  }

  function draw(chart) {
    if (hidden(chart)) return;
    watcher.unobserve(chart);
    chart.dataset.drawn = chart.dataset.drawn || "";
    try {
      const figure = JSON.parse(document.getElementById(chart.id + "-data").textContent);
      const styles = getComputedStyle(root);
      const layout = paint(figure.layout, "", styles);
      if (touch.matches) layout.dragmode = false; // or a finger on a chart could not scroll the page
      Plotly.react(chart, paint(figure.data, "", styles), layout, settings).then(
        () => { chart.dataset.drawn = "true"; silence(); tally(); },
        (error) => failed(chart, error)
      );
    } catch (error) {
      failed(chart, error);
    }
  }

  const watcher = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "600px" }
  );
  const whenIdle = window.requestIdleCallback || ((work) => setTimeout(work, 30));

  function drawRest() {
    const next = charts.find((chart) => chart.dataset.drawn === undefined && !hidden(chart));
    if (!next) return;
    draw(next);
    whenIdle(drawRest);
  }

  function redraw() {
    charts.filter((chart) => chart.dataset.drawn === "true").forEach(draw);
  }

  tally();
  charts.forEach((chart) => watcher.observe(chart));
  whenIdle(drawRest);
  dark.addEventListener("change", redraw);
  document.querySelectorAll("details").forEach((details) => {
    details.addEventListener("toggle", () => { tally(); whenIdle(drawRest); });
  });
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((details) => { details.open = true; });
    charts.filter((chart) => chart.dataset.drawn !== "true").forEach(draw);
  });
})();

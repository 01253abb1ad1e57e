"use strict";
// Unpacks plotly, draws a figure when it comes near the screen (and the rest when the browser is idle),
// follows the theme, and fits figures to narrow screens and to paper.
(() => {
  const root = document.documentElement;
  const plots = [...document.querySelectorAll(".plot")];
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const PAPER_WIDTH = 660;
  const PAPER_SCALE = 0.8;
  const NARROW = 560;
  // Pixels of a letter and of the sign in a narrow figure's legend, and of the labels left of it.
  const LETTER = 6;
  const SIGN = 40;
  const LABELS = 80;
  let onPaper = false;

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const isAxis = (key) => /^[xy]axis\d*$/.test(key);

  function themed(layout) {
    const ink = onPaper ? "#000" : colour("--ink");
    const grid = onPaper ? "#ddd" : colour("--grid");
    const changes = {
      "font.color": ink,
      "hoverlabel.bgcolor": colour("--surface"),
      "hoverlabel.font.color": colour("--ink"),
      "hoverlabel.bordercolor": colour("--soft"),
      "modebar.color": colour("--soft"),
      "modebar.activecolor": ink,
      "modebar.bgcolor": "rgba(0,0,0,0)",
    };
    for (const key of Object.keys(layout).filter(isAxis)) {
      changes[`${key}.gridcolor`] = grid;
      changes[`${key}.zerolinecolor`] = colour("--soft");
    }
    return changes;
  }

  function sized(plot) {
    const width = onPaper ? PAPER_WIDTH : plot.clientWidth;
    const narrow = width < NARROW;
    const entries = figures[plot.dataset.figure].data.filter((trace) => trace.showlegend !== false);
    const longest = Math.max(0, ...entries.map((trace) => (trace.name || "").length));
    const columns = longest * LETTER + SIGN < (width - LABELS) / 2 ? 2 : 1;
    const extra = narrow && entries.length > 2 ? Math.ceil(entries.length / columns) * 16 : 0;
    const height = Math.round(Number(plot.dataset.height) * (onPaper ? PAPER_SCALE : 1)) + extra;
    plot.style.height = `${height}px`;
    return { width, height, autosize: false, "font.size": narrow || onPaper ? 11 : 13 };
  }

  // Labels that would overlap at this width are left to hovering.
  function labelled(plot) {
    const width = onPaper ? PAPER_WIDTH : plot.clientWidth;
    return figures[plot.dataset.figure].data.map((trace) => (
      trace.meta && trace.meta.need > width ? { ...trace, mode: trace.meta.otherwise } : trace));
  }

  function drawing(plot) {
    const full = { ...figures[plot.dataset.figure].layout };
    for (const [path, value] of Object.entries({ ...themed(full), ...sized(plot) })) assign(full, path, value);
    return full;
  }

  function draw(plot) {
    if (plot.dataset.drawn || !window.Plotly) return;
    plot.dataset.drawn = "yes";
    const { layout } = figures[plot.dataset.figure];
    const config = { displaylogo: false, responsive: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
    if (!layout.dragmode) config.displayModeBar = false;
    try {
      window.Plotly.newPlot(plot, labelled(plot), drawing(plot), config);
    } catch (error) {
      fail(plot, "This figure could not be drawn; its data are in the table below.");
      console.error(error);
    }
  }

  function assign(target, path, value) {
    const keys = path.split(".");
    const last = keys.pop();
    let at = target;
    for (const key of keys) at = at[key] = { ...(at[key] || {}) };
    at[last] = value;
  }

  function redraw() {
    for (const plot of plots.filter((p) => p.dataset.drawn && p._fullLayout)) {
      window.Plotly.react(plot, labelled(plot), drawing(plot));
    }
  }

  function fail(plot, message) {
    plot.textContent = message;
    plot.classList.add("failed");
  }

  async function unpack() {
    if (!("DecompressionStream" in window)) throw new Error("this browser is too old to unpack the figures");
    const text = atob(document.getElementById("plotly-gzip").textContent.trim());
    const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    if (!window.Plotly) throw new Error("the figures' program did not start");
  }

  function watch() {
    const near = new IntersectionObserver((seen) => {
      for (const entry of seen.filter((item) => item.isIntersecting)) {
        near.unobserve(entry.target);
        draw(entry.target);
      }
    }, { rootMargin: "600px" });
    plots.forEach((plot) => near.observe(plot));
    const later = window.requestIdleCallback || ((run) => setTimeout(run, 200));
    const rest = () => {
      const next = plots.find((plot) => !plot.dataset.drawn);
      if (next) { draw(next); later(rest); } else root.dataset.figures = "drawn";
    };
    later(rest);
  }

  function theme(choice) {
    root.dataset.theme = choice;
    showTheme();
    redraw();
  }

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
  }

  function showTheme() {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
    button.setAttribute("aria-pressed", String(isDark()));
  }

  function paper(state) {
    onPaper = state;
    plots.forEach(draw);
    redraw();
  }

  button.addEventListener("click", () => theme(isDark() ? "light" : "dark"));
  dark.addEventListener("change", () => { showTheme(); redraw(); });
  const print = matchMedia("print");
  print.addEventListener("change", () => paper(print.matches));
  addEventListener("beforeprint", () => paper(true));
  addEventListener("afterprint", () => paper(print.matches));
  let pending;
  let lastWidth = innerWidth;
  addEventListener("resize", () => {
    if (onPaper || innerWidth === lastWidth) return;
    lastWidth = innerWidth;
    clearTimeout(pending);
    pending = setTimeout(redraw, 100);
  });
  showTheme();
  if (plots.length) {
    unpack().then(watch).catch((error) => {
      plots.forEach((plot) => fail(plot, `Figures are not shown: ${error.message}. Their data are in the tables.`));
      console.error(error);
    });
  } else root.dataset.figures = "drawn";
})();

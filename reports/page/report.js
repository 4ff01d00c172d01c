// What moves in report.html: tables that sort, figures with a choice of charts. The data is the JSON in #data; Chart.js
// draws. Text from it only ever becomes text nodes.
"use strict";

(() => {
  const root = document.documentElement;
  const errors = [];
  root.dataset.errors = "0";
  addEventListener("error", (event) => {
    errors.push(event.message);
    root.dataset.errors = String(errors.length);
    root.dataset.error = errors[0];
  });

  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const colours = (name) => getComputedStyle(root).getPropertyValue(name).trim().split(/\s+/);
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const faded = (hex, alpha) => hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
  const number = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e15 || size < 1e-6) return value.toExponential(3);
    const places = Math.min(8, Math.max(0, 3 - Math.floor(Math.log10(size))));
    return value.toLocaleString("en-US", { maximumFractionDigits: places });
  };

  // ---- tables ----

  const sortKey = (cell) => ("value" in cell.dataset ? Number(cell.dataset.value) : null);

  function sortBy(table, column, button) {
    const heading = button.closest("th");
    const ascending = heading.getAttribute("aria-sort") === "descending" ||
      (!heading.hasAttribute("aria-sort") && heading.dataset.first !== "descending");
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = table.tBodies[0];
    const isText = heading.classList.contains("text");
    const rows = Array.from(body.rows, (row) => ({
      row,
      key: isText ? row.cells[column].textContent.trim() : sortKey(row.cells[column]),
    }));
    rows.sort((a, b) => {
      // What has no value stands last, whichever way.
      const emptyA = a.key === null || a.key === "", emptyB = b.key === null || b.key === "";
      if (emptyA || emptyB) return emptyA - emptyB;
      const order = isText ? a.key.localeCompare(b.key, "en", { numeric: true }) : a.key - b.key;
      return ascending ? order : -order;
    });
    body.append(...rows.map((entry) => entry.row));
  }

  for (const table of document.querySelectorAll("table.sortable"))
    Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
      const button = element("button", { type: "button", title: "Sort by this column" });
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sortBy(table, column, button));
      heading.append(button);
    });

  // ---- charts ----

  const marks = ["circle", "rect", "triangle", "rectRot", "triangle down", "circle open", "rect open", "triangle open", "rectRot open", "triangle down open"]
    .map((words) => ({ style: words.split(" ")[0], rotation: words.includes("down") ? 180 : 0, isOpen: words.includes("open") }));
  const dashes = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
  const shownAtFirst = 10;

  const look = (series) => {
    const palette = colours("--series");
    const index = Math.max(series.colour, 0);
    return {
      colour: series.style === "front" ? colour("--muted") : palette[index % palette.length],
      mark: marks[index % marks.length],
      dash: series.style === "front" ? [6, 4] : series.style === "reference" ? [3, 3]
        : dashes[Math.floor(index / palette.length) % dashes.length],
    };
  };

  /// Bars of the ranges over the points of each visible series.
  const errorBars = {
    id: "errorBars",
    afterDatasetsDraw(chart) {
      const { ctx, chartArea: area, scales: { x, y } } = chart;
      ctx.save();
      ctx.beginPath();
      ctx.rect(area.left, area.top, area.right - area.left, area.bottom - area.top);
      ctx.clip();
      ctx.lineWidth = 1.5;
      chart.data.datasets.forEach((dataset, index) => {
        if (!dataset.hasBars || !chart.isDatasetVisible(index)) return;
        ctx.strokeStyle = dataset.borderColor;
        for (const point of dataset.data) {
          const px = x.getPixelForValue(point.x), py = y.getPixelForValue(point.y);
          ctx.beginPath();
          if (point.y_range) {
            const [low, high] = point.y_range.map((value) => y.getPixelForValue(value));
            ctx.moveTo(px, low); ctx.lineTo(px, high);
            for (const end of [low, high]) { ctx.moveTo(px - 4, end); ctx.lineTo(px + 4, end); }
          }
          if (point.x_range) {
            const [low, high] = point.x_range.map((value) => x.getPixelForValue(value));
            ctx.moveTo(low, py); ctx.lineTo(high, py);
            for (const end of [low, high]) { ctx.moveTo(end, py - 4); ctx.lineTo(end, py + 4); }
          }
          ctx.stroke();
        }
      });
      ctx.restore();
    },
  };

  function datasetsOf(chart, hidden) {
    const datasets = [];
    chart.series.forEach((series, index) => {
      const { colour: hue, mark, dash } = look(series);
      const isLine = series.style !== "points";
      const isGuide = series.style === "front" || series.style === "reference";
      const dataset = {
        series: index,
        label: series.name,
        data: series.points,
        hidden: hidden.has(index),
        showLine: isLine,
        borderColor: hue,
        backgroundColor: mark.isOpen ? colour("--card") : faded(hue, 0.85),
        borderWidth: isGuide ? 1.5 : 2,
        borderDash: dash,
        pointStyle: mark.style,
        pointRotation: mark.rotation,
        pointRadius: isGuide ? 0 : series.style === "points" ? 6 : series.points.length > 25 ? 0 : 4,
        pointHoverRadius: isGuide ? 0 : 8,
        pointHitRadius: isGuide ? 0 : 8,
        hasBars: series.style === "points" || series.style === "line",
        order: isGuide ? 2 : 1,
        fill: false,
      };
      datasets.push(dataset);
      if (series.style !== "band" || !series.points.some((point) => point.y_range)) return;
      const edge = (end) => ({
        series: index, label: series.name, hidden: hidden.has(index), isEdge: true, showLine: true, borderWidth: 0,
        pointRadius: 0, pointHitRadius: 0, pointHoverRadius: 0, order: 3, backgroundColor: faded(hue, 0.16),
        data: series.points.map((point) => ({ x: point.x, y: (point.y_range || [point.y, point.y])[end] })),
      });
      datasets.push({ ...edge(0), fill: false }, { ...edge(1), fill: "-1" });
    });
    return datasets;
  }

  function extent(chart, axis, hidden) {
    let low = Infinity, high = -Infinity;
    chart.series.forEach((series, index) => {
      if (hidden.has(index)) return;
      for (const point of series.points)
        for (const value of [point[axis], ...(point[axis + "_range"] || [])]) {
          if (chart[axis].logarithmic && value <= 0) continue;
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
    });
    if (low > high) return {};
    const isCurve = axis === "x" && chart.series.some((series) => series.style === "band");
    if (isCurve && high > low) return { min: low - (high - low) * 0.02, max: high + (high - low) * 0.02 };
    if (chart[axis].logarithmic) {
      const factor = Math.max(Math.pow(high / low, 0.06), 1.05);
      return { min: low / factor, max: high * factor };
    }
    const margin = high > low ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 1;
    return { min: low - margin, max: high + margin };
  }

  function axisOptions(chart, name, hidden) {
    const axis = chart[name];
    /// As many places as the distance of the ticks needs, the same for all.
    const isRound = (value) => [1, 2, 5].includes(Math.round(value / Math.pow(10, Math.floor(Math.log10(value) + 1e-9)) * 1e6) / 1e6);
    const callback = axis.ticks.length ? (value) => number(value)
      : axis.logarithmic ? (value) => isRound(value) ? number(value) : ""
      : function (value, index, ticks) { return Chart.Ticks.formatters.numeric.call(this, value, index, ticks); };
    return {
      type: axis.logarithmic ? "logarithmic" : "linear",
      ...extent(chart, name, hidden),
      title: { display: true, text: axis.label, color: colour("--text") },
      grid: { color: colour("--line"), borderColor: colour("--muted"), drawOnChartArea: name === "y" },
      ticks: { color: colour("--muted"), maxRotation: 0, autoSkipPadding: 12, includeBounds: false, callback },
      afterBuildTicks(scale) {
        if (axis.ticks.length) scale.ticks = axis.ticks.map((value) => ({ value }));
      },
    };
  }

  function tooltipLines(item) {
    const point = item.raw, chart = item.chart.source;
    const value = (axis) => number(point[axis]) +
      (point[axis + "_range"] ? " ± " + number((point[axis + "_range"][1] - point[axis + "_range"][0]) / 2) : "");
    return [point.label || item.dataset.label, chart.x.label + ": " + value("x"), chart.y.label + ": " + value("y")];
  }

  function draw(canvas, chart, hidden) {
    const made = new Chart(canvas, {
      type: "scatter",
      data: { datasets: datasetsOf(chart, hidden) },
      plugins: [errorBars],
      options: {
        animation: false,
        maintainAspectRatio: false,
        normalized: true,
        interaction: { mode: "nearest", intersect: true },
        scales: { x: axisOptions(chart, "x", hidden), y: axisOptions(chart, "y", hidden) },
        plugins: {
          legend: { display: false },
          tooltip: {
            filter: (item) => !item.dataset.isEdge,
            callbacks: { title: () => "", label: tooltipLines },
            displayColors: false,
          },
        },
      },
    });
    made.source = chart;
    return made;
  }

  function legendMark(series) {
    const { colour: hue, dash, mark } = look(series);
    const canvas = element("canvas", { width: 44, height: 24 });
    canvas.style.cssText = "width:22px;height:12px;flex:none";
    const ctx = canvas.getContext("2d");
    ctx.scale(2, 2);
    ctx.strokeStyle = ctx.fillStyle = hue;
    ctx.lineWidth = 2;
    if (series.style !== "points") {
      ctx.setLineDash(dash);
      ctx.beginPath(); ctx.moveTo(0, 6); ctx.lineTo(22, 6); ctx.stroke();
      ctx.setLineDash([]);
    }
    if (series.style !== "front" && series.style !== "reference") {
      if (mark.isOpen) ctx.fillStyle = colour("--card");
      Chart.helpers.drawPoint(ctx, { pointStyle: mark.style, radius: 4, borderWidth: 1.5, rotation: mark.rotation }, 11, 6);
    }
    return canvas;
  }

  const hasPixels = (canvas) => canvas.width > 0 &&
    canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((byte) => byte !== 0);

  /// A figure with charts, of which the select shows one.
  function chartFigure(figure, charts) {
    const head = figure.querySelector(".figure-head");
    const canvas = element("canvas", { role: "img" });
    const legend = element("div", { className: "legend" });
    const caption = element("figcaption");
    figure.append(element("div", { className: "canvas-box" }, canvas), legend, caption);
    let drawn = null, shown = 0;
    const hiddenOf = charts.map((chart) => {
      const hidden = new Set();
      let counted = 0;
      chart.series.forEach((series, index) => {
        const isGuide = series.style === "front" || series.style === "reference";
        if (!isGuide && counted++ >= shownAtFirst) hidden.add(index);
      });
      return hidden;
    });

    function show() {
      const chart = charts[shown], hidden = hiddenOf[shown];
      if (drawn) drawn.destroy();
      drawn = draw(canvas, chart, hidden);
      canvas.setAttribute("aria-label", chart.title);
      canvas.dataset.drawn = String(hasPixels(canvas));
      caption.textContent = chart.caption;
      legend.replaceChildren(...(chart.series.length < 2 ? [] : chart.series.map((series, index) => {
        const button = element("button", { type: "button", title: "Show or hide" }, legendMark(series), element("span", { textContent: series.name }));
        button.setAttribute("aria-pressed", String(!hidden.has(index)));
        button.addEventListener("click", () => {
          if (!hidden.delete(index)) hidden.add(index);
          show();
          legend.children[index].focus();
        });
        return button;
      })));
    }
    addSelect(head, charts, (index) => { shown = index; show(); });
    show();
    return show;
  }

  function addSelect(head, choices, choose) {
    if (choices.length < 2) return;
    const select = element("select", {}, ...choices.map((one, index) => element("option", { value: String(index), textContent: one.choice })));
    select.setAttribute("aria-label", "What is shown");
    select.addEventListener("change", () => choose(Number(select.value)));
    head.append(select);
  }

  // ---- heat maps ----

  function mixed(stops, share) {
    const at = share * (stops.length - 1), index = Math.min(Math.floor(at), stops.length - 2);
    const part = (hex, offset) => parseInt(hex.slice(offset, offset + 2), 16);
    return [1, 3, 5].map((offset) => {
      const from = part(stops[index], offset), to = part(stops[index + 1], offset);
      return Math.round(from + (to - from) * (at - index));
    });
  }

  function heatFigure(figure, maps) {
    const head = figure.querySelector(".figure-head");
    const panels = element("div", { className: "heat-panels" });
    const caption = element("figcaption");
    figure.append(panels, caption);
    let shown = 0;

    function show() {
      const map = maps[shown];
      const values = map.panels.flatMap((panel) => panel.cells.flat()).filter(Boolean).map((cell) => cell.value);
      const low = Math.min(...values), high = Math.max(...values);
      const isLogarithmic = low > 0 && high / low >= 30;
      const share = (value) => high === low ? 0 : isLogarithmic ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
      const stops = colours("--heat");
      panels.replaceChildren(...map.panels.map((panel) => {
        const table = element("table");
        if (panel.name) table.append(element("caption", { textContent: panel.name }));
        const corner = element("th", { textContent: map.row_label + " \u2193  " + map.column_label + " \u2192" });
        corner.className = "muted";
        table.append(element("thead", {}, element("tr", {}, corner, ...map.columns.map((value) => element("th", { scope: "col", textContent: number(value) })))));
        table.append(element("tbody", {}, ...map.rows.map((row, r) => element("tr", {}, element("th", { scope: "row", textContent: number(row) }),
          ...map.columns.map((_, c) => {
            const cell = panel.cells[r][c];
            if (!cell) return element("td", { textContent: "\u2013" });
            const made = element("td", { textContent: cell.text, title: map.value_label });
            const rgb = mixed(stops, share(cell.value));
            const luminance = (0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]) / 255;
            made.style.background = "rgb(" + rgb.join(",") + ")";
            made.style.color = luminance > 0.45 ? "#111" : "#fff";
            return made;
          })))));
        const box = element("div", { className: "scroll", tabIndex: 0 }, table);
        return box;
      }));
      panels.dataset.cells = String(values.length);
      caption.textContent = map.value_label + (map.more_is_better ? "; more is better." : "; less is better.") + (map.caption ? " " + map.caption : "");
    }
    addSelect(head, maps, (index) => { shown = index; show(); });
    show();
    return show;
  }

  // ---- all of it ----

  const data = JSON.parse(document.getElementById("data").textContent);
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.font.size = 13;
  const redraw = [];
  for (const figure of document.querySelectorAll("figure[data-figure]")) {
    const { kind, charts } = data.figures[Number(figure.dataset.figure)];
    redraw.push((kind === "heat_map" ? heatFigure : chartFigure)(figure, charts));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw.forEach((show) => show()));
  root.dataset.figures = String(redraw.length);
})();

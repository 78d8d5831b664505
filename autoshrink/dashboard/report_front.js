"use strict";

// The figure of a front under the reader's limits and on the axis of their choice.
//
// `state`: {axis: place among target.axes, own: values as they are instead of ratios, log: null for the figure's own
// scale, limits, answer: of pickByLimits.choose}. The figure comes without limits and without an arrow at the pick.
const frontView = (() => {
  const HOLLOW = "-open";
  const LOGARITHMIC = 3;
  // A technique has a form of its own, so that its colour is not its only sign.
  const FORMS = ["circle", "square", "diamond", "triangle-up", "pentagon", "hexagon", "triangle-down", "cross"];
  const [SMALLEST, GROWTH] = [8, 16];

  function drawn(figure, target, state) {
    const axis = target.axes[state.axis];
    const x = state.own ? axis.own : axis.ratio;
    const log = state.log ?? isWide(Object.values(x));
    const keeping = new Set(state.answer.fitting.map((candidate) => candidate.number));
    const groups = [...new Set(figure.data.filter((trace) => trace.customdata).map((trace) => trace.legendgroup))];
    const data = figure.data.map((trace) => {
      if (!trace.customdata) return staircase(trace, target, x);
      return points(trace, target, axis, x, keeping, FORMS[groups.indexOf(trace.legendgroup) % FORMS.length]);
    });
    const place = (value) => (log ? Math.log10(value) : value);
    const layout = {
      ...figure.layout,
      uirevision: `${state.axis} ${state.own} ${log}`,
      xaxis: { ...figure.layout.xaxis, ...scale(Object.values(x), log), title: titled(figure, axis, state) },
      shapes: [...(figure.layout.shapes ?? [])],
      annotations: [...(figure.layout.annotations ?? [])],
    };
    for (const limit of state.limits) drawLimit(layout, target, axis, state, limit, place);
    if (state.answer.pick) pointAt(layout, target, state.answer.pick, x, place);
    return { data, layout };
  }

  // Whether values span so much that only their logarithms are told apart.
  const isWide = (values) => Math.min(...values) > 0 && Math.max(...values) >= LOGARITHMIC * Math.min(...values);

  function titled(figure, axis, state) {
    return { ...figure.layout.xaxis.title, text: axis.titles[state.own ? 1 : 0] };
  }

  function scale(values, log) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    if (!log) {
      const room = 0.06 * (high - low || high);
      return { type: "linear", range: [Math.max(0, low - room), high + room], tickvals: null, ticktext: null };
    }
    const ticks = [];
    for (let power = -6; power <= 6; power += 1) for (const digit of [1, 2, 5]) ticks.push(Number(`${digit}e${power}`));
    return {
      type: "log",
      range: [Math.log10(low * 0.7), Math.log10(high * 1.2)],
      tickvals: ticks,
      ticktext: ticks.map((tick) => pickByLimits.general(tick, 6)),
    };
  }

  function points(trace, target, axis, x, keeping, form) {
    // What keeps the limits comes first: the legend shows the first of each trace.
    const order = [...trace.customdata.keys()].sort(
      (a, b) => keeping.has(trace.customdata[b]) - keeping.has(trace.customdata[a]) || a - b,
    );
    const inOrder = (values) => (Array.isArray(values) ? order.map((i) => values[i]) : values);
    const numbers = inOrder(trace.customdata);
    const marker = Object.fromEntries(Object.entries(trace.marker).map(([key, value]) => [key, inOrder(value)]));
    const symbols = Array.isArray(marker.symbol) ? marker.symbol : numbers.map(() => marker.symbol ?? "circle");
    marker.symbol = symbols.map((symbol, i) => {
      const filled = symbol.replace(HOLLOW, "").replace(/^(x-thin|circle)$/, form);
      return keeping.has(numbers[i]) ? filled : filled + HOLLOW;
    });
    const other = target.axes.find((each) => (each.name === "latency") !== (axis.name === "latency"));
    if (Array.isArray(marker.size) && other) {
      const largest = Math.max(...Object.values(other.own));
      marker.size = numbers.map((number) => SMALLEST + GROWTH * Math.sqrt((other.own[number] ?? 0) / largest));
    }
    const errors = trace.error_y && {
      ...trace.error_y,
      array: inOrder(trace.error_y.array),
      arrayminus: inOrder(trace.error_y.arrayminus),
    };
    return {
      ...trace,
      x: numbers.map((number) => x[number] ?? null),
      y: inOrder(trace.y),
      text: inOrder(trace.text),
      customdata: numbers,
      marker,
      ...(errors && { error_y: errors }),
    };
  }

  // Along the members of the front that no other beats in the metric and on this axis.
  function staircase(trace, target, x) {
    const members = target.members
      .filter((number) => number in x)
      .map((number) => [x[number], target.values[number]])
      .sort((a, b) => a[0] - b[0] || b[1] - a[1]);
    const corners = [];
    for (const corner of members) {
      if (!corners.length || corner[1] > corners[corners.length - 1][1]) corners.push(corner);
    }
    return { ...trace, x: corners.map((corner) => corner[0]), y: corners.map((corner) => corner[1]) };
  }

  function drawLimit(layout, target, axis, state, limit, place) {
    const line = { type: "line", line: { dash: "dash", color: target.colours.limit, width: 1.4 } };
    const label = { showarrow: false, font: { color: target.colours.limit, size: 12 } };
    const text = `limit ${pickByLimits.textOf(limit, limit.value)}`;
    if (limit.name === "drop" && !limit.figure && target.level.of !== null) {
      const y = (target.level.of - limit.value) * target.level.factor;
      layout.shapes.push({ ...line, x0: 0, x1: 1, xref: "paper", y0: y, y1: y });
      layout.annotations.push({ ...label, text, x: 1, xref: "paper", y, xanchor: "right", yanchor: "bottom" });
      return;
    }
    const most = limit.name === "throughput" ? (1000 * target.batch) / limit.value : limit.value;
    const of = limit.name === "throughput" ? "latency_ms" : limit.name;
    if (limit.figure || of !== axis.limit) return;
    const x = state.own ? most / axis.factor : most / axis.of_baseline;
    layout.shapes.push({ ...line, x0: x, x1: x, y0: 0, y1: 1, yref: "paper" });
    layout.annotations.push({
      ...label, text, x: place(x), y: 1, yref: "paper", yanchor: "top", xanchor: "left", textangle: -90,
    });
  }

  function pointAt(layout, target, pick, x, place) {
    if (!(pick.number in x) || !(pick.number in target.values)) return;
    layout.annotations.push({
      text: "chosen",
      x: place(x[pick.number]),
      y: target.values[pick.number],
      // Nothing lies up and to the left of a trial on the front.
      ax: -38,
      ay: -46,
      arrowhead: 2,
      arrowwidth: 1.2,
      arrowcolor: target.colours.ink,
      standoff: 9,
      font: { color: target.colours.ink, size: 12.5 },
    });
  }

  return { drawn, isWide };
})();

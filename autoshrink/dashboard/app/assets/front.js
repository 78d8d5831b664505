/* The page Front: boxes and sliders of limits go together; a point or a row that is clicked is selected. */

window.dash_clientside = window.dash_clientside || {};

(function () {
  const UNITS = {
    max_latency: { us: 1e-3, "µs": 1e-3, ms: 1, s: 1e3 },
    max_size: { b: 1, kb: 1e3, mb: 1e6, gb: 1e9, kib: 1024, mib: 1048576, gib: 1073741824 },
    min_throughput: { "/s": 1, "rows/s": 1 },
    max_drop: { "%": 0.01, points: 0.01, "": 1 },
  };
  const BARE = { max_latency: "ms", max_size: "MB", min_throughput: "/s" };
  /* In the order in which the server names them. */
  const NAMES = ["max_latency", "min_throughput", "max_size", "max_drop"];
  const STEPS = 1000;
  const nothing = () => window.dash_clientside.no_update;

  function withUnit(name, text, scale) {
    const bare = /^\s*[0-9.]+\s*$/.test(text);
    if (!bare) return text.trim();
    return text.trim() + (name in BARE ? BARE[name] : scale.units[0][1]);
  }

  /* The value of a text such as `0.5ms`; NaN where it is none. The server reads it again, and says what is wrong. */
  function read(name, text) {
    const parts = /^\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-zµ%/]*)\s*$/.exec(text || "");
    const factor = parts ? UNITS[name][parts[2].toLowerCase()] : undefined;
    return factor === undefined ? NaN : Number(parts[1]) * factor;
  }

  function write(value, scale) {
    const [factor, unit] = scale.units.find(([factor]) => value >= factor) || scale.units[scale.units.length - 1];
    return Number((value / factor).toPrecision(3)) + unit;
  }

  function place(value, scale) {
    const { low, high } = scale;
    const share = scale.logarithmic ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    return Math.round(STEPS * Math.min(1, Math.max(0, Number.isFinite(share) ? share : 1)));
  }

  function at(position, scale) {
    const share = position / STEPS;
    const { low, high } = scale;
    return scale.logarithmic ? low * (high / low) ** share : low + share * (high - low);
  }

  function couple(text, position, scales, id) {
    const scale = (scales || {})[id.name];
    if (!scale) return [nothing(), nothing()];
    const open = scale.at_least ? 0 : STEPS;
    const changed = window.dash_clientside.callback_context.triggered_id;
    if (changed && changed.type === "limit-slider") {
      const most = Number(position);
      /* At its end a slider takes the limit away; where the target has one of its own, it is lifted. */
      if (most === open) return [scale.own === null ? "" : write(at(open, scale), scale), nothing()];
      return [write(at(most, scale), scale), nothing()];
    }
    if (!text) return [nothing(), scale.own === null ? open : place(scale.own, scale)];
    const whole = withUnit(id.name, text, scale);
    const value = read(id.name, whole);
    return [whole === text ? nothing() : whole, Number.isNaN(value) ? nothing() : place(value, scale)];
  }

  /* A slider says its value in words, not in steps; the figure what is in it. */
  function say(scales, said, ...texts) {
    document.getElementById("front-frame")?.setAttribute("aria-label", said || "The front");
    NAMES.forEach((name, i) => {
      const element = document.getElementById(`{"name":"${name}","type":"limit-slider"}`);
      const scale = (scales || {})[name];
      const own = scale && scale.own !== null ? `${write(scale.own, scale)}, the target's own limit` : "no limit";
      element?.setAttribute("aria-valuetext", texts[i] || own);
    });
    return nothing();
  }

  function chosen(clicked, target) {
    const point = clicked && clicked.points && clicked.points[0];
    if (!point || !Array.isArray(point.customdata)) return [nothing(), nothing()];
    const [number, of] = point.customdata;
    return [number, of === target ? "" : of];
  }

  function chosenRow(rows, number) {
    if (!rows || !rows.length || rows[0].number === number) return [nothing(), nothing()];
    return [rows[0].number, ""];
  }

  function chosenMiss(clicks) {
    const changed = window.dash_clientside.callback_context.triggered_id;
    return changed && clicks.some(Boolean) ? [changed.number, ""] : [nothing(), nothing()];
  }

  function relax(clicks, ids) {
    const changed = window.dash_clientside.callback_context.triggered_id;
    if (!changed || !clicks.some(Boolean)) return NAMES.map(nothing);
    const values = JSON.parse(changed.to);
    return NAMES.map((name) => (name in values ? values[name] : nothing()));
  }

  /* How several targets are arranged is asked only where there are several. */
  function several(beside) {
    return beside && beside.length ? "" : "hidden";
  }

  /* The table waits for the figure, which one looks at first. */
  function whenDrawn() {
    return new Promise((resolve) => {
      if (document.querySelector("#front-plot .main-svg")) resolve(true);
      else window.autoshrink.onDrawn((plot) => plot.closest("#front-plot") && resolve(true));
    });
  }

  window.dash_clientside.front = { couple, say, chosen, chosenRow, chosenMiss, relax, several, whenDrawn };
})();

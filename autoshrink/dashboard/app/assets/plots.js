/* What is done to every plot: `window.autoshrink.onDrawn(plot => ...)` is told of each drawing, and what the reader made
   of a plot's axes is kept when news of the study draw it anew.

   Plotly does so for equal `uirevision`, by what the axes were before the reader touched them; Dash 4.4 tells plotly the
   touched layout as if it were the figure's own, after which plotly knows of no touch. */

(function () {
  const AXIS = /^[xy]axis[0-9]*$/;
  const told = [];
  window.autoshrink = { ...window.autoshrink, onDrawn: (then) => told.push(then) };

  function alike(one, other) {
    if (!one || !other) return one === other;
    const span = Math.abs(other[1] - other[0]) || 1;
    return [0, 1].every((end) => one[end] === other[end] || Math.abs(one[end] - other[end]) < 1e-9 * span);
  }

  /* The figure with the ranges that the reader moved to; `plot.given` are those that figures brought. */
  function kept(plot, figure) {
    const layout = figure && figure.layout;
    if (!layout || !plot || layout.uirevision === undefined) return figure;
    const shown = plot._fullLayout;
    const same = shown && plot.layout && plot.layout.uirevision === layout.uirevision;
    if (!same) plot.given = {};
    const given = plot.given = plot.given || {};
    const moved = {};
    for (const name of Object.keys(layout).filter((key) => AXIS.test(key))) {
      const asked = layout[name].range && layout[name].autorange !== true ? [...layout[name].range] : null;
      const axis = same ? shown[name] : undefined;
      if (axis && name in given) {
        if (alike(asked, axis.range)) continue;
        /* A double click leaves the range to plotly, or to the figure's next one. */
        if (axis.autorange === false && !alike(given[name], axis.range)) moved[name] = { ...layout[name], range: [...axis.range], autorange: false };
      }
      given[name] = asked;
    }
    return Object.keys(moved).length ? { ...figure, layout: { ...layout, ...moved } } : figure;
  }

  function keeping(plotly) {
    const react = plotly.react;
    plotly.react = async function (plot, figure, ...rest) {
      const made = await react.call(this, plot, kept(plot, figure), ...rest);
      for (const then of told) then(made);
      return made;
    };
  }

  if (window.Plotly) {
    keeping(window.Plotly);
    return;
  }
  /* Dash loads plotly when the first plot is there. */
  const before = Object.getOwnPropertyDescriptor(window, "Plotly");
  let made;
  Object.defineProperty(window, "Plotly", {
    configurable: true,
    get: () => made,
    set: (plotly) => {
      made = plotly;
      keeping(plotly);
      if (before && before.set) before.set.call(window, plotly);
    },
  });
})();

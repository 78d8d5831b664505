/* Watches the front's plot: when it was drawn, of how many trials, with which limits, and what was done to it. */

window.bench = { drawn: [], said: [], keys: [], moves: [], follows: [] };

(function () {
  const graph = () => document.querySelector("#front-plot .js-plotly-plot");
  const shown = (then) => requestAnimationFrame(() => requestAnimationFrame(() => then(performance.now())));

  function note(plot) {
    const fields = (plot._fullData || []).filter((trace) => trace.meta && trace.meta.field);
    const trials = fields.reduce((sum, trace) => sum + trace._length, 0);
    const limits = JSON.stringify(plot.layout.shapes || []);
    shown((at) => window.bench.drawn.push({ at, wall: Date.now(), trials, limits }));
  }

  function watch(plotly) {
    for (const name of ["newPlot", "react"]) {
      const plain = plotly[name];
      plotly[name] = function (plot, ...rest) {
        return plain.call(this, plot, ...rest).then((made) => {
          if (graph() === made) note(made);
          return made;
        });
      };
    }
    return plotly;
  }

  let plotly;
  Object.defineProperty(window, "Plotly", { configurable: true, get: () => plotly, set: (made) => { plotly = watch(made); } });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter") window.bench.keys.push(event.timeStamp);
  }, true);

  document.addEventListener("mousemove", (event) => {
    const plot = graph();
    if (!event.buttons || !plot) return;
    window.bench.moves.push(event.timeStamp);
    if (!plot.watched) {
      plot.watched = true;
      plot.on("plotly_relayouting", () => shown((at) => window.bench.follows.push(at)));
    }
  }, true);

  let before = "";
  const look = () => {
    const card = document.getElementById("front-answer");
    const text = card ? card.innerText : "";
    if (text !== before) {
      before = text;
      shown((at) => window.bench.said.push({ at, text }));
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})();

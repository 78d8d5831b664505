/* Paints the many trials of a front on a canvas below plotly's own drawing.

   Plotly draws thousands of markers as as many elements of the page, or by WebGL, which takes a third of a second for
   each frame where there is no graphics card. It keeps the trials' places here, and with them axes, pointing and
   clicking, but draws nothing (mode `none`); `meta.painted` says how they look. */

(function () {
  const SHARES_OF_PIXEL = 10;
  const EDGE = 1.2;
  /* Number of corners, and the direction of the first in turns. */
  const CORNERS = {
    square: [4, 1 / 8], diamond: [4, 0], "triangle-up": [3, -1 / 4], "triangle-down": [3, 1 / 4], pentagon: [5, -1 / 4],
    hexagram: [6, 0],
  };
  const painters = new WeakMap();

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const isPainted = (trace) => trace.meta && trace.meta.painted;

  function outline(ink, symbol, x, y, radius) {
    ink.beginPath();
    if (!(symbol in CORNERS)) {
      ink.arc(x, y, radius, 0, 2 * Math.PI);
      return;
    }
    const [corners, first] = CORNERS[symbol];
    for (let corner = 0; corner < corners; corner += 1) {
      const angle = 2 * Math.PI * (first + corner / corners);
      ink.lineTo(x + 1.2 * radius * Math.cos(angle), y + 1.2 * radius * Math.sin(angle));
    }
    ink.closePath();
  }

  /* Where the values of an axis lie, pixels from the plot's left or upper edge. */
  function pixels(axis, isVertical) {
    const [low, high] = axis.range;
    const log = axis.type === "log";
    const scale = axis._length / (high - low);
    return (value) => {
      const along = ((log ? Math.log10(value) : value) - low) * scale;
      return axis._offset + (isVertical ? axis._length - along : along);
    };
  }

  function paintTrace(ink, layout, trace) {
    const { sizes, keeps, colour, symbol, faint } = trace.meta.painted;
    const [across, up] = [layout[trace.xaxis.replace("x", "xaxis")], layout[trace.yaxis.replace("y", "yaxis")]];
    const [x, y] = [pixels(across, false), pixels(up, true)];
    const [diameters, kept] = [bytes(sizes), bytes(keeps)];
    ink.save();
    ink.beginPath();
    ink.rect(across._offset, up._offset, across._length, up._length);
    ink.clip();
    Object.assign(ink, { fillStyle: colour, strokeStyle: colour, lineWidth: EDGE });
    for (let i = 0; i < kept.length; i += 1) {
      outline(ink, symbol, x(trace.x[i]), y(trace.y[i]), diameters[i] / SHARES_OF_PIXEL / 2);
      ink.globalAlpha = faint[kept[i]];
      if (kept[i]) ink.fill();
      else ink.stroke();
    }
    ink.restore();
  }

  function canvasOf(plot) {
    const room = plot.querySelector(".svg-container");
    let canvas = room.querySelector("canvas.field");
    if (!canvas) {
      canvas = Object.assign(document.createElement("canvas"), { className: "field", ariaHidden: "true" });
      room.prepend(canvas);
    }
    return canvas;
  }

  function paint(plot) {
    const traces = (plot._fullData || []).filter((trace) => isPainted(trace) && trace.visible === true);
    const canvas = traces.length ? canvasOf(plot) : plot.querySelector("canvas.field");
    if (!canvas) return;
    const { width, height } = plot._fullLayout;
    const dots = window.devicePixelRatio || 1;
    Object.assign(canvas, { width: Math.round(width * dots), height: Math.round(height * dots) });
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    const ink = canvas.getContext("2d");
    ink.scale(dots, dots);
    for (const trace of traces) paintTrace(ink, plot._fullLayout, trace);
  }

  window.autoshrink.onDrawn((plot) => {
    if (!painters.has(plot)) painters.set(plot, () => paint(plot));
    for (const event of ["plotly_afterplot", "plotly_relayouting"]) {
      plot.removeListener(event, painters.get(plot));
      plot.on(event, painters.get(plot));
    }
    paint(plot);
  });

  /* The trace as plotly draws it by itself, for a picture that is saved. */
  window.autoshrink.drawable = (trace) => {
    if (!isPainted(trace)) return trace;
    const { sizes, keeps, colour, symbol, faint } = trace.meta.painted;
    const kept = Array.from(bytes(keeps));
    const marker = {
      color: colour,
      symbol: kept.map((keeping) => (keeping ? symbol : `${symbol}-open`)),
      size: Array.from(bytes(sizes), (size) => size / SHARES_OF_PIXEL),
      opacity: kept.map((keeping) => faint[keeping]),
      line: { color: colour, width: EDGE },
    };
    return { ...trace, mode: "markers", marker };
  };
})();

"use strict";

// Saves figures as PNG and SVG and tables as CSV, from the page itself: nothing is asked of any server.
const save = (() => {
  const SHARPNESS = 2;

  function button(text, label, action) {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "r-tool";
    made.textContent = text;
    made.setAttribute("aria-label", label);
    made.addEventListener("click", action);
    return made;
  }

  function download(name, href) {
    const link = document.createElement("a");
    link.download = name;
    link.href = href;
    link.click();
  }

  const fileName = (...words) => words.join(" ").trim().replace(/[^\p{L}\p{N}.-]+/gu, "-").replace(/^[-.]+|-+$/g, "");

  function figure(plot, name, format) {
    const { width, height } = plot.getBoundingClientRect();
    const surface = getComputedStyle(document.documentElement).getPropertyValue("--surface").trim();
    const layout = { ...plot.layout, paper_bgcolor: surface, width, height };
    return Plotly.toImage({ data: plot.data, layout }, { format, width, height, scale: format === "png" ? SHARPNESS : 1 })
      .then((image) => download(`${name}.${format}`, image));
  }

  // A text that a spreadsheet would take for a formula is marked as text.
  function cellText(text) {
    const plain = text.replace(/\u00a0/g, " ").trim();
    const safe = /^[=+\-@\t\r]/.test(plain) ? `'${plain}` : plain;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  // The words of a cell without its small second line, and that line.
  function parts(cell) {
    const copy = cell.cloneNode(true);
    const small = Array.from(copy.querySelectorAll("small"));
    small.forEach((each) => each.remove());
    for (const item of copy.querySelectorAll("summary, li, .badge")) item.append(" ");
    return [copy.textContent.replace(/\s+/g, " "), small.map((each) => each.textContent).join("; ")];
  }

  // The number behind a cell without the noise of its last digits; undefined where the cell holds words.
  function numberText(cell) {
    const value = cell.dataset.value;
    return value ? String(Number(Number(value).toPrecision(12))) : value;
  }

  // Figures as the numbers that the table is sorted by, in the unit of the heading; second lines in a column of their own.
  function csv(table) {
    const heads = Array.from(table.tHead.rows[0].cells);
    const rows = Array.from(table.tBodies).flatMap((body) => Array.from(body.rows));
    const columns = heads.flatMap((head, place) => {
      const unit = head.dataset.unit ? ` [${head.dataset.unit}]` : "";
      const cells = rows.map((row) => row.cells[place]);
      const name = head.textContent.trim();
      const values = cells.map((cell) => (cell ? (numberText(cell) ?? cellText(parts(cell)[0])) : ""));
      const below = cells.map((cell) => (cell ? cellText(parts(cell)[1]) : ""));
      const column = [cellText(name + unit), ...values];
      return below.some(Boolean) ? [column, [cellText(`${name}, more`), ...below]] : [column];
    });
    return `${[...columns[0].keys()].map((row) => columns.map((column) => column[row]).join(",")).join("\r\n")}\r\n`;
  }

  function table(from, name) {
    const url = URL.createObjectURL(new Blob(["\ufeff", csv(from)], { type: "text/csv;charset=utf-8" }));
    download(`${name}.csv`, url);
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  return { button, fileName, figure, table, csv };
})();

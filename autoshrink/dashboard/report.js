"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const study = document.querySelector("h1").textContent;
const dark = matchMedia("(prefers-color-scheme: dark)");
const BESIDE_PANEL = matchMedia("(min-width: 961px)").matches ? 100 : 0;
const LONGEST_NAME = 60;
const options = {
  responsive: true,
  displaylogo: false,
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]],
};

// Figures and what is drawn over them, in the colours of the other scheme.
function recoloured(value) {
  const known = new RegExp(Object.keys(page.dark).join("|"), "g");
  return JSON.parse(JSON.stringify(value).replace(known, (colour) => page.dark[colour]));
}

// Ids of all figures; accuracy over size is the front on another axis, and in the data only once.
const names = Array.from(document.querySelectorAll(".plot"), (plot) => plot.id);

let night = null;
function scheme() {
  const day = { figures: page.figures, colours: page.targets.map((target) => target?.colours) };
  if (!dark.matches) return day;
  night ??= recoloured(day);
  return night;
}

// What the reader looks at: the axis of the front of each target, its limits and what they lead to.
const states = page.targets.map((target) => target && { axis: 0, own: false, log: null, limits: [], answer: null });

// Name of an element -> that of the figure which its reader wants in it.
const drawnAs = new Map();

// A figure whose points say of each trial what the front says of it.
function told(figure, front) {
  const traces = (front?.data ?? []).filter((trace) => trace.customdata);
  const known = new Map(traces.flatMap((trace) => trace.customdata.map((number, i) => [number, trace.text[i]])));
  const filled = (trace) => trace.customdata.map((number, i) => trace.text?.[i] || (known.get(number) ?? `trial ${number}`));
  return { ...figure, data: figure.data.map((trace) => (trace.customdata ? { ...trace, text: filled(trace) } : trace)) };
}

function draw(name) {
  const now = scheme();
  const [kind, place] = name.split("-");
  const drawsFront = page.targets[place]?.axes.length && (kind === "front" || kind === "size");
  let figure = now.figures[drawnAs.get(name) ?? name] ?? now.figures[`front-${place}`];
  if (kind === "lines" || kind === "progress") figure = told(figure, now.figures[`front-${place}`]);
  const target = page.targets[place] && { ...page.targets[place], colours: now.colours[place] };
  if (drawsFront) {
    const state = states[place];
    const size = target.axes.findIndex((axis) => axis.name === "size");
    const isMain = kind === "front" || !(`front-${place}` in now.figures);
    figure = frontView.drawn(figure, target, isMain ? state : { ...state, axis: size, own: false, log: null });
  }
  const height = figure.layout.height + (kind === "front" ? BESIDE_PANEL : 0);
  const plot = document.getElementById(name);
  // When the page becomes narrower, as on paper, plotly asks the element how high it is.
  plot.style.height = `${height}px`;
  Plotly.react(plot, figure.data, { ...figure.layout, height }, options);
}

function drawFronts(place) {
  for (const kind of ["front", "size"]) if (document.getElementById(`${kind}-${place}`)) draw(`${kind}-${place}`);
}

// One figure after the other, so that the page can be read and moved before the last is drawn.
let queue = [];
function drawNext() {
  const name = queue.shift();
  if (name === undefined) return;
  draw(name);
  setTimeout(drawNext);
}

function drawAll() {
  const isIdle = queue.length === 0;
  queue = names.filter(isShown);
  if (isIdle) drawNext();
}

// What is folded up is drawn when it is opened.
const isShown = (name) => document.getElementById(name).closest("details:not([open])") === null;

document.addEventListener(
  "toggle",
  (event) => {
    for (const plot of event.target.querySelectorAll(".plot")) if (isShown(plot.id)) draw(plot.id);
  },
  true,
);

// The badge of the pick in the table of the front, and among the folded trials.
function markPick(section, pick) {
  for (const each of section.querySelectorAll("table.front tr[data-trial], .folded[data-trial]")) {
    const isPick = pick !== null && Number(each.dataset.trial) === pick.number;
    each.classList.toggle("chosen", isPick);
    const room = each.querySelector(".recipe, summary");
    room.querySelector(".badge.pick")?.remove();
    if (!isPick) continue;
    const badge = document.createElement("span");
    badge.className = "badge pick";
    badge.textContent = "chosen";
    room.append(" ", badge);
  }
}

// Of each target what sets its pick beside another trial.
const besides = page.targets.map((_, place) => {
  const room = document.querySelector(`#target-${place} .r-pairs`);
  return room && pairsView.start(room);
});

let isLive = false;
page.targets.forEach((target, place) => {
  const form = document.getElementById(`limits-${place}`);
  if (!target || !form) return;
  const section = form.closest("section");
  const card = document.getElementById(`card-${place}`);
  const shown = document.getElementById(`pick-${place}`);
  let waiting = false;
  // One answer for each target: that of its panel, and whatever else names a trial says the same.
  section.querySelector(".r-said").hidden = true;
  limitsPanel.start(form, target, (limits, answer, isOwn) => {
    const { pick } = answer;
    Object.assign(states[place], { limits, answer });
    markPick(section, pick);
    if (pick) besides[place]?.(pick.number);
    card.querySelector(".r-found").replaceChildren(...answerView.card(target, answer));
    card.querySelector(".asked").hidden = isOwn;
    if (shown) shown.textContent = pick ? answerView.command(target, limits, pick) : "No trial keeps the limits that are set above.";
    // Before anything was moved `drawAll` draws.
    if (waiting || !isLive) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      drawFronts(place);
    });
  });
});

for (const tools of document.querySelectorAll(".r-axes[data-place]")) {
  const place = Number(tools.dataset.place);
  const name = tools.dataset.figure;
  const [axis, unit, log] = tools.querySelectorAll("select, input");
  const figure = tools.closest("figure");
  const title = figure.querySelector("h3");
  const caption = figure.querySelector("figcaption");
  log.checked = frontView.isWide(Object.values(page.targets[place].axes[0].ratio));
  tools.addEventListener("change", () => {
    Object.assign(states[place], { axis: Number(axis.value), own: unit.value === "own", log: log.checked });
    const over = page.targets[place].axes[axis.value].name;
    title.textContent = title.textContent.replace(/over .*/, `over ${over}`);
    const grows = `grow with the ${over === "latency" ? "file" : "latency"}`;
    caption.textContent = caption.textContent.replace(/grow with the \w+/, grows);
    draw(name);
  });
  tools.hidden = false;
}

for (const label of document.querySelectorAll(".r-over")) {
  const select = label.querySelector("select");
  select.addEventListener("change", () => {
    drawnAs.set(select.dataset.figure, select.value);
    draw(select.dataset.figure);
  });
  label.hidden = false;
}

isLive = true;
drawAll();
dark.addEventListener("change", drawAll);
addEventListener("beforeprint", () => {
  queue.splice(0).forEach(draw);
  for (const name of names.filter(isShown)) Plotly.Plots.resize(name);
});

const trialOf = (part) => part.closest(".folded")?.querySelector("summary").textContent.split(":")[0] ?? "";

for (const figure of document.querySelectorAll("figure")) {
  const plot = figure.querySelector(".plot");
  const title = figure.querySelector("h3")?.textContent ?? plot.getAttribute("aria-label");
  const target = figure.closest("section").querySelector("h2").textContent;
  const name = save.fileName(study, target, trialOf(figure), title.slice(0, LONGEST_NAME));
  const tools = figure.querySelector(".r-tools");
  for (const format of ["png", "svg"]) {
    tools.append(
      save.button(format.toUpperCase(), `Save ${title} as ${format.toUpperCase()}`, () => save.figure(plot, name, format)),
    );
  }
}

function sortKey(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value;
  if (value === undefined) return cell.textContent;
  return value === "" ? null : Number(value);
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
}

function sortBy(table, heading, column) {
  const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  for (const body of table.tBodies) {
    const rows = Array.from(body.rows);
    rows.sort((a, b) => compare(sortKey(a, column), sortKey(b, column), sign));
    body.append(...rows);
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sortBy(table, heading, column));
  });
}

for (const scroll of document.querySelectorAll(".scroll")) {
  const table = scroll.querySelector("table");
  if (!table?.tHead) continue;
  const label = scroll.getAttribute("aria-label");
  const target = scroll.closest("section").querySelector("h2").textContent;
  const tools = document.createElement("div");
  tools.className = "r-tools";
  tools.append(
    save.button("CSV", `Save ${label} as CSV`, () => save.table(table, save.fileName(study, target, trialOf(scroll), label))),
  );
  const heading = scroll.previousElementSibling;
  if (heading?.matches("h3, .r-pairs > h4")) {
    const head = document.createElement("div");
    head.className = "r-head";
    heading.replaceWith(head);
    head.append(heading, tools);
  } else {
    scroll.before(tools);
  }
}

"use strict";

// The panel of limits of one target: its sliders and boxes, and the trial that they lead to.
const limitsPanel = (() => {
  const STEPS = 199;

  function element(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  // Where a slider stands for a value in the control's unit; one end of it is no limit.
  function position(control, value) {
    if (value === null) return control.least ? 0 : STEPS + 1;
    const share = control.log
      ? Math.log(value / control.low) / Math.log(control.high / control.low)
      : (value - control.low) / (control.high - control.low);
    return Math.round(STEPS * Math.min(1, Math.max(0, share))) + (control.least ? 1 : 0);
  }

  function valueAt(control, place) {
    if (place === (control.least ? 0 : STEPS + 1)) return null;
    const share = (place - (control.least ? 1 : 0)) / STEPS;
    const value = control.log
      ? control.low * (control.high / control.low) ** share
      : control.low + share * (control.high - control.low);
    return Number(value.toPrecision(3));
  }

  // The limit of a box, null where there is none; a box that holds no limit that could be kept says so.
  function limitOf(control, box) {
    const value = Number(box.value);
    const lowest = control.name === "drop" && !control.figure ? 0 : Number.MIN_VALUE;
    const problem = box.validity.badInput ? "not a number" : value < lowest && box.value ? "must be over 0" : "";
    box.setCustomValidity(problem);
    box.setAttribute("aria-invalid", String(problem !== ""));
    if (problem || !box.value) return null;
    const inOwn = value * control.factor;
    const exact = control.name === "size_bytes" && !control.figure ? Math.max(1, Math.round(inOwn)) : inOwn;
    return { name: control.name, value: exact, figure: control.figure };
  }

  const quoted = (word) => (/[^\w@%+=:,./-]/.test(word) || !word ? `'${word.replaceAll("'", "'\"'\"'")}'` : word);

  // The command that packs the pick. `pick` adds the target's own limits where none is given: where the reader took one
  // of them away, only the number names the trial.
  function command(target, limits, pick) {
    const [before, after] = target.command;
    const kept = target.controls.every(
      (control) => control.start === null || limits.some((limit) => isOf(limit, control)),
    );
    let words = limits.flatMap((limit) => {
      const [option, ...text] = pickByLimits.option(limit, pickByLimits.textOf(limit, limit.value)).split(" ");
      return [option, quoted(text.join(" "))];
    });
    if (!limits.length) {
      words = ["--max-drop", "1%"];
      if (!pickByLimits.keeps(pick, [{ name: "drop", value: 0.01, figure: false }])) words = [];
    }
    if (!kept || !words.length) words = ["--trial", String(pick.number)];
    return [before, ...words, after].join(" ");
  }

  const isOf = (limit, control) => limit.name === control.name && limit.figure === control.figure;

  function why(target, limits, count) {
    const timed = target.candidates.some((candidate) => candidate.ratio !== null);
    const named = limits.map((limit) => limit.name);
    const among = `${count} of ${target.candidates.length} trials surely ${count === 1 ? "keeps" : "keep"} ${limits.length === 1 ? "it" : "them all"}`;
    if (!limits.length) return "Without limits: the greatest gain among the trials that surely lose less than a point.";
    if (named.length === 1 && named[0] === "drop") {
      return `${among}; this one gains most, ${timed ? "speed-up times size reduction" : "by its size"}.`;
    }
    const then = timed ? "the fastest, then the smallest" : "the smallest";
    return `${among}; this one is the most accurate, and of those nobody can tell from it ${then}.`;
  }

  // Lines end between the words of a command, not at the hyphens of an option.
  const words = (text) =>
    text.split(" ").flatMap((word, i) => [i ? " " : "", element("span", { textContent: word })]);

  function chosen(target, limits, answer) {
    const { pick, fitting } = answer;
    const text = command(target, limits, pick);
    const copy = element("button", { type: "button", className: "r-plain", textContent: "Copy" });
    copy.addEventListener("click", () => {
      navigator.clipboard.writeText(text).then(() => (copy.textContent = "Copied"), () => (copy.textContent = "Select it and copy"));
    });
    return [
      element("p", { className: "r-ship" }, element("b", {}, `Trial ${pick.number}`), ` ${pick.words}`),
      element(
        "ul",
        { className: "r-gained" },
        ...pick.gains.map(([large, small]) => element("li", {}, element("b", {}, large), element("small", {}, small))),
      ),
      element("p", { className: "note" }, why(target, limits, fitting.length)),
      element("pre", {}, ...words(text)),
      copy,
    ];
  }

  function nothing(target, answer, relax) {
    const ways = answer.ways.map((way) => {
      const button = element("button", { type: "button", className: "r-plain", textContent: way.text });
      button.addEventListener("click", () => relax(way.limits));
      return element("li", {}, button);
    });
    return [
      element("p", { className: "r-ship problem" }, "No trial surely keeps these limits."),
      element("h4", {}, "Nearest"),
      element(
        "ul",
        { className: "r-misses" },
        ...answer.nearest.map(({ candidate, misses }) =>
          element("li", {}, element("b", {}, `Trial ${candidate.number}`), ` ${candidate.words}: `, misses.join("; ")),
        ),
      ),
      element("h4", {}, "What to relax"),
      ways.length
        ? element("ul", { className: "r-ways" }, ...ways)
        : element("p", { className: "note" }, "No drop has an interval: leave the limit on the loss out."),
    ];
  }

  // Brings the panel of a target to life; `changed(limits, answer)` is called at once and whenever a limit moves.
  function start(form, target, changed) {
    const rows = Array.from(form.querySelectorAll(".r-limit"), (row) => ({
      control: target.controls[Number(row.dataset.control)],
      box: row.querySelector("input[type=number]"),
      slider: row.querySelector("input[type=range]"),
      kept: row.querySelector("small"),
    }));
    const room = form.querySelector(".r-answer");
    const count = target.candidates.length;

    function update() {
      const limits = [];
      for (const { control, box, slider, kept } of rows) {
        const limit = limitOf(control, box);
        slider.setAttribute("aria-valuetext", box.value ? `${box.value} ${control.unit}` : "no limit");
        kept.textContent = box.validationMessage;
        if (!limit) continue;
        limits.push(limit);
        const keeping = target.candidates.filter((candidate) => pickByLimits.keeps(candidate, [limit])).length;
        kept.textContent = `${keeping} of ${count} keep it`;
      }
      const answer = pickByLimits.choose(target.candidates, limits);
      room.replaceChildren(...(answer.pick ? chosen(target, limits, answer) : nothing(target, answer, relax)));
      changed(limits, answer, answer.pick ? command(target, limits, answer.pick) : null);
    }

    function relax(limits) {
      for (const row of rows) {
        const limit = limits.find((each) => isOf(each, row.control));
        if (limit) row.box.value = pickByLimits.general(limit.value / row.control.factor, 12);
        follow(row);
      }
      update();
      rows[0].box.focus();
    }

    function follow({ control, box, slider }) {
      slider.value = position(control, box.value ? Number(box.value) : null);
    }

    for (const row of rows) {
      row.slider.defaultValue = position(row.control, row.control.start);
      follow(row);
      row.box.addEventListener("input", () => {
        follow(row);
        update();
      });
      row.slider.addEventListener("input", () => {
        const value = valueAt(row.control, Number(row.slider.value));
        row.box.value = value === null ? "" : String(value);
        update();
      });
    }
    form.addEventListener("submit", (event) => event.preventDefault());
    // The boxes have their first values back only after this event.
    form.addEventListener("reset", () => setTimeout(() => (rows.forEach(follow), update())));
    form.hidden = false;
    update();
  }

  return { start };
})();

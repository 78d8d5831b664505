"use strict";

// The panel of limits of one target: its sliders and boxes.
const limitsPanel = (() => {
  const STEPS = 199;

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

  // Brings the panel of a target to life. `changed(limits, answer, isOwn)` is called at once and whenever a limit moves;
  // `isOwn`: they are those that the target came with.
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
      room.replaceChildren(...answerView.panel(target, limits, answer, relax));
      const isOwn = rows.every(({ box }) => box.value === box.defaultValue);
      changed(limits, answer, isOwn);
    }

    function relax(limits) {
      for (const row of rows) {
        const limit = limits.find((each) => answerView.isOf(each, row.control));
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

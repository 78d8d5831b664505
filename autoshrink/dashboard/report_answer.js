"use strict";

// The answer under the reader's limits wherever the page says it: in the panel, in the card at the top, as a command.
const answerView = (() => {
  // A figure and its percent sign stay on one line, as everywhere on the page.
  const unbroken = (child) => (typeof child === "string" ? child.replaceAll(" %", "\u00a0%") : child);

  function element(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children.map(unbroken));
    return made;
  }

  const isOf = (limit, control) => limit.name === control.name && limit.figure === control.figure;

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

  const gains = (pick, tag) =>
    pick.gains.map(([large, small]) => element(tag, {}, element("b", {}, large), element("small", {}, small)));

  const STAYS = "Ship the baseline: no other trial gains more and surely keeps the limits.";

  function chosen(target, limits, answer) {
    const { pick, fitting } = answer;
    const text = command(target, limits, pick);
    const copy = element("button", { type: "button", className: "r-plain", textContent: "Copy" });
    copy.addEventListener("click", () => {
      navigator.clipboard.writeText(text).then(() => (copy.textContent = "Copied"), () => (copy.textContent = "Select it and copy"));
    });
    return [
      element("p", { className: "eyebrow" }, "The pick"),
      element("p", { className: "r-ship" }, element("b", {}, `Trial ${pick.number}`), ` ${pick.words}`),
      pick.number === target.baseline
        ? element("p", { className: "note" }, STAYS)
        : element("ul", { className: "r-gained" }, ...gains(pick, "li")),
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

  const panel = (target, limits, answer, relax) =>
    answer.pick ? chosen(target, limits, answer) : nothing(target, answer, relax);

  // What the card at the top of the page says of a target.
  function card(target, answer) {
    const { pick } = answer;
    const plain = (text) => [element("span", { className: "nothing" }, text)];
    if (!pick) return plain("No trial surely keeps these limits.");
    if (pick.number === target.baseline) return plain(STAYS);
    return [
      element("span", { className: "gains" }, ...gains(pick, "span")),
      element("span", { className: "recipe" }, `trial ${pick.number}: ${pick.words}`),
    ];
  }

  return { panel, card, command, isOf };
})();

"use strict";

// The choice of `autoshrink pick` (autoshrink/package/choose.py) among candidates whose bounds were computed there.
//
// A candidate: {number, words, size_bytes, drop, accuracy, latency_ms, throughput, ratio, loss, figures, scored_on}; see
// `Candidate` in choose.py. JSON has no infinity, so a drop without a bound is null. `loss` is [drop, low, high] or null.
// A limit: {name, value, figure}. Limits are an array in the order of `given` in search/limits.py.
const pickByLimits = (() => {
  const LATENCY_NOISE = 0.04;
  const DEFAULT_DROP = 0.01;
  const NEAREST = 3;
  const KINDS = {
    latency_ms: { option: "--max-latency", noun: "latency" },
    size_bytes: { option: "--max-size", noun: "size" },
    drop: { option: "--max-drop", noun: "drop" },
    throughput: { option: "--min-throughput", noun: "throughput" },
  };

  // As Python's format(x, ".{digits}g"), exact ties to the even digit.
  function general(x, digits) {
    if (x === 0) return "0";
    let text = Math.abs(x).toExponential(digits - 1);
    const exact = Math.abs(x).toExponential(80).replace(".", "");
    if (/^50*$/.test(exact.slice(digits, exact.indexOf("e")))) {
      const kept = exact.slice(0, digits);
      if (Number(kept[digits - 1]) % 2 === 0) text = `${kept[0]}.${kept.slice(1)}0${exact.slice(exact.indexOf("e"))}`;
    }
    const [mantissa, power] = text.split("e");
    const exponent = Number(power);
    const figures = mantissa.replace(".", "").slice(0, digits);
    const sign = x < 0 ? "-" : "";
    const trimmed = (number) => (number.includes(".") ? number.replace(/\.?0*$/, "") : number);
    if (exponent < -4 || exponent >= digits) {
      const size = String(Math.abs(exponent)).padStart(2, "0");
      return `${sign}${trimmed(`${figures[0]}.${figures.slice(1)}`)}e${exponent < 0 ? "-" : "+"}${size}`;
    }
    if (exponent < 0) return `${sign}${trimmed(`0.${"0".repeat(-exponent - 1)}${figures}`)}`;
    return `${sign}${trimmed(`${figures.slice(0, exponent + 1)}.${figures.slice(exponent + 1)}`)}`;
  }

  // The factor and the name of the unit in which the command line would write `value`.
  function unitOf(limit, value) {
    if (limit.figure) return [1, ""];
    if (limit.name === "latency_ms") return [1, "ms"];
    if (limit.name === "drop") return [0.01, "%"];
    if (limit.name === "throughput") return [1, "/s"];
    return value >= 1e6 ? [1e6, "MB"] : value >= 1e3 ? [1e3, "kB"] : [1, "B"];
  }

  // What the command line reads in a text that `text` or `enoughFor` wrote.
  function parse(limit, text) {
    const [, number, unit] = /^(.*?)([a-zA-Z%/]*)$/.exec(text);
    if (limit.figure) return Number(text);
    const value = Number(number) * ({ "%": 0.01, MB: 1e6, kB: 1e3 }[unit] ?? 1);
    return limit.name === "size_bytes" ? Math.round(value) : value;
  }

  const noun = (limit) => (limit.figure ? limit.name : KINDS[limit.name].noun);
  const atLeast = (limit) => !limit.figure && limit.name === "throughput";
  const option = (limit, text) =>
    limit.figure ? `--max-figure ${limit.name}=${text}` : `${KINDS[limit.name].option} ${text}`;

  function textOf(limit, value) {
    const [factor, unit] = unitOf(limit, value);
    return `${general(value / factor, 12)}${unit}`;
  }

  // Three significant digits, rounded away from `found`: as the command line reads it, `found` keeps it.
  function enoughFor(limit, found) {
    const [factor, unit] = unitOf(limit, found);
    if (found <= 0) return `0${unit}`;
    const step = Number(`1e${Number((found / factor).toExponential().split("e")[1]) - 2}`);
    const written = (steps) => `${general(steps * step, 12)}${unit}`;
    let steps = atLeast(limit) ? Math.ceil(found / factor / step) : Math.floor(found / factor / step);
    if (atLeast(limit)) while (parse(limit, written(steps)) > found) steps -= 1;
    else while (parse(limit, written(steps)) < found) steps += 1;
    return written(steps);
  }

  function bound(candidate, limit) {
    if (limit.figure) return Object.hasOwn(candidate.figures, limit.name) ? candidate.figures[limit.name] : null;
    return limit.name === "drop" ? (candidate.drop ?? Infinity) : candidate[limit.name];
  }

  // By which share of the limit a candidate is over it; 0 or less where it keeps it, infinite where nobody knows.
  function excess(candidate, limit) {
    const found = bound(candidate, limit);
    if (found === null) return Infinity;
    if (atLeast(limit)) return limit.value / found - 1;
    const scale = Math.max(limit.value, !limit.figure && limit.name === "drop" ? 0.01 : 0);
    if (scale) return (found - limit.value) / scale;
    return found ? Math.sign(found) * Infinity : 0;
  }

  const keeps = (candidate, limits) => limits.every((limit) => excess(candidate, limit) <= 0);
  const broken = (candidate, limits) => limits.filter((limit) => excess(candidate, limit) > 0);
  const total = (candidate, limits) =>
    broken(candidate, limits).reduce((sum, limit) => sum + excess(candidate, limit), 0);
  const slowness = (candidate) => candidate.ratio ?? 1;

  // The first of `list` whose key (an array, compared like a tuple) is least.
  function least(list, key) {
    return list.reduce((best, each) => (compare(key(each), key(best)) < 0 ? each : best));
  }

  function compare(a, b) {
    for (let i = 0; i < a.length; i += 1) if (a[i] !== b[i]) return a[i] < b[i] ? -1 : 1;
    return 0;
  }

  function best(found, limits) {
    if (!limits.length) return best(found, [{ name: "drop", value: DEFAULT_DROP }]) ?? mostAccurate(found);
    const fitting = found.filter((candidate) => keeps(candidate, limits));
    if (!fitting.length) return null;
    return limits.length === 1 && limits[0].name === "drop" ? greatestGain(fitting) : mostAccurate(fitting);
  }

  function mostAccurate(found) {
    const leader = least(found, (c) => [-c.accuracy, slowness(c), c.number]);
    const tied = found.filter((c) => c === leader || !isWorse(c.loss, leader.loss));
    const fastest = Math.min(...tied.map(slowness));
    const asFast = tied.filter((c) => slowness(c) <= fastest * (1 + LATENCY_NOISE));
    return least(asFast, (c) => [c.size_bytes, slowness(c), c.number]);
  }

  // Whether the interval of the difference of two drops lies over 0 (Zou and Donner 2008, equation 8).
  function isWorse(own, leader) {
    if (own === null || leader === null) return true;
    return own[0] - leader[0] > Math.hypot(own[0] - own[1], leader[2] - leader[0]);
  }

  function greatestGain(found) {
    const cost = (c) => slowness(c) * c.size_bytes;
    const lowest = Math.min(...found.map(cost));
    const tied = found.filter((c) => cost(c) <= lowest * (1 + LATENCY_NOISE));
    return least(tied, (c) => [-c.accuracy, cost(c), c.number]);
  }

  function miss(candidate, limits) {
    return broken(candidate, limits).map((limit) => {
      const found = bound(candidate, limit);
      if (found === null || !Number.isFinite(found)) return `${noun(limit)} unknown: its interval was not measured`;
      const apart = textOf(limit, Number(general(Math.abs(found - limit.value), 3)));
      const side = atLeast(limit) ? "under" : "over";
      return `${noun(limit)} ${enoughFor(limit, found)} is ${apart} ${side} ${textOf(limit, limit.value)}`;
    });
  }

  // How far limits have to be relaxed, in words, and the limits that then hold.
  function wayOut(found, limits, nearest, relaxed) {
    const texts = new Map(
      relaxed
        .filter((limit) => bound(nearest, limit) !== null)
        .map((limit) => [limit, enoughFor(limit, bound(nearest, limit))]),
    );
    const then = limits.map((limit) =>
      texts.has(limit) ? { ...limit, value: parse(limit, texts.get(limit)) } : limit,
    );
    const chosen = best(found, then);
    const changes = [...texts].map(
      ([limit, text]) => `${option(limit, text)} instead of ${textOf(limit, limit.value)}`,
    );
    return {
      by: Math.max(...relaxed.map((limit) => excess(nearest, limit))),
      text: `${changes.join(" and ")} would give ${chosen ? `trial ${chosen.number}` : "a trial"}`,
      limits: then,
    };
  }

  // A way out for each limit that would do when relaxed alone, the least relaxation first; else one for several.
  function waysOut(found, limits) {
    const ways = [];
    for (const limit of limits) {
      const alone = found.filter((c) => {
        const over = broken(c, limits);
        return over.length === 1 && over[0] === limit && Number.isFinite(excess(c, limit));
      });
      if (alone.length) {
        ways.push(wayOut(found, limits, least(alone, (c) => [excess(c, limit)]), [limit]));
      }
    }
    if (!ways.length) {
      const finite = found.filter((c) => limits.every((limit) => Number.isFinite(excess(c, limit))));
      if (!finite.length) return [];
      const nearest = least(finite, (c) => [total(c, limits), c.number]);
      ways.push(wayOut(found, limits, nearest, broken(nearest, limits)));
    }
    return ways.sort((a, b) => compare([a.by, a.text], [b.by, b.text]));
  }

  // {pick, fitting} when a candidate keeps the limits, else {pick: null, fitting: [], asked, nearest, ways}.
  function choose(found, limits) {
    const pick = best(found, limits);
    if (pick !== null) return { pick, fitting: found.filter((candidate) => keeps(candidate, limits)) };
    const nearest = [...found].sort((a, b) => compare([total(a, limits), a.number], [total(b, limits), b.number]));
    return {
      pick: null,
      fitting: [],
      asked: limits.map((limit) => option(limit, textOf(limit, limit.value))),
      nearest: nearest.slice(0, NEAREST).map((candidate) => ({ candidate, misses: miss(candidate, limits) })),
      ways: waysOut(found, limits),
    };
  }

  return { choose, keeps, bound, option, textOf, enoughFor, parse, atLeast, noun, general };
})();

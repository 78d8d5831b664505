/* What the frame of the dashboard does in the browser: scheme, address, title and focus, and whether the server answers. */
"use strict";

(() => {
  const dash = (window.dash_clientside = window.dash_clientside || {});

  /* light or dark, as the reader's system has it, and whether the window is a phone's: now and later */
  function screen() {
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const small = window.matchMedia("(max-width: 720px)");
    const name = () => (dark.matches ? "dark" : "light");
    dark.addEventListener("change", () => dash.set_props("scheme", {data: name()}));
    small.addEventListener("change", () => dash.set_props("narrow", {data: small.matches}));
    return [name(), small.matches];
  }

  /* keeps the value of every control in the address; the default of none is written before somebody changes it */
  function address(values, ids) {
    const asked = new URLSearchParams(window.location.search);
    ids.forEach((id, i) => {
      const value = Array.isArray(values[i]) ? values[i].join(",") : values[i];
      if (value === null || value === undefined || value === "") asked.delete(id.name);
      else asked.set(id.name, value);
    });
    const query = asked.toString();
    const {pathname, hash} = window.location;
    window.history.replaceState(window.history.state, "", pathname + (query ? "?" + query : "") + hash);
    return dash.no_update;
  }

  /* A page has been opened: says so in the title, marks its link, and brings the keyboard to it when a link led there. */
  let before = null;
  function opened(page) {
    if (!page) return dash.no_update;
    document.title = page.title;
    const mark = () => {
      for (const link of document.querySelectorAll("nav a")) {
        if (link.classList.contains("current")) link.setAttribute("aria-current", "page");
        else link.removeAttribute("aria-current");
      }
    };
    mark();
    window.requestAnimationFrame(mark);
    if (before !== null && before !== page.path) document.getElementById("content").focus({preventScroll: true});
    before = page.path;
    return dash.no_update;
  }

  dash.shell = {screen, address, opened};

  /* Not by the address: Dash would open the page anew. */
  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element) || !event.target.closest("a.skip")) return;
    event.preventDefault();
    document.getElementById("content").focus();
  });

  /* Whoever looks at the page must know when what it shows is old. */
  const ask = window.fetch;
  window.fetch = async (...asked) => {
    try {
      const answer = await ask(...asked);
      tell(answer.status === 403 ? "The dashboard no longer takes this page; open the address that it printed." : "");
      return answer;
    } catch (error) {
      if (!leaving && error.name !== "AbortError") {
        tell("The dashboard's server does not answer; what is shown may be old. Start autoshrink dashboard again.");
      }
      throw error;
    }
  };

  let leaving = false;
  window.addEventListener("pagehide", () => (leaving = true));
  window.addEventListener("pageshow", () => (leaving = false));

  function tell(text) {
    const place = document.getElementById("server-state");
    if (place && place.textContent !== text) place.textContent = text;
  }
})();

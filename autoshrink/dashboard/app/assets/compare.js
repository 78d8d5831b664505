"use strict";

// A list of the page Compare was changed: the control of all of them takes the values in their order.
document.addEventListener("change", (event) => {
  if (event.target.dataset?.slot === undefined) return;
  const chosen = [...document.querySelectorAll("select[data-slot]")].map((list) => list.value).filter(Boolean);
  window.dash_clientside.set_props({ type: "control", name: "trials" }, { value: [...new Set(chosen)].join(",") });
});

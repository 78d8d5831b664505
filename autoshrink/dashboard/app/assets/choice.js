"use strict";

// A list of choice.py was changed: its control, which callbacks and the address listen to, takes the value.
document.addEventListener("change", (event) => {
  const name = event.target.dataset?.control;
  if (name === undefined) return;
  window.dash_clientside.set_props({ type: "control", name }, { value: event.target.value });
});

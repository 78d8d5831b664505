/* The buttons "Build and download the package". What they show is theirs alone: no callback of Dash knows of it. */
"use strict";

document.addEventListener("click", (event) => {
  const button = event.target instanceof Element ? event.target.closest("button.package-button") : null;
  if (button && button.getAttribute("aria-disabled") !== "true") buildPackage(button);
});

async function buildPackage(button) {
  const said = button.parentElement.querySelector(".package-said");
  const {study, target, trial} = button.dataset;
  const say = (text, state) => {
    said.textContent = text;
    said.dataset.state = state;
  };
  // Not `disabled`: that would take the focus away from a keyboard.
  button.setAttribute("aria-disabled", "true");
  say("Building: the model runs once more on samples of the test split. This can take a minute.", "busy");
  try {
    const answer = await fetch("/package", {method: "POST", body: new URLSearchParams({study, target, trial})});
    if (answer.ok) {
      const content = await answer.blob();
      const name = nameOf(answer);
      save(content, name);
      say(`Downloaded ${name} (${size(content.size)}). Unpack it; autoshrink verify ${name.replace(/\.zip$/, "")} checks it.`, "done");
    } else {
      say((await answer.text()).trim() || `The server answered ${answer.status}.`, "failed");
    }
  } catch {
    say("The dashboard's server does not answer. Start autoshrink dashboard again.", "failed");
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

function nameOf(answer) {
  const found = /filename="?([\w.-]+)"?/.exec(answer.headers.get("Content-Disposition") || "");
  return found ? found[1] : "package.zip";
}

function save(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  // The browser has taken what it needs by then.
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

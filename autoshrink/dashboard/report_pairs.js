"use strict";

// Two trials of a front side by side: shows those that are chosen of what the page holds of all.
const pairsView = (() => {
  // Gives `follow(number)`, which sets the first trial beside the next one, until the reader has chosen.
  function start(room) {
    const selects = [...room.querySelectorAll("select")];
    const numbers = [...selects[0].options].map((each) => each.value);
    let isChosen = false;

    function show() {
      const chosen = selects.map((select) => select.value);
      for (const list of room.querySelectorAll("[data-pair]")) {
        const pair = list.dataset.pair.split(" ");
        list.hidden = chosen[0] === chosen[1] || !chosen.every((number) => pair.includes(number));
      }
      for (const table of room.querySelectorAll("table")) {
        const isSettings = table === [...room.querySelectorAll("table")].at(-1);
        for (const row of table.rows) {
          const cells = chosen.map((number) => row.cells[1 + numbers.indexOf(number)]);
          for (const cell of row.cells) cell.hidden = cell.cellIndex > 0 && !cells.includes(cell);
          row.hidden = isSettings && row.parentElement === table.tBodies[0] && cells[0].textContent === cells[1].textContent;
        }
      }
    }

    for (const select of selects) {
      select.addEventListener("change", () => {
        isChosen = true;
        show();
      });
    }
    room.hidden = false;
    const follow = (number) => {
      const at = numbers.indexOf(String(number));
      if (isChosen || at < 0) return;
      selects[0].value = numbers[at];
      selects[1].value = numbers[at + 1] ?? numbers[at - 1];
      show();
    };
    follow(numbers[0]);
    return follow;
  }

  return { start };
})();

"use strict";
// Every table can be put in the order of any of its columns: figures by size whatever their unit, words after them.
(() => {
  const units = { "%": 1, s: 1, ms: 1e-3, "µs": 1e-6, MB: 1e6, GB: 1e9, KiB: 1024, times: 1 };
  const key = (cell) => {
    const text = cell.textContent.trim();
    const found = text.match(/^(-?[\d,]*\.?\d+)(?: ?\[[^\]]*\])?(?: ?(%|µs|ms|s|MB|GB|KiB|times)(?![A-Za-z]))?/);
    return found ? [0, parseFloat(found[1].replace(/,/g, "")) * (units[found[2]] ?? 1), text] : [1, 0, text.toLowerCase()];
  };
  const compare = (a, b) => a[0] - b[0] || a[1] - b[1] || (a[2] < b[2] ? -1 : a[2] > b[2] ? 1 : 0);
  for (const head of document.querySelectorAll("thead th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const body = head.closest("table").tBodies[0];
      const rows = [...body.rows].map((row) => [key(row.cells[head.cellIndex]), row]);
      // Words stay last in either order: they say that there is no figure.
      rows.sort(([a], [b]) => (a[0] !== b[0] ? a[0] - b[0] : down ? compare(b, a) : compare(a, b)));
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows.map(([, row]) => row));
    });
  }
  const open = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const folded = target && target.closest("details");
    if (folded) { folded.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", open);
  open();
})();

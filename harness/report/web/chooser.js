"use strict";
// The chooser: the cases stand as data in the page; what a case's blocks cannot tell apart was found when the page was made.
(() => {
  const source = document.getElementById("cases"), form = document.getElementById("ask"), answer = document.getElementById("answer");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const text = (value) => { const node = document.createElement("span"); node.textContent = value; return node.innerHTML; };
  const LIMITS = [["none", Infinity], ["1 times the file", 1], ["1.25 times the file", 1.25], ["1.5 times the file", 1.5], ["2 times the file", 2], ["3 times the file", 3]];
  const ASKED = [
    ["size", "Size", (cell) => cell.label], ["state", "Loaded before?", (cell) => data.states[cell.state]],
    ["storage", "Storage", (cell) => data.storages[cell.storage]], ["device", "Device", (cell) => (cell.device === "cpu" ? "CPU" : cell.device)],
    ["machine", "Measured on", (cell) => data.machines[cell.machine]],
  ];
  const chosen = Object.fromEntries(ASKED.map(([name, , of]) => [name, of(data.cells[data.start])]));
  // Each question offers what the answers before it leave, so that every choice ends in a case.
  const build = () => {
    let cells = data.cells;
    form.replaceChildren();
    for (const [name, title, of] of ASKED) {
      const options = [...new Set(cells.map(of))];
      if (!options.includes(chosen[name])) chosen[name] = options[0];
      add(name, title, options);
      cells = cells.filter((cell) => of(cell) === chosen[name]);
    }
    chosen.limit ??= "none";
    add("limit", "Memory limit", LIMITS.map(([label]) => label));
    show(cells[0]);
  };
  const add = (name, title, options) => {
    const label = document.createElement("label"), select = document.createElement("select");
    label.append(title, select);
    select.name = name;
    for (const option of options) select.add(new Option(option, option, false, option === chosen[name]));
    select.addEventListener("change", () => { chosen[name] = select.value; build(); form.elements[name].focus(); });
    form.append(label);
  };
  const show = (cell) => {
    const limit = new Map(LIMITS).get(chosen.limit) * cell.size;
    const fits = ([, , , , peak]) => limit === Infinity || (peak !== null && peak <= limit);
    const arms = cell.arms, first = arms.findIndex(fits);
    const name = (arm) => data.loaders[arm[0]][1];
    if (first < 0) {
      answer.innerHTML = `<div class="take"><b>No loader measured here stays within this limit.</b> Choose a larger limit.</div>`;
      return;
    }
    const alike = [first, ...arms[first][6].filter((place) => fits(arms[place]))];
    const take = alike.find((place) => data.loaders[arms[place][0]][0] === cell.reference) ?? first;
    const best = arms[take], others = alike.filter((place) => place !== take).map((place) => name(arms[place]));
    const call = data.loaders[best[0]][2], run = data.runs[cell.run];
    const { bars, time } = window.weighbridge;
    const peak = best[4] === null ? "" : ` It takes ${(best[4] / cell.size).toFixed(1)} times the file of memory at its peak.`;
    const bottleneck = cell.bottleneck ? ` The bottleneck of the fastest is ${text(cell.bottleneck)}.` : "";
    const equal = others.length ? ` No difference was measured to ${text(others.join(", "))}.` : "";
    const left = arms.filter((arm) => !fits(arm)).length;
    const over = left ? ` ${left} of ${arms.length} loaders need more memory than the limit or did not record it.` : "";
    answer.innerHTML = `<div class="take"><p><b>Use ${text(name(best))}</b>: ready after ${time(best[1])} (${best[5]} loads).${equal}${peak}${bottleneck}${over}</p>` +
      `${call ? `<p><code>${text(call)}</code></p>` : ""}<p class="soft">Evidence: <a href="${encodeURIComponent(run)}.html">its run</a>, ${text(data.machines[cell.machine])}. Mapped pages count as memory, and the kernel can drop them.</p></div>` +
      bars([["Time to ready", arms.map((arm) => ({ name: name(arm), loader: data.loaders[arm[0]][0], median: arm[1], low: arm[2], high: arm[3], out: !fits(arm) }))]], "Thin line: 95 % interval of the median.");
  };
  form.hidden = false;
  build();
})();

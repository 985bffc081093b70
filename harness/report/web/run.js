"use strict";
// A person's run: samples.jsonl read in the browser, with the medians and exact intervals of harness/analysis/statistics.py.
window.weighbridge = (() => {
  const text = (value) => { const node = document.createElement("span"); node.textContent = value; return node.innerHTML; };
  const number = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : value >= 10 ? String(Number(value.toPrecision(2))) : value.toPrecision(2));
  const time = (seconds) => (seconds >= 1 ? `${number(seconds)} s` : `${number(seconds * 1e3)} ms`);
  const family = (loader) => (loader.startsWith("ceiling-") ? "c" : loader.includes("safetensors") ? "s"
    : /^(torch-|pickle-|assign-torch|copy-torch)|-(bin|ckpt)$/.test(loader) ? "p" : "o");
  const bars = (panels, caption) => {
    const longest = Math.max(...panels.flatMap(([, rows]) => rows.map((row) => row.high ?? row.median)), 1e-12);
    const share = (value) => `${(100 * value / longest).toFixed(1)}%`;
    const bar = (row) => `<div class="row ${family(row.loader)}${row.out ? " out" : ""}"><span class="n">${text(row.name)}</span><span class="bar"><i style="width:${share(row.median)}"></i>` +
      `${row.low === null ? "" : `<u style="left:${share(row.low)};width:${share(row.high - row.low)}"></u>`}</span><span class="v">${time(row.median)}</span></div>`;
    const panel = ([title, rows]) => `<div class="panel"><p class="ph">${text(title)}</p>${rows.map(bar).join("")}</div>`;
    return `<figure class="bars"><div class="panels${panels.length === 1 ? " one" : ""}">${panels.map(panel).join("")}</div><figcaption>${text(caption)}</figcaption></figure>`;
  };

  // The largest k for which the k-th smallest and k-th largest of n values hold the median with 95 %, in whole numbers.
  const ranks = new Map();
  const intervalRank = (count) => {
    if (ranks.has(count)) return ranks.get(count);
    const whole = 2n ** BigInt(count);
    let rank = null, below = 0n, ways = 1n;
    for (let k = 1; k <= Math.floor(count / 2); k++) {
      below += ways;
      ways = (ways * BigInt(count - k + 1)) / BigInt(k);
      if ((whole - 2n * below) * 100n < whole * 95n) break;
      rank = k;
    }
    ranks.set(count, rank);
    return rank;
  };
  const estimate = (values) => {
    if (!values.length) return null;
    const ordered = [...values].sort((a, b) => a - b), count = ordered.length, middle = count >> 1;
    const median = count % 2 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2;
    const rank = intervalRank(count);
    return { median, low: rank === null ? null : ordered[rank - 1], high: rank === null ? null : ordered[count - rank], count };
  };

  // Which loader the ratios of a scenario are taken to, and of which checkpoints to another.
  const references = JSON.parse(document.getElementById("references").textContent);
  const rules = JSON.parse(document.getElementById("rules").textContent);
  // Loaders that shaped storage kept late; where a ceiling is among them, all of the cell.
  const keptLate = (samples) => {
    const loaders = [...new Set(samples.map((sample) => sample.loader))];
    const late = loaders.filter((loader) => {
      const of = samples.filter((sample) => sample.loader === loader), count = of.filter((sample) => sample.reason === rules.late.reason).length;
      return count >= rules.late.loads && count > rules.late.share * of.length;
    });
    return late.some((loader) => loader.startsWith("ceiling-")) ? loaders : late;
  };
  const name = (sample) => [sample.scenario, sample.checkpoint, sample.part, sample.ranks && `${sample.ranks} ranks`, sample.cache_state, sample.device,
    (sample.storage ?? "as-is") === "as-is" ? null : sample.storage, sample.read_ahead_kb === null || sample.read_ahead_kb === undefined ? null : `readahead ${sample.read_ahead_kb} KiB`].filter(Boolean).join(" / ");
  const parse = (content) => content.split("\n").map((line, place) => [line.trim(), place + 1]).filter(([line]) => line).map(([line, place]) => {
    let sample;
    try { sample = JSON.parse(line); } catch { throw new Error(`Line ${place} is no JSON. Choose the samples.jsonl of a run.`); }
    if (typeof sample.loader !== "string" || typeof sample.valid !== "boolean") throw new Error(`Line ${place} is no sample of a load. Choose the samples.jsonl of a run.`);
    return sample;
  });

  // Each cell with its arms, fastest to ready first; a loader that gave wrong tensors once has no figure.
  const summarise = (samples) => {
    const cells = new Map();
    for (const sample of samples) {
      if (!cells.has(name(sample))) cells.set(name(sample), new Map());
      const arms = cells.get(name(sample)), arm = `${sample.loader}\n${sample.environment}`;
      if (!arms.has(arm)) arms.set(arm, []);
      arms.get(arm).push(sample);
    }
    return [...cells].map(([cell, arms]) => {
      const late = keptLate([...arms.values()].flat());
      const counted = new Map([...arms].map(([arm, of]) => [arm, of.some((sample) => rules.wrong.includes(sample.reason)) || late.includes(of[0].loader) ? [] : of.filter((sample) => sample.valid)]));
      const environments = new Set([...arms.keys()].map((arm) => arm.split("\n")[1]));
      const rows = [...arms].map(([arm, of]) => {
        const [loader, environment] = arm.split("\n"), valid = counted.get(arm), { scenario, checkpoint } = of[0];
        const [usual, others] = references[scenario] ?? references["full-load"], reference = others[checkpoint] ?? usual;
        const base = new Map((counted.get(`${reference}\n${environment}`) ?? []).map((sample) => [sample.block, sample]));
        const ratio = (field) => estimate(valid.filter((sample) => base.get(sample.block)?.[field] && sample[field] !== null && sample[field] !== undefined)
          .map((sample) => sample[field] / base.get(sample.block)[field]));
        const values = (field) => estimate(valid.map((sample) => sample[field]).filter((value) => value !== null && value !== undefined));
        return { loader, environment, label: environments.size > 1 ? `${loader} @ ${environment}` : loader, total: of.length, valid: of.filter((sample) => sample.valid).length,
          returned: values("returned_s"), ready: values("ready_s"), peak: values("peak_growth_bytes"), ratio: ratio("ready_s"), bytes: of[0].bytes, state: of[0].cache_state };
      });
      rows.sort((a, b) => (a.ready ? a.ready.median : Infinity) - (b.ready ? b.ready.median : Infinity));
      return { cell, rows };
    });
  };

  const spread = (of, show) => (of ? `${show(of.median)}${of.low === null ? " (too few for an interval)" : ` [${show(of.low)} to ${show(of.high)}]`}` : "none");
  const memory = ({ peak, bytes }) => (!peak ? "not recorded" : peak.median < 0.01 * bytes ? "under 0.01 times the file" : `${number(peak.median / bytes)} times the file`);
  const show = (samples, into) => {
    const cells = summarise(samples).filter(({ rows }) => rows.some((row) => row.ready));
    const counted = samples.filter((sample) => (sample.memory_limit_bytes ?? null) === null || !rules.failures.includes(sample.reason));
    const valid = counted.filter((sample) => sample.valid).length;
    const head = `<p><b>${valid.toLocaleString("en")} of ${counted.length.toLocaleString("en")} samples are valid</b>, in ${cells.length} ${cells.length === 1 ? "cell" : "cells"}.</p>`;
    if (!cells.length) { into.innerHTML = `${head}<p>No load has a valid sample, so there is no figure.</p>`; return; }
    const heads = ["loader", "returned", "ready", "ratio to the reference", "peak memory", "valid"];
    const table = (rows) => `<div class="scroll"><table class="stack"><thead><tr>${heads.map((title) => `<th>${title}</th>`).join("")}</tr></thead><tbody>${rows.map((row) => `<tr>${[
      text(row.label), spread(row.returned, time), spread(row.ready, time), spread(row.ratio, number), memory(row), `${row.valid} of ${row.total}`,
    ].map((cell, place) => `<td data-label="${heads[place]}"><div>${cell}</div></td>`).join("")}</tr>`).join("")}</tbody></table></div>`;
    const block = ({ cell, rows }, open) => `<details${open ? " open" : ""}><summary>${text(cell)}</summary>` +
      bars([["Time to ready", rows.filter((row) => row.ready).map((row) => ({ name: row.label, loader: row.loader, ...row.ready }))]], "Thin line: 95 % interval of the median.") + table(rows) + "</details>";
    into.innerHTML = head + cells.map((cell, place) => block(cell, place < 2)).join("");
  };
  const read = async (file) => {
    if (!file.name.endsWith(".gz")) return file.text();
    return new Response(file.stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const input = document.getElementById("run-file"), into = document.getElementById("run-result");
  input?.addEventListener("change", async () => {
    try { show(parse(await read(input.files[0])), into); } catch (error) { into.innerHTML = `<p class="no">${text(error.message)}</p>`; }
  });
  return { bars, time, estimate, intervalRank, parse, summarise };
})();

// The table of MatchingLab: every cost with the pairs on it, or one step of the Hungarian algorithm with its
// potentials, slack and path, in the words and signs of the figures of notebook 02.

const FREE = 1e-9;

// Rows and columns that take part in the search at a step.
export function searching(step) {
  if (step.kind === "augment") return { rows: new Set(), columns: new Set() };
  const reached = new Set(step.visited.flatMap((seen, index) => (seen ? [index] : [])));
  const byRows = step.adds === "rows",
    owners = new Set([step.added]);
  for (const [row, column] of step.matching) if (reached.has(byRows ? column : row)) owners.add(byRows ? row : column);
  return byRows ? { rows: owners, columns: reached } : { rows: reached, columns: owners };
}

// What happens at a step, and why, in words.
export function happens(steps, index) {
  const step = steps[index],
    byRows = step.adds === "rows",
    [short, long] = byRows ? ["q", "o"] : ["o", "q"];
  const [own, other] = byRows
    ? [step.rowPotentials, step.columnPotentials]
    : [step.columnPotentials, step.rowPotentials];
  const [ours, theirs] = byRows ? ["u", "v"] : ["v", "u"],
    enters = `${short}${step.added}`;
  if (step.kind === "start")
    return `${enters} enters with ${ours} = ${number(own[step.added])}, its smallest cost − ${theirs}`;
  if (step.kind === "augment") {
    return step.path.length > 1
      ? `the path is flipped: + enters, − leaves, and ${enters} is matched`
      : `${enters} is matched`;
  }
  const before = steps[index - 1],
    search = searching(before),
    names = (letter, set) =>
      [...set]
        .sort((a, b) => a - b)
        .map((i) => letter + i)
        .join(", ");
  const [rising, falling] = byRows ? [search.rows, search.columns] : [search.columns, search.rows];
  const rise = own[step.added] - (byRows ? before.rowPotentials : before.columnPotentials)[step.added];
  const goal = `${long}${step.reached}`,
    verb = (set, word) => `${word}${set.size > 1 ? "" : "s"}`;
  const how =
    rise > FREE
      ? `smallest slack ${number(rise)} (${goal}): ${names(short, rising)} ${verb(rising, "rise")} by it` +
        (falling.size ? `, ${names(long, falling)} ${verb(falling, "fall")} by it` : "")
      : `${goal} has slack 0: reached without a rise`;
  const owner = step.matching.find((pair) => pair[byRows ? 1 : 0] === step.reached);
  return (
    `${how}; ` +
    (owner ? `its owner ${short}${owner[byRows ? 0 : 1]} joins the search` : `${goal} is free: the path ends here`)
  );
}

export class CostTable {
  constructor() {
    this.table = make("table", { class: "costs" });
    this.caption = this.table.appendChild(make("caption"));
    const head = this.table.appendChild(make("thead"));
    [this.groups, this.head, this.second] = Array.from({ length: 3 }, () => head.appendChild(make("tr")));
    this.body = this.table.appendChild(make("tbody"));
    this.foot = this.table.appendChild(make("tfoot")).appendChild(make("tr"));
    this.node = make("div", { class: "scroll" }, this.table);
  }

  // All costs; beside them, where `losses` is given, what each query adds to the loss.
  costs({ cost, terms, optimal, greedy, losses = null, picked }) {
    const objects = cost[0]?.length ?? 0,
      all = cost.flat(),
      [low, high] = [Math.min(...all), Math.max(...all)];
    say(this.caption, losses ? "" : "matching cost = class + L1 + GIoU");
    cells(this.groups, losses ? ["", "matching cost", "adds to the loss"] : [], "th");
    if (losses)
      [1, objects, 4].forEach((span, i) => put(this.groups.children[i], { colspan: span || 1, scope: "colgroup" }));
    const parts = losses ? ["class", "L1", "GIoU", "sum"] : [];
    cells(this.head, ["", ...(cost[0]?.map((_, t) => `o${t}`) ?? []), ...parts], "th").forEach((node) =>
      put(node, { class: null, scope: "col", "aria-label": null }),
    );
    cells(this.second, []);
    cells(this.foot, []);
    pool(this.body, cost.length, () => make("tr")).forEach((row, q) => {
      const added = losses ? [losses.label[q], losses.l1[q], losses.giou[q]] : [];
      if (losses) added.push(added[0] + added[1] + added[2]);
      const [name, ...rest] = cells(row, [
        `q${q}`,
        ...cost[q].map((value) => number(value)),
        ...added.map((value) => number(value)),
      ]);
      put(name, { class: q === picked ? "name picked" : "name", "aria-label": null });
      rest.slice(0, objects).forEach((cell, t) => {
        const mine = has(optimal, q, t),
          greedys = has(greedy, q, t),
          heat = high > low ? (cost[q][t] - low) / (high - low) : 0.5;
        put(cell, {
          class: ["cost", mine && "optimal", greedys && "greedy"].filter(Boolean).join(" "),
          style: `--heat: ${heat.toFixed(3)}`,
          title: Object.entries(terms)
            .map(([term, table]) => `${term} ${number(table[q][t])}`)
            .join(", "),
          "aria-label": `${number(cost[q][t])}${mine ? ", optimal" : ""}${greedys ? ", greedy" : ""}`,
        });
        sign(cell, `${mine ? "●" : ""}${greedys ? "○" : ""}`);
      });
      rest
        .slice(objects)
        .forEach((cell, i) =>
          put(cell, { class: i === 3 ? "loss sum" : "loss", style: null, title: null, "aria-label": null }),
        );
    });
  }

  // One step: in each cell the cost, and under it the reduced cost.
  step({ cost }, step) {
    const byRows = step.adds === "rows",
      search = searching(step),
      over = step.kind === "augment";
    const known = (q, t) => (byRows ? q : t) <= step.added,
      slack = (i) => (over ? "" : step.visited[i] ? "in" : number(step.slack[i]));
    say(this.caption, "in each cell: cost, and below it cost − u − v");
    cells(this.groups, []);
    const heads = cells(
      this.head,
      ["", "u", ...step.columnPotentials.map((_, t) => `o${t}`), ...(byRows ? [] : ["slack"])],
      "th",
    );
    heads.forEach((node, i) =>
      put(node, {
        class: search.columns.has(i - 2) ? "in-search" : !byRows && i - 2 > step.added ? "pale" : null,
        "aria-label": search.columns.has(i - 2) ? `o${i - 2}, in the search` : null,
        scope: "col",
      }),
    );
    heads.forEach((node, i) => sign(node, search.columns.has(i - 2) ? "▾" : ""));
    cells(this.second, [
      "v",
      "",
      ...step.columnPotentials.map((v, t) => (known(-1, t) || byRows ? number(v) : "")),
      ...(byRows ? [] : [""]),
    ]).forEach((node) => put(node, { class: "potential" }));
    pool(this.body, cost.length, () => make("tr")).forEach((row, q) => {
      const entered = !byRows || q <= step.added;
      const reduced = cost[q].map((value, t) => value - step.rowPotentials[q] - step.columnPotentials[t]);
      const [name, potential, ...rest] = cells(row, [
        `q${q}`,
        entered ? number(step.rowPotentials[q]) : "",
        ...reduced.map((value, t) => (known(q, t) ? number(value) : "")),
        ...(byRows ? [] : [slack(q)]),
      ]);
      put(name, {
        class: search.rows.has(q) ? "name in-search" : entered ? "name" : "name pale",
        "aria-label": search.rows.has(q) ? `q${q}, in the search` : null,
      });
      sign(name, search.rows.has(q) ? "▸" : "");
      put(potential, { class: "potential", style: null, title: null, "aria-label": null });
      cost[q].forEach((value, t) => {
        const cell = rest[t],
          free = known(q, t) && Math.abs(reduced[t]) < FREE,
          taken = has(step.matching, q, t);
        const place = over ? -1 : step.path.findIndex(([r, c]) => r === q && c === t),
          way = place < 0 ? "" : place % 2 ? "−" : "+";
        put(cell, {
          class: ["cost", "reduced", free && "free", taken && "optimal", way && "path"].filter(Boolean).join(" "),
          style: null,
          title: null,
        });
        say(cell.children[0], number(value));
        sign(cell, way || (taken ? "●" : ""));
        const said = [known(q, t) ? `reduced cost ${number(reduced[t])}` : "not entered", `cost ${number(value)}`];
        const marks = [
          free && "free",
          taken && "matched",
          way && (way === "+" ? "enters by the path" : "leaves by the path"),
        ].filter(Boolean);
        put(cell, { "aria-label": [...said, ...marks].join(", ") });
      });
      if (!byRows) put(rest.at(-1), { class: "potential", style: null, title: null, "aria-label": null });
    });
    cells(this.foot, byRows ? ["", "slack", ...cost[0].map((_, t) => slack(t))] : []);
  }
}

function has(pairs, q, t) {
  return pairs.some(([row, column]) => row === q && column === t);
}

// A row's cells in nodes that stay: a small number above, the number, a sign; the first is the row's name.
function cells(row, texts, tag = "td") {
  const parts = () => [make("small"), make("span"), make("i", { "aria-hidden": "true" })];
  const nodes = pool(row, texts.length, (i) =>
    i || tag === "th" ? make(tag, {}, ...parts()) : make("th", { scope: "row" }, ...parts()),
  );
  nodes.forEach((node, i) => {
    [
      ["", 0],
      [texts[i], 1],
      ["", 2],
    ].forEach(([text, part]) => say(node.children[part], text));
  });
  return nodes;
}

function sign(cell, mark) {
  say(cell.children[2], mark);
}

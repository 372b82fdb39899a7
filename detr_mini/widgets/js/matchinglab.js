// A scene with objects and predictions: every cost, the cheapest assignment, greedy's, and the algorithm step by step.

const NOBODY = -1, ASIDE = 0.02, PLAY_MS = 900, SMALL_PROBABILITY = 1e-12;

// All that the picture shows of a state; the pure part, which Python computes too.
export function matchingView(state, given) {
  const { boxes, probabilities, truth, weights } = state;
  const { terms, cost } = matchingCost(boxes, probabilities, truth.boxes, truth.labels, weights);
  const steps = trace(cost), optimal = steps.length ? steps.at(-1).matching : [], greedily = greedy(cost);
  return {
    terms, cost, steps, optimal, greedy: greedily,
    optimalTotal: total(cost, optimal), greedyTotal: total(cost, greedily),
    losses: pairLosses(boxes, probabilities, truth.boxes, truth.labels, optimal, given.loss_weights),
  };
}

// One class's probability set to p; the others share what is left as they did before.
export function withProbability(list, index, p) {
  const rest = list.reduce((sum, value, i) => (i === index ? sum : sum + value), 0);
  return list.map((value, i) => (i === index ? p : rest > SMALL_PROBABILITY ? (value / rest) * (1 - p) : (1 - p) / (list.length - 1)));
}

// What happens at a step, in words.
export function happens(steps, index, number = shortNumber) {
  const step = steps[index], [shorter, longer] = step.adds === "rows" ? ["q", "o"] : ["o", "q"];
  if (step.kind === "start") return `${shorter}${step.added} enters`;
  if (step.kind === "augment") return `${shorter}${step.added} is matched${step.path.length > 1 ? ": the path is flipped" : ""}`;
  const of = (one) => (one.adds === "rows" ? one.rowPotentials : one.columnPotentials)[step.added];
  return `rise by ${number(of(step) - of(steps[index - 1]))}, reach ${longer}${step.reached}`;
}

// The ends of a line between two boxes, a little aside, so that greedy's line does not lie under the optimal one.
function ends([x1, y1], [x2, y2], aside) {
  const length = Math.hypot(x2 - x1, y2 - y1) || 1, [dx, dy] = [(-(y2 - y1) / length) * aside, ((x2 - x1) / length) * aside];
  return { from: [x1 + dx, y1 + dy], to: [x2 + dx, y2 + dy] };
}

function shortNumber(value) {
  return Number.isFinite(value) ? (Math.abs(value) < 5e-4 ? 0 : value).toFixed(2).replace("-", "−") : "∞";
}

function buildMatchingLab(root, line, { guarded, redraw }) {
  let picked = 0, player = null;
  const change = (part) => { line.change(part); redraw(); };
  const replaced = (list, index, value) => list.map((one, i) => (i === index ? value : one));
  const stage = new Stage({
    label: "a scene with objects and predictions: tab to a prediction, arrows move it, shift with arrows resizes it, delete removes it",
    guarded,
    moved: (index, box) => change({ boxes: replaced(line.state.boxes, index - line.state.truth.boxes.length, box), step: null }),
    picked: (index) => { picked = index - line.state.truth.boxes.length; redraw(); },
    removed: (index) => remove(index - line.state.truth.boxes.length),
  });
  const remove = (query) => {
    const without = (list) => list.filter((_, i) => i !== query);
    change({ boxes: without(line.state.boxes), probabilities: without(line.state.probabilities), step: null });
    picked = Math.min(query, line.state.boxes.length - 1);
    redraw();
    stage.focus(picked + line.state.truth.boxes.length);
  };
  const add = () => {
    const { boxes, probabilities } = line.state, { names } = line.given, even = Array(names.length + 1).fill(1 / (names.length + 1));
    picked = boxes.length;
    const shift = 0.06 * (boxes.length % 5);
    change({ boxes: [...boxes, [0.4 + shift, 0.4 + shift, 0.25, 0.25]], probabilities: [...probabilities, even], step: null });
    stage.focus(picked + line.state.truth.boxes.length);
  };

  const preset = choice("scene", ["own", ...Object.keys(line.given.presets)], (name) => {
    if (name === "own") return redraw();
    picked = 0;
    const { truth, boxes, probabilities, weights } = structuredClone(line.given.presets[name]);
    change({ truth, boxes, probabilities, weights, preset: name, step: null });
  });
  const says = make("p", { class: "says" });
  const lines = choice("lines", ["optimal", "greedy", "both"], (shown) => change({ shown }));
  const bar = make(
    "div", { class: "bar" }, preset.node, lines.node,
    button("add a prediction", "add a prediction", guarded(add)),
    button("remove it", "remove the selected prediction", guarded(() => picked >= 0 && line.state.boxes.length && remove(picked))),
  );

  const table = make("table", { class: "costs" }), caption = make("caption"), head = make("tr"), body = make("tbody"), foot = make("tr");
  table.append(caption, make("thead", {}, head), body, make("tfoot", {}, foot));
  const totals = make("p", { class: "totals", "aria-live": "polite" });
  const weights = [["label", "class weight"], ["l1", "L1 weight"], ["giou", "GIoU weight"]].map(([key, text]) => [
    key, slider(text, { min: 0, max: 10, step: 0.1 }, guarded((value) => change({ weights: { ...line.state.weights, [key]: value }, step: null }))),
  ]);
  const sure = make("div", { class: "sliders" }), sureTitle = make("p", { class: "small" });
  const notes = make("p", { class: "notes" });

  const go = (to) => {
    const count = matchingView(line.state, line.given).steps.length;
    if (count) change({ step: clamp(to, 0, count - 1) });
  };
  const stop = () => { clearInterval(player); player = null; redraw(); };
  const play = button("play", "play the algorithm", guarded(() => {
    if (player) return stop();
    if ((line.state.step ?? Infinity) >= matchingView(line.state, line.given).steps.length - 1) go(0);
    player = setInterval(guarded(() => {
      const count = matchingView(line.state, line.given).steps.length;
      if (!root.isConnected || line.state.step === null || line.state.step >= count - 1) return stop();
      go(line.state.step + 1);
    }), PLAY_MS);
    redraw();
  }));
  const leave = button("costs", "leave the steps and show the costs", guarded(() => { stop(); change({ step: null }); }));
  const stepText = make("output", { class: "step", "aria-live": "polite" });
  const stepper = make(
    "div", { class: "bar stepper", role: "group", "aria-label": "the Hungarian algorithm step by step" }, make("span", {}, "Hungarian algorithm"),
    button("|◀", "first step", guarded(() => go(0))),
    button("◀", "one step back", guarded(() => go((line.state.step ?? 0) - 1))),
    play,
    button("▶", "one step forward", guarded(() => go((line.state.step ?? -1) + 1))),
    button("▶|", "last step", guarded(() => go(Infinity))),
    leave, stepText,
  );
  root.append(
    bar, says,
    make("div", { class: "columns" },
      make("div", { class: "left" }, stage.node, sureTitle, sure),
      make("div", { class: "aside" }, make("div", { class: "scroll" }, table), totals, stepper, make("div", { class: "sliders" }, ...weights.map(([, one]) => one.node)), notes)),
  );
  let sliders = [];

  return () => {
    const state = line.state, { boxes, probabilities, truth } = state, T = truth.boxes.length;
    const { names } = line.given, scene = line.given.presets[state.preset] ?? { says: "", image: line.given.image };
    picked = clamp(picked, Math.min(0, boxes.length - 1), boxes.length - 1);
    const view = matchingView(state, line.given), step = state.step === null ? null : view.steps[Math.min(state.step, view.steps.length - 1)] ?? null;
    const now = step ? step.matching : view.optimal, owner = boxes.map((_, q) => now.find(([row]) => row === q)?.[1] ?? NOBODY);
    preset.set(state.preset ?? "own");
    lines.set(state.shown);
    say(says, scene.says);
    for (const [key, one] of weights) one.set(state.weights[key]);
    const best = (q) => probabilities[q].indexOf(Math.max(...probabilities[q]));
    const classOf = (index) => names[index] ?? "no object";
    stage.draw({
      items: [
        ...truth.boxes.map((box, t) => ({ box, name: `o${t} ${names[truth.labels[t]]}`, kind: "object", movable: false, below: true, words: `object ${t}, ${names[truth.labels[t]]}` })),
        ...boxes.map((box, q) => ({
          box, name: `q${q}`, kind: owner[q] === NOBODY ? "query unmatched" : "query", movable: true,
          words: `prediction ${q}, ${classOf(best(q))}, centre ${box[0].toFixed(2)} ${box[1].toFixed(2)}, size ${box[2].toFixed(2)} ${box[3].toFixed(2)}, ` +
            (owner[q] === NOBODY ? "without an object" : `answers for object ${owner[q]}`),
        })),
      ],
      selected: picked < 0 ? -1 : picked + T, image: scene.image,
      lines: [
        ...(state.shown === "optimal" ? [] : view.greedy.map((pair) => ({ pair, kind: "greedy" }))),
        ...(state.shown === "greedy" ? [] : now.map((pair) => ({ pair, kind: "matched" }))),
      ].map(({ pair: [q, t], kind }) => ({ ...ends(boxes[q], truth.boxes[t], kind === "greedy" ? ASIDE : 0), kind })),
    });
    const even = probabilities[picked];
    const shownClasses = even ? [...new Set([...truth.labels, best(picked), names.length])].sort((a, b) => a - b) : [];
    say(sureTitle, even ? `what q${picked} says` : "no prediction: add one");
    if (sliders.length !== shownClasses.length) {
      sliders = shownClasses.map((_, k) => slider("", { min: 0, max: 1, step: 0.01 }, guarded((p) => {
        const query = picked, index = sliders.classes[k];
        change({ probabilities: replaced(line.state.probabilities, query, withProbability(line.state.probabilities[query], index, p)), step: null });
      })));
      sure.replaceChildren(...sliders.map((one) => one.node));
    }
    sliders.classes = shownClasses;
    shownClasses.forEach((index, k) => sliders[k].set(even[index], classOf(index)));
    if (step) drawSteps(view, step, state);
    else drawCosts(view, state);
    put(play, { "aria-pressed": Boolean(player) });
    say(play, player ? "pause" : "play");
    const index = Math.min(state.step ?? 0, view.steps.length - 1);
    say(stepText, step ? `step ${index + 1} of ${view.steps.length}: ${happens(view.steps, index)}` : view.steps.length ? `${view.steps.length} steps` : "nothing to match");
    leave.disabled = !step;
    say(totals, totalsText(view, state, line.given.show_losses));
    say(notes, notesOn(state, view).join(" "));
  };

  function drawCosts(view, { boxes, truth }) {
    const withLosses = line.given.show_losses;
    say(caption, "matching cost = class + L1 + GIoU");
    const extra = withLosses ? ["class", "L1", "GIoU", "loss"] : [];
    cells(head, ["", ...truth.boxes.map((_, t) => `o${t}`), ...extra], "th");
    const all = view.cost.flat(), [low, high] = [Math.min(...all), Math.max(...all)];
    const rows = pool(body, boxes.length, () => make("tr"));
    rows.forEach((row, q) => {
      const { label, l1: side, giou: overlap } = view.losses, parts = withLosses ? [label[q], side[q], overlap[q]] : [];
      const losses = withLosses ? [...parts, parts[0] + parts[1] + parts[2]].map((value) => value.toFixed(2)) : [];
      const nodes = cells(row, [`q${q}`, ...view.cost[q].map(shortNumber), ...losses]);
      put(nodes[0], { class: q === picked ? "name picked" : "name", style: null });
      truth.boxes.forEach((_, t) => {
        const mine = view.optimal.some(([r, c]) => r === q && c === t), greedys = view.greedy.some(([r, c]) => r === q && c === t);
        const heat = high > low ? (view.cost[q][t] - low) / (high - low) : 0.5;
        put(nodes[t + 1], {
          class: ["cost", mine && "optimal", greedys && "greedy"].filter(Boolean).join(" "), style: `--heat: ${heat.toFixed(3)}`,
          title: Object.entries(view.terms).map(([name, term]) => `${name} ${shortNumber(term[q][t])}`).join(", "),
          "aria-label": `${shortNumber(view.cost[q][t])}${mine ? ", optimal" : ""}${greedys ? ", greedy" : ""}`,
        });
        mark(nodes[t + 1], `${mine ? "●" : ""}${greedys ? "○" : ""}`);
      });
      nodes.slice(truth.boxes.length + 1).forEach((node) => put(node, { class: "loss", style: null, title: null, "aria-label": null }));
    });
    cells(foot, []);
  }

  function drawSteps(view, step, { boxes, truth }) {
    say(caption, "reduced costs = cost − potentials");
    const byRows = step.adds === "rows", visited = new Set(step.visited.flatMap((v, i) => (v ? [i] : [])));
    const known = (q, t) => (byRows ? q : t) <= step.added, slackOf = (i) => (step.visited[i] ? "in" : shortNumber(step.slack[i]));
    cells(head, ["", "u \\ v", ...step.columnPotentials.map((v, t) => `o${t}: ${shortNumber(v)}`), ...(byRows ? [] : ["slack"])], "th");
    const rows = pool(body, boxes.length, () => make("tr"));
    rows.forEach((row, q) => {
      const reduced = truth.boxes.map((_, t) => view.cost[q][t] - step.rowPotentials[q] - step.columnPotentials[t]);
      const nodes = cells(row, [`q${q}`, shortNumber(step.rowPotentials[q]), ...reduced.map((value, t) => (known(q, t) ? shortNumber(value) : "")), ...(byRows ? [] : [slackOf(q)])]);
      put(nodes[0], { class: (byRows ? q === step.added : visited.has(q)) && step.kind !== "augment" ? "name picked" : "name", style: null });
      put(nodes[1], { class: "potential", style: null, title: null, "aria-label": null });
      truth.boxes.forEach((_, t) => {
        const place = step.path.findIndex(([r, c]) => r === q && c === t), taken = step.matching.some(([r, c]) => r === q && c === t);
        const onPath = place >= 0 && step.kind !== "augment";
        put(nodes[t + 2], {
          class: ["cost", "reduced", known(q, t) && Math.abs(reduced[t]) < 1e-9 && "free", taken && "optimal", onPath && "path"].filter(Boolean).join(" "),
          style: null, title: `cost ${shortNumber(view.cost[q][t])}`, "aria-label": null,
        });
        mark(nodes[t + 2], onPath ? (place % 2 ? "−" : "+") : taken ? "●" : "");
      });
      if (!byRows) put(nodes.at(-1), { class: "potential", style: null, title: null, "aria-label": null });
    });
    cells(foot, byRows ? ["", "slack", ...truth.boxes.map((_, t) => slackOf(t))] : []);
  }
}

// A row's cells: texts in nodes that stay.
function cells(row, texts, tag = "td") {
  const nodes = pool(row, texts.length, () => make(tag, {}, make("span"), make("i", { "aria-hidden": "true" })));
  nodes.forEach((node, i) => {
    say(node.children[0], texts[i]);
    say(node.children[1], "");
  });
  return nodes;
}

function mark(cell, sign) {
  say(cell.children[1], sign);
}

function totalsText(view, { boxes, truth }, withLosses) {
  if (!truth.boxes.length) return "No objects: an empty table, nothing to pay; every query learns to say nothing.";
  if (!boxes.length) return "No predictions: nothing can be matched.";
  const loss = ["label", "l1", "giou"].reduce((sum, part) => sum + view.losses[part].reduce((all, one) => all + one, 0), 0);
  return `● optimal ${shortNumber(view.optimalTotal)}   ○ greedy ${shortNumber(view.greedyTotal)}` + (withLosses ? `   loss ${loss.toFixed(2)}` : "");
}

function notesOn({ boxes, probabilities, truth }, view) {
  const notes = [];
  probabilities.forEach((list, q) => {
    const sum = list.reduce((all, one) => all + one, 0);
    if (Math.abs(sum - 1) > 1e-3) notes.push(`q${q}'s probabilities add up to ${sum.toFixed(2)}; they are divided by it.`);
  });
  boxes.forEach((box, q) => {
    const [x1, y1, x2, y2] = corners(box);
    if (x2 <= 0 || y2 <= 0 || x1 >= 1 || y1 >= 1) notes.push(`q${q} lies outside the image.`);
    if (!(box[2] > 0 && box[3] > 0)) notes.push(`q${q} has no area.`);
  });
  if (truth.boxes.length > boxes.length && boxes.length) notes.push(`${truth.boxes.length} objects, ${boxes.length} predictions: the rest is not trained.`);
  if (view.greedyTotal - view.optimalTotal > 5e-3) notes.push(`Greedy pays ${shortNumber(view.greedyTotal - view.optimalTotal)} more.`);
  return notes;
}

export default widget("MatchingLab", buildMatchingLab);

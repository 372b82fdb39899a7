// A scene with objects and predictions: every cost, the cheapest assignment, greedy's, and the algorithm step by step.

const NOBODY = -1,
  PLAY_MS = 1200,
  SMALL_PROBABILITY = 1e-12,
  BOW = 0.22;
const OWN = "own scene",
  MANY_PAIRS = 12,
  CLOSE_TOTALS = 5e-3;
const SCENE = ["truth", "boxes", "probabilities", "weights"];

// All that the picture shows of a state; the pure part, which Python computes too.
export function matchingView(state, given) {
  const { boxes, probabilities, truth, weights } = state;
  const { terms, cost } = matchingCost(boxes, probabilities, truth.boxes, truth.labels, weights);
  const steps = trace(cost),
    optimal = steps.length ? steps.at(-1).matching : [],
    greedily = greedy(cost);
  return {
    terms,
    cost,
    steps,
    optimal,
    greedy: greedily,
    optimalTotal: total(cost, optimal),
    greedyTotal: total(cost, greedily),
    margin: margin(cost, optimal),
    losses: pairLosses(boxes, probabilities, truth.boxes, truth.labels, optimal, given.loss_weights),
  };
}

// What the second-best assignment costs more: at least one of the optimal pairs is not in it. Null for too many pairs.
function margin(cost, optimal) {
  if (optimal.length > MANY_PAIRS) return null;
  const forbidden = 2 * cost.flat().reduce((sum, value) => sum + Math.abs(value), 0) + 1;
  let best = Infinity;
  for (const [row, column] of optimal) {
    const others = assign(
      cost.map((line, r) => (r === row ? line.map((value, c) => (c === column ? forbidden : value)) : line)),
    );
    if (!others.some(([r, c]) => r === row && c === column)) best = Math.min(best, total(cost, others));
  }
  return best - total(cost, optimal);
}

// One class's probability set to p; the others share what is left as they did before.
export function withProbability(list, index, p) {
  const rest = list.reduce((sum, value, i) => (i === index ? sum : sum + value), 0);
  return list.map((value, i) =>
    i === index ? p : rest > SMALL_PROBABILITY ? (value / rest) * (1 - p) : (1 - p) / (list.length - 1),
  );
}

function replaced(list, index, value) {
  return list.map((one, i) => (i === index ? value : one));
}

function buildMatchingLab(root, line, { guarded, redraw }) {
  const { given } = line,
    { names } = given;
  let picked = 0,
    view = null;
  line.fits = ({ boxes, probabilities }) => boxes.length === probabilities.length;
  const change = (part) => {
    if (part.step === null) stop();
    line.change(part);
    redraw();
  };
  const objects = () => line.state.truth.boxes.length;
  const stage = new Stage({
    label:
      "a scene with objects and predictions: tab to a prediction, arrows move it, shift with arrows resizes it, delete removes it",
    guarded,
    moved: (index, box) => change({ boxes: replaced(line.state.boxes, index - objects(), box), step: null }),
    picked: (index) => {
      picked = index - objects();
      redraw();
    },
    removed: (index) => {
      remove(index - objects());
      if (line.state.boxes.length) stage.focus(picked + objects());
      else addOne.focus();
    },
  });
  const remove = (query) => {
    const without = (list) => list.filter((_, i) => i !== query);
    picked = Math.min(query, line.state.boxes.length - 2);
    change({ boxes: without(line.state.boxes), probabilities: without(line.state.probabilities), step: null });
  };
  const add = () => {
    const { boxes, probabilities } = line.state,
      even = Array(names.length + 1).fill(1 / (names.length + 1));
    picked = boxes.length;
    const shift = 0.06 * (boxes.length % 5);
    change({
      boxes: [...boxes, [0.4 + shift, 0.4 + shift, 0.25, 0.25]],
      probabilities: [...probabilities, even],
      step: null,
    });
    stage.focus(picked + objects());
  };

  const start = () => given.presets[line.state.preset] ?? given.own;
  const load = (name) => {
    const scene = given.presets[name] ?? given.own;
    if (!scene) return redraw();
    picked = 0;
    change({
      ...structuredClone(Object.fromEntries(SCENE.map((key) => [key, scene[key]]))),
      preset: name in given.presets ? name : null,
      step: null,
    });
  };
  const preset = choice("scene", [OWN, ...Object.keys(given.presets)], guarded(load));
  const own = preset.node.querySelector("option");
  preset.node.hidden = !Object.keys(given.presets).length;
  const reset = button(
    "reset",
    "take back all changes to this scene",
    guarded(() => {
      load(line.state.preset ?? OWN);
      addOne.focus(); // this one is off now
    }),
  );
  const says = make("p", { class: "says" });
  const lines = choice(
    "lines",
    ["optimal", "greedy", "both"],
    guarded((shown) => change({ shown })),
  );
  const addOne = button("add", "one more prediction", guarded(add));
  const removeOne = button(
    "remove",
    "the selected prediction",
    guarded(() => {
      remove(picked);
      if (!line.state.boxes.length) addOne.focus();
    }),
  );
  const bar = make(
    "div",
    { class: "bar" },
    preset.node,
    reset,
    lines.node,
    make("span", { class: "group", role: "group", "aria-label": "predictions" }, "prediction", addOne, removeOne),
  );
  const under = make(
    "p",
    { class: "small signs" },
    "blue: predictions, dotted without an object; orange dashed: objects",
  );

  const table = new CostTable(),
    signs = make("p", { class: "small signs" });
  const totals = make("p", { class: "totals", "aria-live": "polite" }),
    parts = make("div", { class: "small parts" });
  const notes = make("p", { class: "notes" });
  const weights = [
    ["label", "class weight"],
    ["l1", "L1 weight"],
    ["giou", "GIoU weight"],
  ].map(([key, text]) => [
    key,
    slider(
      text,
      { min: 0, max: 10, step: 0.05 },
      guarded((value) => change({ weights: { ...line.state.weights, [key]: value }, step: null })),
    ),
  ]);
  const stepper = buildStepper(root, {
    count: () => view.steps.length,
    now: () => line.state.step,
    go: (step) => change({ step }),
    redraw,
    guarded,
  });
  const stop = () => stepper.stop();
  const sure = buildProbabilities(
    (query, list) => change({ probabilities: replaced(line.state.probabilities, query, list), step: null }),
    guarded,
  );
  root.append(
    bar,
    says,
    make(
      "div",
      { class: "columns matching" },
      make("div", { class: "scene" }, stage.node, under),
      make(
        "div",
        { class: "aside" },
        stepper.node,
        table.node,
        signs,
        totals,
        parts,
        notes,
        make("p", { class: "small" }, "weights of the matching"),
        make("div", { class: "sliders" }, ...weights.map(([, one]) => one.node)),
      ),
      make("div", { class: "turn" }, sure.node),
    ),
  );

  return () => {
    const { state } = line,
      { boxes, probabilities, truth } = state,
      scene = start();
    picked = clamp(picked, Math.min(0, boxes.length - 1), boxes.length - 1);
    view = matchingView(state, given);
    const step = state.step === null ? null : (view.steps[Math.min(state.step, view.steps.length - 1)] ?? null);
    const now = step ? step.matching : view.optimal,
      owner = boxes.map((_, q) => now.find(([row]) => row === q)?.[1] ?? NOBODY);
    own.hidden = own.disabled = state.preset !== null && !given.own;
    preset.set(state.preset ?? OWN);
    lines.set(state.shown);
    lines.node.hidden = Boolean(step);
    const moved = scene && SCENE.some((key) => JSON.stringify(scene[key]) !== JSON.stringify(state[key]));
    reset.disabled = !moved;
    say(says, moved ? "changed; reset shows the scene as it began" : (scene?.says ?? ""));
    removeOne.disabled = !boxes.length;
    for (const [key, one] of weights) {
      const input = one.node.querySelector("input");
      put(input, { max: Math.max(input.max, state.weights[key]) }); // it never shrinks under the hand
      one.set(state.weights[key]);
    }
    stage.draw({
      ...pictured(state, names, owner, sure.classOf),
      image: scene?.image ?? given.image,
      lines: connections(state, view, step),
      selected: picked < 0 ? -1 : picked + truth.boxes.length,
    });
    sure.draw(picked, probabilities, truth.labels, names);
    if (step) table.step(view, step);
    else table.costs({ ...view, losses: given.show_losses ? view.losses : null, picked });
    say(signs, step ? STEP_SIGNS : truth.boxes.length && boxes.length ? COST_SIGNS : "");
    stepper.draw(step && happens(view.steps, Math.min(state.step, view.steps.length - 1)));
    say(totals, totalsText(view, state, step, given.show_losses));
    const rows = step || picked < 0 ? [] : explained(view, picked);
    pool(parts, rows.length, () => make("div")).forEach((node, i) => say(node, rows[i]));
    say(notes, notesOn(state, view, step).join(" "));
  };
}

const COST_SIGNS = "● framed: an optimal pair; ○ dashed: greedy's; the bluer, the cheaper";
const STEP_SIGNS =
  "tinted: cost − u − v is 0; ● framed: matched so far; the path goes from + to + over −: when it is flipped, + enters and − leaves; ▸ ▾ filled names: in the search; slack: what is missing to reach, in: reached";

function pictured({ boxes, probabilities, truth }, names, owner, classOf) {
  const object = (box, t) => ({
    box,
    name: `o${t} ${names[truth.labels[t]]}`,
    kind: "object",
    movable: false,
    below: true,
    words: `object ${t}, ${names[truth.labels[t]]}`,
  });
  const prediction = (box, q) => ({
    box,
    name: `q${q}`,
    kind: owner[q] === NOBODY ? "query unmatched" : "query",
    movable: true,
    words:
      `prediction ${q}, ${classOf(probabilities[q], names)}, centre ${number(box[0])} ${number(box[1])}, size ${number(box[2])} ${number(box[3])}, ` +
      (owner[q] === NOBODY ? "without an object" : `answers for object ${owner[q]}`),
  });
  return { items: [...truth.boxes.map(object), ...boxes.map(prediction)] };
}

// Lines from predictions to objects: optimal straight, greedy's bowed; at a step what is matched, and the path.
function connections({ boxes, truth, shown }, view, step) {
  const drawn = ([q, t], kind, bow = 0) => ({ from: boxes[q].slice(0, 2), to: truth.boxes[t].slice(0, 2), kind, bow });
  if (!step) {
    return [
      ...(shown === "optimal" ? [] : view.greedy.map((pair) => drawn(pair, "greedy", BOW))),
      ...(shown === "greedy" ? [] : view.optimal.map((pair) => drawn(pair, "matched"))),
    ];
  }
  const path = step.kind === "augment" ? [] : step.path,
    leaves = path.filter((_, place) => place % 2);
  const stays = step.matching.filter(([q, t]) => !has(leaves, q, t));
  return [
    ...stays.map((pair) => drawn(pair, "matched")),
    ...path.map((pair, place) => drawn(pair, place % 2 ? "leaving" : "matched new")),
  ];
}

// The selected prediction's costs taken apart: for its object and the cheapest others.
function explained({ cost, terms, optimal }, q) {
  const mine = optimal.find(([row]) => row === q)?.[1];
  const order = cost[q].map((_, t) => t).sort((a, b) => (b === mine) - (a === mine) || cost[q][a] - cost[q][b]);
  const sum = (t) =>
    Object.entries(terms)
      .map(([name, table]) => `${name} ${number(table[q][t])}`)
      .join(" + ");
  return order.slice(0, 3).map((t) => `${t === mine ? "● " : ""}q${q} for o${t}: ${sum(t)} = ${number(cost[q][t])}`);
}

function totalsText(view, { boxes, truth }, step, withLosses) {
  const loss = ["label", "l1", "giou"].reduce(
    (sum, part) => sum + view.losses[part].reduce((all, one) => all + one, 0),
    0,
  );
  const and = withLosses && boxes.length && !step ? `   loss ${number(loss)}` : "";
  if (!truth.boxes.length) return `No objects: an empty table, and no cost; every query learns to say nothing.${and}`;
  if (!boxes.length) return "No predictions: nothing can be matched.";
  if (step)
    return `● matched so far: ${step.matching.length} of ${view.optimal.length}, cost ${number(total(view.cost, step.matching))}`;
  return `● optimal ${number(view.optimalTotal)}   ○ greedy ${number(view.greedyTotal)}${and}`;
}

function notesOn({ boxes, probabilities, truth }, view, step) {
  if (step) return [];
  const notes = [];
  if (view.greedyTotal - view.optimalTotal > CLOSE_TOTALS)
    notes.push(`Greedy pays ${number(view.greedyTotal - view.optimalTotal)} more.`);
  if (view.margin !== null && view.margin < 1e-9) notes.push("A tie: another assignment costs the same.");
  else if (Number.isFinite(view.margin ?? Infinity))
    notes.push(`The second-best assignment costs ${number(view.margin)} more.`);
  probabilities.forEach((list, q) => {
    const sum = list.reduce((all, one) => all + one, 0);
    if (Math.abs(sum - 1) > 1e-3) notes.push(`q${q}'s probabilities add up to ${number(sum)}; they are divided by it.`);
  });
  const look = (name, box) => {
    const [x1, y1, x2, y2] = corners(box);
    if (Math.max(...box) > 4)
      notes.push(`${name} is given in pixels, it seems: divide by the width and height of the image.`);
    else if (x2 <= 0 || y2 <= 0 || x1 >= 1 || y1 >= 1) notes.push(`${name} lies outside the image.`);
    if (!(box[2] > 0 && box[3] > 0)) notes.push(`${name} has no area.`);
  };
  truth.boxes.forEach((box, t) => look(`o${t}`, box));
  boxes.forEach((box, q) => look(`q${q}`, box));
  if (truth.boxes.length > boxes.length && boxes.length) {
    const short = truth.boxes.length - boxes.length;
    notes.push(
      `${counted(truth.boxes.length, "object")}, ${counted(boxes.length, "prediction")}: nobody answers for ${counted(short, "object")}.`,
    );
  }
  return notes;
}

function counted(count, name) {
  return `${count} ${name}${count === 1 ? "" : "s"}`;
}

// Buttons that walk through the steps of the algorithm, or let them play.
function buildStepper(root, { count, now, go, redraw, guarded }) {
  const to = (step) => {
    if (count()) go(clamp(step, 0, count() - 1));
  };
  const play = player(root, "the algorithm", { now, last: () => count() - 1, go: to, pace: PLAY_MS, redraw, guarded });
  const text = make("p", { class: "step", "aria-live": "polite" });
  const buttons = [
    button(
      "|◀",
      "first step",
      guarded(() => to(0)),
    ),
    button(
      "◀",
      "one step back",
      guarded(() => to((now() ?? 0) - 1)),
    ),
    play.node,
    button(
      "▶",
      "one step forward",
      guarded(() => to((now() ?? -1) + 1)),
    ),
    button(
      "▶|",
      "last step",
      guarded(() => to(Infinity)),
    ),
  ];
  const leave = button(
    "back to costs",
    "leave the steps",
    guarded(() => {
      play.stop();
      go(null);
      buttons.at(-2).focus(); // this one is off now
    }),
  );
  const node = make(
    "div",
    { class: "stepper", role: "group", "aria-label": "the Hungarian algorithm step by step" },
    make("div", { class: "bar" }, make("span", {}, "Hungarian algorithm"), ...buttons, leave),
    text,
  );
  return {
    node,
    stop: play.stop,
    draw(happening) {
      const steps = count(),
        index = Math.min(now() ?? 0, steps - 1);
      play.draw();
      for (const one of buttons) one.disabled = !steps;
      leave.disabled = happening === null;
      say(
        text,
        happening
          ? `step ${index + 1} of ${steps}: ${happening}`
          : steps
            ? `${counted(steps, "step")} to walk through`
            : "nothing to match",
      );
    },
  };
}

// What the selected prediction says: a slider for each class that matters. A slider stays while its prediction is
// selected, whatever becomes of its probability, so that it cannot vanish under the hand.
function buildProbabilities(changed, guarded) {
  const title = make("p", { class: "small" }),
    list = make("div", { class: "sliders" }),
    others = make("p", { class: "small" });
  const node = make("div", {}, title, list, others);
  let about = null,
    sliders = new Map(),
    current = [],
    turned = null; // the slider in the hand, what the row was before, and what it was made into
  const turn = (query, index, p) => {
    const same = turned?.index === index && turned.made.every((value, i) => value === current[i]);
    const before = same ? turned.before : current; // so that a slider at its end and back gives all others back
    turned = { index, before, made: withProbability(before, index, p) };
    changed(query, turned.made);
  };
  const best = (row) => {
    // none where two are the surest
    const most = Math.max(...row),
      at = row.indexOf(most);
    return row.lastIndexOf(most) === at ? at : -1;
  };
  return {
    node,
    classOf: (row, names) => (best(row) < 0 ? "no class surest" : (names[best(row)] ?? "no object")),
    draw(query, rows, labels, names) {
      const row = rows[query];
      current = row ?? [];
      say(title, row ? `what q${query} says: probabilities` : "no prediction: add one");
      const key = row ? `${query} of ${rows.length} for ${labels}` : "";
      if (key !== about) {
        about = key;
        sliders = new Map();
        list.replaceChildren();
      }
      const wanted = row
        ? [...new Set([...labels, best(row), names.length])].filter((index) => index >= 0).sort((a, b) => a - b)
        : [];
      for (const index of wanted) {
        if (sliders.has(index)) continue;
        const one = slider(
          "",
          { min: 0, max: 1, step: 0.01 },
          guarded((p) => turn(query, index, p)),
        );
        sliders.set(index, one);
        list.append(one.node);
      }
      for (const [index, one] of sliders) one.set(current[index], names[index] ?? "no object");
      const rest = current.filter((_, index) => !sliders.has(index));
      say(
        others,
        rest.length
          ? `the other ${rest.length === 1 ? "class" : `${rest.length} classes together`}: ${number(rest.reduce((sum, p) => sum + p, 0))}`
          : "",
      );
    },
  };
}

export default widget("MatchingLab", buildMatchingLab);

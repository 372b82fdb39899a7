// A training run, scrubbed through: what all queries say of one scene, and who has which object.

// A frame and the share of objects whose query changed since the one before, as detr_mini.plots.queries.film has them.
export function timelineView({ index }, { frames }) {
  const now = frames[index], before = index ? frames[index - 1].query : now.query;
  const changed = now.query.map((query, t) => query !== before[t]);
  return { step: now.step, boxes: now.boxes, scores: now.scores, query: now.query, changed, instability: share(changed) };
}

function share(flags) {
  return flags.length ? flags.filter(Boolean).length / flags.length : 0;
}

function buildAssignmentTimeline(root, line, { guarded, redraw }) {
  const { given } = line, last = given.frames.length - 1;
  const stage = new Stage({ label: "the scene at this step: boxes of the queries and lines to their objects", guarded, moved: () => {}, picked: () => {} });
  let player = null;
  const change = (part) => { line.change(part); redraw(); };
  const stop = () => { clearInterval(player); player = null; redraw(); };
  const scrub = slider("step", { min: 0, max: last, step: 1 }, guarded((value) => change({ index: value })), null);
  const play = button("play", "play the training", guarded(() => {
    if (player) return stop();
    if (line.state.index === last) change({ index: 0 });
    player = setInterval(guarded(() => {
      if (!root.isConnected || line.state.index === last) return stop();
      change({ index: line.state.index + 1 });
    }), 350);
    redraw();
  }));
  const boxes = choice("show", ["matched queries", "all queries"], guarded((shown) => change({ shown })));
  const told = make("p", { class: "totals", "aria-live": "polite" }), list = make("p", { class: "small" });
  const [wide, high] = [300, 110], curves = make("svg:svg", { viewBox: `-42 -10 ${wide + 52} ${high + 30}`, class: "curve", role: "img" });
  const path = curves.appendChild(make("svg:path", { class: "run" })), own = curves.appendChild(make("svg:path", { class: "scene" }));
  const needle = curves.appendChild(make("svg:line", { class: "needle", y1: 0, y2: high }));
  for (const [x, y, text, anchor] of [[-4, 6, "100 %", "end"], [-4, high, "0 %", "end"], [0, high + 14, `step ${given.frames[0].step}`, "start"], [wide, high + 14, `${given.frames[last].step}`, "end"]]) {
    curves.append(make("svg:text", { x, y, "text-anchor": anchor }, text));
  }
  root.append(make("div", { class: "columns" }, make("div", {}, stage.node), make("div", { class: "aside" },
    make("div", { class: "bar" }, play, boxes.node), make("div", { class: "sliders" }, scrub.node), told,
    make("p", { class: "small" }, "share of objects that changed hands: solid, all logged scenes; dashed, this one"), curves, list)));
  const trace = (values) => values.map((value, i) => `${i ? "L" : "M"}${((i + 1) / Math.max(last, 1)) * wide} ${high - value * high}`).join(" ");
  put(path, { d: trace(given.instability) });
  put(own, { d: trace(given.frames.slice(1).map((_, i) => timelineView({ index: i + 1 }, given).instability)) });
  put(curves, { "aria-label": `instability falls from ${Math.round(100 * (given.instability[0] ?? 0))} to ${Math.round(100 * (given.instability.at(-1) ?? 0))} per cent` });

  return () => {
    const { state } = line, view = timelineView(state, given), { truth } = given;
    scrub.set(state.index, `step ${view.step}`);
    boxes.set(state.shown);
    say(play, player ? "pause" : "play");
    const mine = view.boxes.map((box, query) => [box, query]).filter(([, query]) => state.shown === "all queries" || view.query.includes(query));
    stage.draw({
      items: [
        ...truth.boxes.map((box, t) => ({ box, name: `o${t} ${truth.names[t]}`, kind: "object", movable: false, below: true, words: `object ${t}, ${truth.names[t]}` })),
        ...mine.map(([box, query]) => ({
          box, name: `q${query}`, kind: view.query.includes(query) ? "query" : "query unmatched", movable: false,
          words: `query ${query}, an object with probability ${view.scores[query].toFixed(2)}`,
        })),
      ],
      image: given.image,
      lines: view.query.flatMap((query, t) => (query < 0 ? [] : [{ from: view.boxes[query].slice(0, 2), to: truth.boxes[t].slice(0, 2), kind: view.changed[t] ? "matched new" : "matched" }])),
    });
    const x = (state.index / Math.max(last, 1)) * wide;
    put(needle, { x1: x, x2: x });
    const moved = view.changed.filter(Boolean).length;
    say(told, `step ${view.step}: ${view.query.filter((query) => query >= 0).length} of ${truth.boxes.length} objects have a query` + (state.index ? `, ${moved} another than before` : ""));
    say(list, view.query.map((query, t) => `o${t} ${truth.names[t]}: ${query < 0 ? "nobody" : `q${query}`}${view.changed[t] ? " (new)" : ""}`).join("   "));
  };
}

export default widget("AssignmentTimeline", buildAssignmentTimeline);

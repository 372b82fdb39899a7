// A training run, scrubbed through: what all queries say of one scene, and who has which object.

// A frame and the share of objects whose query changed since the one before, as detr_mini.plots.queries.film has them.
export function timelineView({ index }, { frames }) {
  const now = frames[index],
    before = index ? frames[index - 1].query : now.query;
  const changed = now.query.map((query, t) => query !== before[t]);
  return {
    step: now.step,
    boxes: now.boxes,
    scores: now.scores,
    query: now.query,
    changed,
    instability: share(changed),
  };
}

function share(flags) {
  return flags.length ? flags.filter(Boolean).length / flags.length : 0;
}

// The spans of points through which an object kept its query: [query, first, last].
export function owners(frames, object) {
  const spans = [];
  frames.forEach(({ query }, index) => {
    if (spans.length && spans.at(-1)[0] === query[object]) spans.at(-1)[2] = index;
    else spans.push([query[object], index, index]);
  });
  return spans;
}

const PACE_MS = 350,
  [WIDE, HIGH, ROW] = [300, 90, 15],
  LETTER = 5.6; // of the curve and of the rows below it
const SHADES = 10;

function buildAssignmentTimeline(root, line, { guarded, redraw }) {
  const { given } = line,
    { frames, truth } = given,
    last = frames.length - 1;
  const stage = new Stage({
    label: "the scene: boxes of the queries, and lines to their objects",
    guarded,
    moved: () => {},
    picked: () => {},
    height: given.aspect,
  });
  const change = (part) => {
    line.change(part);
    redraw();
  };
  const play = player(root, "the training", {
    now: () => line.state.index,
    last: () => last,
    go: (index) => change({ index }),
    pace: PACE_MS,
    redraw,
    guarded,
  });
  const byHand = (index) => {
    play.stop();
    change({ index });
  };
  const scrub = slider("step", { min: 0, max: last, step: 1 }, guarded(byHand), null);
  const boxes = choice(
    "show",
    ["matched queries", "all queries"],
    guarded((shown) => change({ shown })),
  );
  const told = make("p", { class: "totals" }),
    legend = make("p", { class: "small" }),
    list = make("p", { class: "small pairs" });
  const history = drawHistory(given, guarded, (index) => {
    if (index !== line.state.index) byHand(index);
  });
  root.append(
    make(
      "div",
      { class: "columns" },
      make("div", {}, stage.node, legend),
      make(
        "div",
        { class: "aside" },
        make("div", { class: "bar" }, play.node, boxes.node),
        make("div", { class: "sliders" }, scrub.node),
        told,
        make(
          "p",
          { class: "small" },
          "Share of objects that changed hands since the point before: solid, all logged scenes; dashed, this one. Below, the query that has each object; click or drag to go there.",
        ),
        history.svg,
        list,
      ),
    ),
  );

  return () => {
    const { state } = line,
      view = timelineView(state, given),
      all = state.shown === "all queries";
    const place = ([cx, cy, w, h]) => [cx, cy * given.aspect, w, h * given.aspect];
    const sure = (query) => `${number(100 * view.scores[query], 0)}\u00a0%`;
    scrub.set(state.index, "step", `${view.step}`);
    boxes.set(state.shown);
    play.draw();
    play.node.disabled = !last;
    put(told, { "aria-live": play.plays() ? "off" : "polite" });
    const mine = view.boxes.map((box, query) => [box, query]).filter(([, query]) => all || view.query.includes(query));
    stage.draw({
      items: [
        ...truth.boxes.map((box, t) => ({
          box: place(box),
          name: `o${t} ${truth.names[t]}${view.query[t] < 0 ? "" : `: q${view.query[t]}`}`,
          kind: "object",
          movable: false,
          below: true,
          words: `object ${t}, ${truth.names[t]}: ${view.query[t] < 0 ? "no query" : `query ${view.query[t]}`}`,
        })),
        ...mine.map(([box, query]) => ({
          box: place(box),
          name: `q${query}`,
          kind: view.query.includes(query) ? "query" : "query unmatched",
          movable: false,
          words: `query ${query}, ${sure(query)} sure of an object`,
        })),
      ],
      image: given.image,
      lines: view.query.flatMap((query, t) =>
        query < 0
          ? []
          : [
              {
                from: place(view.boxes[query]).slice(0, 2),
                to: place(truth.boxes[t]).slice(0, 2),
                kind: view.changed[t] ? "matched new" : "matched",
              },
            ],
      ),
    });
    history.at(state.index);
    say(
      legend,
      `orange, dashed: the objects · blue: their queries${all ? " · grey, dotted: the other queries" : ""} · green: who has which, dashed where the object changed hands`,
    );
    const changed = view.changed.filter(Boolean).length;
    say(
      told,
      `step ${view.step}: ${view.query.filter((query) => query >= 0).length} of ${truth.boxes.length} objects have a query, ${changed} changed hands`,
    );
    const pairs = view.query.map(
      (query, t) =>
        `o${t} ${truth.names[t]}: ${query < 0 ? "nobody" : `q${query} ${sure(query)}`}${view.changed[t] ? " (new)" : ""}`,
    );
    const others = mine
      .filter(([, query]) => !view.query.includes(query))
      .map(([, query]) => `q${query} ${sure(query)}`);
    say(
      list,
      "Who has which object, and how sure it is of one: " +
        pairs.join(" · ") +
        (all && others.length ? ` · without an object: ${others.join(", ")}` : ""),
    );
  };
}

// The curve of what changed hands and, below, a row for each object with the queries that had it, span by span.
function drawHistory({ frames, truth, instability }, guarded, chosen) {
  const last = frames.length - 1,
    across = (index) => (index / Math.max(last, 1)) * WIDE,
    top = HIGH + 18;
  const high = top + ROW * truth.boxes.length,
    svg = make("svg:svg", { viewBox: `-42 -8 ${WIDE + 52} ${high + 12}`, class: "curve", role: "img" });
  const own = frames.slice(1).map((_, i) => timelineView({ index: i + 1 }, { frames }).instability);
  const trace = (values) =>
    values.map((value, i) => `${i ? "L" : "M"}${across(i + 1)} ${HIGH - value * HIGH}`).join(" ");
  svg.append(
    make("svg:path", { class: "run", d: trace(instability) }),
    make("svg:path", { class: "scene", d: trace(own) }),
  );
  const write = (x, y, text, anchor) => svg.append(make("svg:text", { x, y, "text-anchor": anchor }, text));
  write(-4, 6, "100 %", "end");
  write(-4, HIGH, "0 %", "end");
  write(0, HIGH + 13, `step ${frames[0].step}`, "start");
  write(WIDE, HIGH + 13, `${frames[last].step}`, "end");
  truth.boxes.forEach((_, object) => {
    const y = top + ROW * object;
    write(-4, y + 11, `o${object}`, "end");
    for (const [query, first, end] of owners(frames, object)) {
      const x = across(Math.max(first - 0.5, 0)),
        width = across(Math.min(end + 0.5, last)) - x,
        text = query < 0 ? "" : `${query}`;
      svg.append(
        make(
          "svg:rect",
          {
            class: query < 0 ? "owner none" : `owner shade${query % SHADES}`,
            x,
            y,
            width,
            height: ROW - 2,
          },
          make(
            "svg:title",
            {},
            `o${object}: ${query < 0 ? "nobody" : `q${query}`}, steps ${frames[first].step} to ${frames[end].step}`,
          ),
        ),
      );
      if (text.length * LETTER <= width)
        svg.append(make("svg:text", { class: "number", x: x + width / 2, y: y + 10.5, "text-anchor": "middle" }, text));
    }
  });
  const needle = svg.appendChild(make("svg:line", { class: "needle", y1: 0, y2: high }));
  const percent = (value) => Math.round(100 * (value ?? 0));
  put(svg, {
    "aria-label": `the share of objects that changed hands goes from ${percent(instability[0])} to ${percent(instability.at(-1))} per cent`,
  });
  const go = (event) => chosen(Math.round(clamp(placeOn(svg, event)[0] / WIDE, 0, 1) * last));
  onPointing(svg, guarded(go));
  return { svg, at: (index) => put(needle, { x1: across(index), x2: across(index) }) };
}

export default widget("AssignmentTimeline", buildAssignmentTimeline);

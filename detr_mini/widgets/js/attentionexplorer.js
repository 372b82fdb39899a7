// Where a detection's query looked, or a token looks, over the image, by layer and head.

// The chosen map and its numbers, as detr_mini.plots.attention_maps.explore computes them.
export function attentionView(
  { pick, token, layer, head },
  { feature: [rows, columns], grid, found, heads },
  { decoder, encoder },
) {
  const cells = rows * columns,
    weights = new Float64Array(cells),
    asked = token === null ? pick : token[0] * columns + token[1];
  const source = token === null ? decoder : encoder,
    asking = token === null ? found.length : cells;
  const chosen = head === null ? Array.from({ length: heads }, (_, h) => h) : [head];
  for (const h of chosen) {
    const start = ((layer * heads + h) * asking + asked) * cells;
    for (let i = 0; i < cells; i++) weights[i] += source[start + i] / chosen.length;
  }
  let peak = 0,
    entropy = 0;
  weights.forEach((weight, i) => {
    if (weight > weights[peak]) peak = i;
    if (weight > 0) entropy -= weight * Math.log2(weight);
  });
  const map = Array.from({ length: rows }, (_, r) => [...weights.slice(r * columns, (r + 1) * columns)]);
  const view = {
    weights: map,
    entropyBits: entropy,
    peak: [Math.floor(peak / columns), peak % columns],
    peakShare: weights[peak],
    shareInBox: null,
  };
  if (token === null) view.shareInBox = shareInBox(map, found[pick].box, grid);
  return view;
}

function shareInBox(map, [x1, y1, x2, y2], [high, wide]) {
  const covered = (cells, length, low, top) =>
    Array.from({ length: cells }, (_, i) => {
      const [from, to] = [(i * length) / cells, ((i + 1) * length) / cells];
      return (Math.max(Math.min(to, top) - Math.max(from, low), 0) * cells) / length;
    });
  const down = covered(map.length, high, y1, y2),
    across = covered(map[0].length, wide, x1, x2);
  return map.reduce((sum, row, r) => sum + row.reduce((all, weight, c) => all + weight * down[r] * across[c], 0), 0);
}

function buildAttentionExplorer(root, line, { guarded, redraw }) {
  const { given } = line,
    [height, width] = given.image_size,
    unit = Math.max(height, width);
  const arrays = { decoder: floats(given.decoder), encoder: floats(given.encoder) };
  const extent = [width / unit, height / unit],
    covered = [given.grid[1] / unit, given.grid[0] / unit];
  const canSee = { detection: given.found.length > 0, point: arrays.encoder.length > 0 };
  const svg = make("svg:svg", {
    viewBox: `0 0 ${extent[0]} ${extent[1]}`,
    class: "stage map",
    role: "application",
    tabindex: 0,
  });
  svg.append(
    make("svg:image", {
      x: 0,
      y: 0,
      width: extent[0],
      height: extent[1],
      preserveAspectRatio: "none",
      href: given.image,
      style: "filter: grayscale(1)",
    }),
  );
  const picture = heatMap(svg, ...covered),
    boxes = svg.appendChild(make("svg:g"));
  const [top, names] = ["chosen query selected", "names"].map((name) =>
    svg.appendChild(make("svg:g", { class: name, "aria-hidden": "true" })),
  );
  top.append(make("svg:rect", { class: "seam" }), make("svg:rect", { class: "edge" })); // the chosen box, above all others
  const mark = cellMark(svg);
  const change = (part) => {
    line.change(part);
    redraw();
  };
  const side = () => (line.state.token === null ? "decoder" : "encoder"),
    layers = () => given.layers[side()];
  const kept = {
    // what a mode goes back to
    decoder: given.layers.decoder - 1,
    encoder: given.layers.encoder - 1,
    token: given.feature.map((cells) => Math.floor(cells / 2)),
  };
  const asks = choice(
    "ask",
    ["detections", "points"],
    guarded((value) => {
      if (value === "points" && !canSee.point) return redraw();
      change(value === "points" ? { token: kept.token, layer: kept.encoder } : { token: null, layer: kept.decoder });
    }),
  );
  const pick = (index) => change({ pick: index, token: null, layer: kept.decoder });
  pointable(
    svg,
    () => given.feature,
    () => covered,
    () => line.state.token,
    (r, c) => {
      if (line.state.token !== null) change({ token: [r, c] });
    },
    guarded,
  );
  onPointing(
    svg,
    guarded((event) => {
      if (line.state.token !== null || event.type === "pointermove") return;
      const [x, y] = placeOn(svg, event).map((share) => share * unit);
      const inside = ([x1, y1, x2, y2]) => x >= x1 && x <= x2 && y >= y1 && y <= y2;
      const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
      const hit = given.found.map(({ box }, i) => ({ box, i })).filter(({ box }) => inside(box));
      if (hit.length) pick(hit.reduce((a, b) => (area(b.box) < area(a.box) ? b : a)).i);
    }),
  );
  const layer = slider(
    "layer",
    { min: 0, max: 1, step: 1 },
    guarded((value) => change({ layer: value })),
    null,
  );
  const head = choice(
    "head",
    ["mean of all", ...Array.from({ length: given.heads }, (_, h) => `head ${h}`)],
    guarded((value) => change({ head: value === "mean of all" ? null : Number(value.slice(5)) })),
  );
  const strength = slider(
    "overlay",
    { min: 0, max: 1, step: 0.05 },
    guarded((value) => change({ strength: value })),
  );
  const told = make("p", { class: "totals", "aria-live": "polite" }),
    notes = make("p", { class: "notes" });
  root.append(
    make(
      "div",
      { class: "columns" },
      svg,
      make(
        "div",
        { class: "aside" },
        make("div", { class: "bar" }, asks.node, head.node),
        make("div", { class: "sliders" }, layer.node, strength.node),
        told,
        notes,
      ),
    ),
  );

  return () => {
    const { state } = line,
      points = state.token !== null;
    kept[side()] = state.layer;
    if (points) kept.token = state.token;
    put(svg, {
      "aria-label": points
        ? "the image: click a point, or move it with the arrow keys"
        : "the image: click a detection, or tab to one and press Enter",
    });
    asks.set(points ? "points" : "detections");
    put(layer.node.querySelector("input"), { max: layers() - 1 });
    layer.set(
      state.layer,
      `${side()} layer`,
      state.layer === layers() - 1 ? `${state.layer} (last)` : `${state.layer}`,
    );
    layer.node.hidden = layers() < 2;
    head.set(state.head === null ? "mean of all" : `head ${state.head}`);
    head.node.hidden = given.heads < 2;
    strength.set(state.strength);
    drawFound(points ? null : state.pick);
    const nothing = points ? !canSee.point : !canSee.detection || state.pick === null;
    say(notes, note(points, canSee));
    if (nothing) {
      picture.clear();
      mark({ width: 0, height: 0 });
      return say(told, "");
    }
    const view = attentionView(state, given, arrays),
      most = view.peakShare || 1,
      [rows, columns] = given.feature;
    picture.draw(
      view.weights,
      (value) => value / most,
      (value) => state.strength * (0.25 + (0.75 * value) / most),
    );
    const [row, column] = points ? state.token : view.peak;
    mark({
      x: (column * covered[0]) / columns,
      y: (row * covered[1]) / rows,
      width: covered[0] / columns,
      height: covered[1] / rows,
    });
    say(
      told,
      inWords(
        view,
        points
          ? `token in row ${row}, column ${column}`
          : `${given.found[state.pick].name}, query ${given.found[state.pick].query}`,
      ),
    );
  };

  function drawFound(chosen) {
    const groups = pool(boxes, given.found.length, (i) => {
      const group = make(
        "svg:g",
        { role: "button", tabindex: 0 },
        make("svg:rect", { class: "seam" }),
        make("svg:rect", { class: "edge" }),
      );
      group.addEventListener(
        "keydown",
        guarded((event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          pick(i);
        }),
      );
      return group;
    });
    const texts = pool(names, given.found.length, () => make("svg:text"));
    const frames = given.found.map(({ box: [x1, y1, x2, y2] }) => ({
      x: x1 / unit,
      y: y1 / unit,
      width: (x2 - x1) / unit,
      height: (y2 - y1) / unit,
    }));
    given.found.forEach(({ name, score, query }, i) => {
      const mine = i === chosen,
        frame = frames[i],
        kind = mine ? "query" : "query unmatched";
      put(groups[i], {
        class: `box ${kind}`,
        "aria-pressed": String(mine),
        "aria-label": `${name} ${number(score)}, query ${query}`,
      });
      for (const rect of groups[i].children) put(rect, frame);
      const text = mine || given.found.length <= 8 ? `${name} q${query}` : "",
        right = frame.x + 0.022 * text.length > extent[0];
      const x = right ? Math.min(frame.x + frame.width, extent[0]) - 0.012 : Math.max(frame.x, 0) + 0.012;
      put(texts[i], {
        class: `name ${kind}`,
        "text-anchor": right ? "end" : "start",
        x,
        y: clamp(frame.y + 0.045, 0.04, extent[1] - 0.02),
      });
      say(texts[i], text);
    });
    for (const rect of top.children) put(rect, frames[chosen] ?? { width: 0, height: 0 });
  }
}

// Equal weights on n tokens have log2 n bits, so 2 to the power of the bits says over how many tokens a map is spread.
function inWords({ entropyBits, peak: [row, column], peakShare, shareInBox }, who) {
  const tokens = Math.round(2 ** entropyBits),
    percent = (share, digits = 0) => `${number(100 * share, digits)} %`;
  const inside = shareInBox === null ? "" : `; ${percent(shareInBox)} in its box`;
  return `${who}: spread over about ${tokens} token${tokens > 1 ? "s" : ""} (${number(entropyBits, 1)} bits); most, ${percent(peakShare, peakShare < 0.01 ? 1 : 0)}, in row ${row}, column ${column}${inside}`;
}

const TOO_LARGE = "the encoder's maps are too large for a page",
  SCALE = "The brightest colour is the map's largest weight, however small.";

function note(points, canSee) {
  if (points) return `The frame is the token that looks, bright what it takes most from. ${SCALE}`;
  if (canSee.detection)
    return (
      `The frame is the token from which the query takes most. ${SCALE}` +
      (canSee.point ? "" : ` No points here: ${TOO_LARGE}.`)
    );
  return (
    "Nothing was detected in this image, so there is no query to follow" +
    (canSee.point ? ": ask points." : `, and ${TOO_LARGE}, so no points either: there is nothing to show.`)
  );
}

export default widget("AttentionExplorer", buildAttentionExplorer);

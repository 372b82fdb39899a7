// Where a detection's query looked, or a token looks, over the image, by layer and head.

// The chosen map and its numbers, as detr_mini.plots.attention_maps.explore computes them.
export function attentionView({ pick, token, layer, head }, { feature: [rows, columns], grid, found, heads }, { decoder, encoder }) {
  const cells = rows * columns, weights = new Float64Array(cells), asked = token === null ? pick : token[0] * columns + token[1];
  const source = token === null ? decoder : encoder, asking = token === null ? found.length : cells;
  const chosen = head === null ? Array.from({ length: heads }, (_, h) => h) : [head];
  for (const h of chosen) {
    const start = ((layer * heads + h) * asking + asked) * cells;
    for (let i = 0; i < cells; i++) weights[i] += source[start + i] / chosen.length;
  }
  let peak = 0, entropy = 0;
  weights.forEach((weight, i) => {
    if (weight > weights[peak]) peak = i;
    if (weight > 0) entropy -= weight * Math.log2(weight);
  });
  const map = Array.from({ length: rows }, (_, r) => [...weights.slice(r * columns, (r + 1) * columns)]);
  const view = { weights: map, entropyBits: entropy, peak: [Math.floor(peak / columns), peak % columns], peakShare: weights[peak], shareInBox: null };
  if (token === null) view.shareInBox = shareInBox(map, found[pick].box, grid);
  return view;
}

function shareInBox(map, [x1, y1, x2, y2], [high, wide]) {
  const covered = (cells, length, low, top) => Array.from({ length: cells }, (_, i) => {
    const [from, to] = [(i * length) / cells, ((i + 1) * length) / cells];
    return (Math.max(Math.min(to, top) - Math.max(from, low), 0) * cells) / length;
  });
  const down = covered(map.length, high, y1, y2), across = covered(map[0].length, wide, x1, x2);
  return map.reduce((sum, row, r) => sum + row.reduce((all, weight, c) => all + weight * down[r] * across[c], 0), 0);
}

function buildAttentionExplorer(root, line, { guarded, redraw }) {
  const { given } = line, [height, width] = given.image_size, unit = Math.max(height, width);
  const arrays = { decoder: floats(given.decoder), encoder: floats(given.encoder) };
  const extent = [width / unit, height / unit], covered = [given.grid[1] / unit, given.grid[0] / unit];
  const canSee = { detection: given.found.length > 0, point: arrays.encoder.length > 0 };
  const svg = make("svg:svg", {
    viewBox: `0 0 ${extent[0]} ${extent[1]}`, class: "stage map", role: "application", tabindex: 0,
    "aria-label": "the image: click a detection or a point; with a point, arrow keys move it",
  });
  svg.append(make("svg:image", { x: 0, y: 0, width: extent[0], height: extent[1], preserveAspectRatio: "none", href: given.image, style: "filter: grayscale(1)" }));
  const cells = svg.appendChild(make("svg:g")), mark = cellMark(svg);
  const boxes = svg.appendChild(make("svg:g"));
  const change = (part) => { line.change(part); redraw(); };
  const asks = choice("click on", ["detections", "points"], guarded((value) => ask(value)));
  const ask = (value) => {
    if (value === "points" && !canSee.point) return redraw();
    const [rows, columns] = given.feature;
    change(value === "points" ? { token: [Math.floor(rows / 2), Math.floor(columns / 2)], layer: 0 } : { token: null, layer: given.layers.decoder - 1, pick: canSee.detection ? line.state.pick ?? 0 : null });
  };
  pointable(svg, () => given.feature, () => covered, () => line.state.token, (r, c) => {
    if (line.state.token !== null) change({ token: [r, c] });
  }, guarded);
  svg.addEventListener("pointerdown", guarded((event) => {
    if (line.state.token !== null) return;
    const [x, y] = placeOn(svg, event).map((share) => share * unit);
    const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
    const hit = given.found.map((one, i) => [one, i]).filter(([{ box: [x1, y1, x2, y2] }]) => x >= x1 && x <= x2 && y >= y1 && y <= y2);
    if (hit.length) change({ pick: hit.reduce((a, b) => (area(b[0]) < area(a[0]) ? b : a))[1] });
  }));
  const layers = () => given.layers[line.state.token === null ? "decoder" : "encoder"];
  const layer = slider("layer", { min: 0, max: 1, step: 1 }, guarded((value) => change({ layer: value })), null);
  const head = choice("head", ["mean of all", ...Array.from({ length: given.heads }, (_, h) => `head ${h}`)], guarded((value) => change({ head: value === "mean of all" ? null : Number(value.slice(5)) })));
  const strength = slider("overlay", { min: 0, max: 1, step: 0.05 }, guarded((value) => change({ strength: value })));
  const told = make("p", { class: "totals", "aria-live": "polite" }), notes = make("p", { class: "notes" });
  root.append(make("div", { class: "columns" }, svg, make("div", { class: "aside" },
    make("div", { class: "bar" }, asks.node, head.node), make("div", { class: "sliders" }, layer.node, strength.node), told, notes)));

  return () => {
    const { state } = line, points = state.token !== null;
    asks.set(points ? "points" : "detections");
    put(layer.node.querySelector("input"), { max: layers() - 1 });
    layer.set(state.layer, `layer ${state.layer}`);
    layer.node.hidden = layers() < 2;
    head.set(state.head === null ? "mean of all" : `head ${state.head}`);
    head.node.hidden = given.heads < 2;
    strength.set(state.strength);
    const groups = pool(boxes, given.found.length, () => {
      const group = make("svg:g", { role: "button" }, make("svg:rect", { class: "seam" }), make("svg:rect", { class: "edge" }), make("svg:text", { class: "name" }));
      group.addEventListener("keydown", guarded((event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        change({ pick: [...boxes.children].indexOf(group), token: null, layer: Math.min(line.state.layer, given.layers.decoder - 1) });
      }));
      return group;
    });
    given.found.forEach(({ box: [x1, y1, x2, y2], name, score, query }, i) => {
      const mine = !points && i === state.pick, frame = { x: x1 / unit, y: y1 / unit, width: (x2 - x1) / unit, height: (y2 - y1) / unit };
      put(groups[i], { class: `box ${mine ? "query selected" : "query unmatched"}`, tabindex: 0, "aria-pressed": mine, "aria-label": `${name} ${score.toFixed(2)}, query ${query}` });
      put(groups[i].children[0], frame);
      put(groups[i].children[1], frame);
      put(groups[i].children[2], { x: clamp(frame.x + 0.012, 0, 0.8), y: clamp(frame.y + 0.045, 0.04, 0.98) });
      say(groups[i].children[2], mine || given.found.length <= 8 ? `${name} q${query}` : "");
    });
    const nothing = points ? !canSee.point : !canSee.detection || state.pick === null;
    say(notes, note(points, canSee));
    if (nothing) {
      pool(cells, 0);
      mark({ width: 0, height: 0 });
      return say(told, "");
    }
    const view = attentionView(state, given, arrays), most = view.peakShare || 1, [rows, columns] = given.feature;
    drawCells(cells, view.weights, covered[0], covered[1], (value) => heat(value / most), (value) => state.strength * (0.25 + (0.75 * value) / most));
    const [row, column] = points ? state.token : view.peak;
    mark({ x: (column * covered[0]) / columns, y: (row * covered[1]) / rows, width: covered[0] / columns, height: covered[1] / rows });
    const who = points ? `token (${row}, ${column})` : `${given.found[state.pick].name}, query ${given.found[state.pick].query}`;
    const share = view.shareInBox === null ? "" : `, ${Math.round(100 * view.shareInBox)} % in its box`;
    say(told, `${who}: ${view.entropyBits.toFixed(1)} bits, most ${Math.round(100 * view.peakShare)} % at (${view.peak.join(", ")})${share}`);
  };
}

function note(points, canSee) {
  if (!points && !canSee.detection) return "Nothing was detected in this image: there is no query to follow. Choose points.";
  if (points) return "The frame is the token that looks; bright is what it looks at.";
  return canSee.point ? "The frame is where its query looked most." : "The frame is where its query looked most. The encoder's maps are not on this page: they are too large.";
}

export default widget("AttentionExplorer", buildAttentionExplorer);

// A grid of cells, one of them pointed at: how much the position codes of all others are like its own.

export const KINDS = ["sine", "learned", "none"],
  WAYS = ["rows and columns", "one sequence"];

// Cosines of the chosen cell's code with all: what plots.attention.similarity computes. Sines need no codes for this,
// since sin a sin b + cos a cos b = cos(a - b); learned codes come as the products of their rows.
export function similarityMap(
  { kind, way, temperature, cell: [row, column] },
  { size: [rows, columns], width, learned },
) {
  const map = (entry) => Array.from({ length: rows }, (_, r) => Array.from({ length: columns }, (_, c) => entry(r, c)));
  if (kind === "none") return map(() => 1);
  const sequence = way === "one sequence",
    number = (r, c) => r * columns + c;
  if (kind === "learned") {
    const product = sequence
      ? (r1, c1, r2, c2) => symmetric(learned.cells, number(r1, c1), number(r2, c2))
      : (r1, c1, r2, c2) => symmetric(learned.rows, r1, r2) + symmetric(learned.columns, c1, c2);
    const own = product(row, column, row, column);
    return map((r, c) => product(row, column, r, c) / Math.sqrt(own * product(r, c, r, c)));
  }
  const hands = sequence ? width / 2 : width / 4;
  const along = (turn) => {
    let sum = 0;
    for (let k = 0; k < hands; k++) sum += Math.cos(turn * temperature ** (-k / hands));
    return sum / hands;
  };
  if (sequence) return map((r, c) => along(number(r, c) - number(row, column)));
  const inRows = Array.from({ length: rows }, (_, r) => along(((r - row) / (rows + 1e-6)) * 2 * Math.PI));
  const inColumns = Array.from({ length: columns }, (_, c) => along(((c - column) / (columns + 1e-6)) * 2 * Math.PI));
  return map((r, c) => (inRows[r] + inColumns[c]) / 2);
}

// Entry (i, j) of a symmetric matrix of which the upper half was sent, row by row.
function symmetric({ size, upper }, i, j) {
  const [low, high] = i < j ? [i, j] : [j, i];
  return upper[low * size - (low * (low - 1)) / 2 + (high - low)];
}

const STEEPEST = [0.25, 1.5]; // height over width of the picture, whatever the grid

function buildPositionExplorer(root, line, { guarded, redraw }) {
  const { size } = line.given,
    [rows, columns] = size,
    extent = [1, clamp(rows / columns, ...STEEPEST)];
  const svg = make("svg:svg", {
    viewBox: `0 0 1 ${extent[1]}`,
    class: "stage map",
    role: "application",
    tabindex: 0,
    "aria-label": "a grid of cells: click one, or move with the arrow keys",
  });
  const picture = heatMap(svg, ...extent),
    mark = cellMark(svg);
  const change = (part) => {
    line.change(part);
    redraw();
  };
  let pointed = [null, null];
  const choose = (row, column) => {
    if (row !== line.state.cell[0] || column !== line.state.cell[1]) change({ cell: [row, column] });
  };
  const point = (row, column) => {
    if (row === pointed[0] && column === pointed[1]) return;
    pointed = [row, column];
    redraw();
  };
  pointable(
    svg,
    () => size,
    () => extent,
    () => line.state.cell,
    choose,
    guarded,
    point,
  );
  const kind = choice(
    "encoding",
    KINDS,
    guarded((value) => change({ kind: value })),
  );
  const way = choice(
    "counted in",
    WAYS,
    guarded((value) => change({ way: value })),
  );
  const warmth = slider(
    "T",
    { min: 0.5, max: 5, step: 0.05 },
    guarded((value) => change({ temperature: 10 ** value })),
    null,
  );
  const bar = make("div", { class: "scale" }, make("span"), make("i"), make("span"));
  const told = make("p", { class: "totals", "aria-live": "polite" }),
    reading = make("p", { class: "reading" });
  const notes = make("p", { class: "notes" });
  root.append(
    make("div", { class: "bar" }, kind.node, way.node),
    make(
      "div",
      { class: "columns" },
      svg,
      make("div", { class: "aside" }, make("div", { class: "sliders" }, warmth.node), bar, told, reading, notes),
    ),
  );
  return () => {
    const { state, given } = line,
      map = similarityMap(state, given),
      all = map.flat();
    const lowest = Math.min(...all),
      mean = all.reduce((sum, one) => sum + one, 0) / all.length;
    const spread = Math.sqrt(all.reduce((sum, one) => sum + (one - mean) ** 2, 0) / all.length);
    const floor = Math.min(0, lowest),
      [row, column] = state.cell;
    kind.set(state.kind);
    way.set(state.way);
    warmth.set(Math.log10(state.temperature), "T", inWords(state.temperature));
    put(warmth.node, { style: state.kind === "sine" ? null : "visibility: hidden" }); // its place stays
    put(warmth.node.querySelector("input"), { disabled: state.kind !== "sine" });
    picture.draw(map, (value) => (value - floor) / (1 - floor));
    mark({ x: column / columns, y: (row / rows) * extent[1], width: 1 / columns, height: extent[1] / rows });
    say(bar.firstChild, `cosine ${number(floor)}`);
    say(bar.lastChild, "1.00");
    say(told, `row ${row}, column ${column}: lowest cosine ${number(lowest)}, standard deviation ${number(spread, 3)}`);
    say(
      reading,
      pointed[0] === null
        ? neighbours(map, state.cell)
        : `row ${pointed[0]}, column ${pointed[1]}: cosine ${number(map[pointed[0]][pointed[1]])}`,
    );
    say(notes, remark(state, lowest, given.trained));
  };
}

function inWords(temperature) {
  return temperature < 10 ? number(temperature, 1) : Math.round(temperature).toLocaleString("en");
}

function neighbours(map, [row, column]) {
  const sides = [
    ["above", row - 1, column],
    ["below", row + 1, column],
    ["left", row, column - 1],
    ["right", row, column + 1],
  ];
  const there = sides.flatMap(([side, r, c]) => (map[r]?.[c] === undefined ? [] : [`${side} ${number(map[r][c])}`]));
  return there.length ? `cosine of its neighbours: ${there.join(", ")}` : "";
}

function remark({ kind, way }, lowest, trained) {
  if (kind === "none") return "Without an encoding all cells are alike.";
  if (kind === "learned" && trained) {
    return way === WAYS[0]
      ? "Learned: a cell shares one half of its code with its row, the other with its column."
      : "Drawn at random: the learned encoding has codes for rows and columns, none for single cells.";
  }
  if (kind === "learned")
    return (
      "Before training: codes drawn at random are equally alike, " +
      (way === WAYS[0] ? "and cells share the code of their row or column." : "each only itself.")
    );
  if (way === WAYS[1]) return "Counted in reading order: the cell above is a whole row away.";
  return lowest > 0.6
    ? "Nearly flat: most hands hardly turn over the whole image."
    : "Near cells are alike, far ones less.";
}

export default widget("PositionExplorer", buildPositionExplorer);

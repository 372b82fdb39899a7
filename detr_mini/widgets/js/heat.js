// Maps of numbers on a grid of cells, which can be pointed at and walked through with the arrow keys.

const INFERNO = [[0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85], [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164]];

// The colour for a value from 0 to 1, dark to bright, as in the figures.
export function heat(value) {
  const at = clamp(value, 0, 1) * (INFERNO.length - 1), low = Math.min(Math.floor(at), INFERNO.length - 2);
  const mixed = INFERNO[low].map((part, i) => Math.round(part + (at - low) * (INFERNO[low + 1][i] - part)));
  return `rgb(${mixed.join(",")})`;
}

// Draws (rows, columns) cells into `layer`, the whole grid `width` x `height`; alpha may differ by cell.
function drawCells(layer, values, width, height, colour, alpha = () => 1) {
  const rows = values.length, columns = rows ? values[0].length : 0;
  const nodes = pool(layer, rows * columns, () => make("svg:rect"));
  values.forEach((row, r) => row.forEach((value, c) => put(nodes[r * columns + c], {
    x: (c * width) / columns, y: (r * height) / rows, width: width / columns, height: height / rows,
    fill: colour(value), "fill-opacity": alpha(value).toFixed(3),
  })));
}

// A frame around one cell that shows on bright and on dark ones.
function cellMark(svg) {
  const rects = ["dark", "light"].map((name) => svg.appendChild(make("svg:rect", { class: `mark ${name}` })));
  return (frame) => rects.forEach((rect) => put(rect, frame));
}

// Calls `chosen(row, column)` for pointing and for arrow keys; `now()` tells where the keys start from.
function pointable(svg, size, extent, now, chosen, guarded, hover = false) {
  const place = (event) => {
    const [x, y] = placeOn(svg, event), [rows, columns] = size(), [width, height] = extent();
    if (x < 0 || y < 0 || x > width || y > height) return;
    chosen(Math.min(Math.floor((y / height) * rows), rows - 1), Math.min(Math.floor((x / width) * columns), columns - 1));
  };
  svg.addEventListener("pointerdown", guarded(place));
  svg.addEventListener("pointermove", guarded((event) => (hover || event.buttons) && place(event)));
  svg.addEventListener("keydown", guarded((event) => {
    const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!way) return;
    event.preventDefault();
    event.stopPropagation();
    const [row, column] = now() ?? [0, 0], [rows, columns] = size();
    chosen(clamp(row + way[0], 0, rows - 1), clamp(column + way[1], 0, columns - 1));
  }));
}

// Numbers that Python sent as base64 of float32.
export function floats(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

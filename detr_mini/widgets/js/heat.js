// Maps of numbers on a grid of cells, which can be pointed at and walked through with the arrow keys.

const INFERNO = [
  [0, 0, 4],
  [31, 12, 72],
  [85, 15, 109],
  [136, 34, 106],
  [186, 54, 85],
  [227, 89, 51],
  [249, 140, 10],
  [249, 201, 50],
  [252, 255, 164],
];

// Red, green and blue, 0 to 255, for a value from 0 to 1: dark to bright, as in the figures.
export function heat(value) {
  const at = clamp(value, 0, 1) * (INFERNO.length - 1),
    low = Math.min(Math.floor(at), INFERNO.length - 2);
  return INFERNO[low].map((part, i) => Math.round(part + (at - low) * (INFERNO[low + 1][i] - part)));
}

// A map of (rows, columns) cells as one picture, a pixel for each cell: rectangles side by side would show seams.
// `draw(values, level, alpha)` paints values by their level, 0 to 1, and alpha, 0 to 1; `clear()` takes them away.
function heatMap(svg, width, height) {
  const image = svg.appendChild(
    make("svg:image", {
      class: "heat",
      x: 0,
      y: 0,
      width,
      height,
      preserveAspectRatio: "none",
      decoding: "sync", // no gap between two pictures
    }),
  );
  const canvas = document.createElement("canvas"),
    pen = canvas.getContext("2d");
  return {
    draw(values, level, alpha = () => 1) {
      const rows = values.length,
        columns = values[0].length,
        pixels = pen.createImageData(columns, rows);
      values
        .flat()
        .forEach((value, i) => pixels.data.set([...heat(level(value)), Math.round(255 * alpha(value))], 4 * i));
      Object.assign(canvas, { width: columns, height: rows });
      pen.putImageData(pixels, 0, 0);
      put(image, { href: canvas.toDataURL() });
    },
    clear() {
      put(image, { href: null });
    },
  };
}

// A frame around one cell that shows on bright and on dark ones.
function cellMark(svg) {
  const rects = ["dark", "light"].map((name) => svg.appendChild(make("svg:rect", { class: `mark ${name}` })));
  return (frame) => rects.forEach((rect) => put(rect, frame));
}

// Calls `chosen(row, column)` for a click, a drag and the arrow keys, which start from `now()` and do nothing where
// that is null; `pointed(row, column)` where a mouse rests, with nulls where it has left.
function pointable(svg, size, extent, now, chosen, guarded, pointed = () => {}) {
  const place = (event) => {
    const [x, y] = placeOn(svg, event),
      [rows, columns] = size(),
      [width, height] = extent();
    if (x < 0 || y < 0 || x > width || y > height) return [null, null];
    return [
      Math.min(Math.floor((y / height) * rows), rows - 1),
      Math.min(Math.floor((x / width) * columns), columns - 1),
    ];
  };
  onPointing(
    svg,
    guarded((event) => {
      const [row, column] = place(event);
      if (row !== null) chosen(row, column);
    }),
  );
  svg.addEventListener(
    "pointermove",
    guarded((event) => {
      if (event.pointerType !== "touch") pointed(...place(event));
    }),
  );
  svg.addEventListener(
    "pointerleave",
    guarded(() => pointed(null, null)),
  );
  svg.addEventListener(
    "keydown",
    guarded((event) => {
      const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!way || now() === null || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      event.stopPropagation();
      const [row, column] = now(),
        [rows, columns] = size();
      chosen(clamp(row + way[0], 0, rows - 1), clamp(column + way[1], 0, columns - 1));
    }),
  );
}

// Numbers that Python sent as base64 of float32.
export function floats(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

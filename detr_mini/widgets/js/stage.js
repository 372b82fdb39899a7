// A picture with boxes on it that can be dragged, resized, and moved from the keyboard. Boxes are (cx, cy, w, h) in
// 0..1; pixels on the screen are the browser's business.

const SMALLEST = 0.02, STEP = 1 / 64, GRIP = 0.035, GRIP_TOUCH = 0.07;
const HANDLES = [[-1, -1], [1, -1], [1, 1], [-1, 1]];

export class Stage {
  // `moved(index, box)`, `picked(index)` and `removed(index)` tell what the reader did.
  constructor({ label, moved, picked, removed = null, guarded }) {
    this.svg = make("svg:svg", { viewBox: "-0.02 -0.02 1.04 1.04", class: "stage", role: "application", "aria-label": label });
    const layer = (name) => this.svg.appendChild(make("svg:g", { class: name }));
    this.paper = this.svg.appendChild(make("svg:rect", { class: "paper", x: 0, y: 0, width: 1, height: 1 }));
    this.image = this.svg.appendChild(make("svg:image", { x: 0, y: 0, width: 1, height: 1, preserveAspectRatio: "none" }));
    this.under = layer("under");
    this.boxes = layer("boxes");
    this.lines = layer("lines");
    this.arrows = layer("arrows");
    this.handles = layer("handles");
    this.items = [];
    this.selected = -1;
    this.say = { moved, picked, removed };
    const on = (name, work) => this.svg.addEventListener(name, guarded(work));
    on("pointerdown", (event) => this.press(event));
    on("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) on(name, () => (this.held = null));
    on("keydown", (event) => this.key(event));
    on("focusin", (event) => {
      const index = [...this.boxes.children].indexOf(event.target.closest?.(".box"));
      if (index >= 0 && index !== this.selected && this.items[index].movable) this.say.picked(index);
    });
  }

  // items: {box, name, kind, movable, words}; lines: {from, to, kind}, ends in 0..1; arrows: the same.
  draw({ items, selected = -1, image = "", lines = [], under = [], arrows = [] }) {
    this.items = items;
    this.selected = selected;
    put(this.image, { href: image || null });
    const groups = pool(this.boxes, items.length, () => boxNode());
    items.forEach((item, index) => drawBox(groups[index], item, index === selected));
    drawLines(this.lines, lines);
    drawLines(this.arrows, arrows);
    const shapes = pool(this.under, under.length, () => make("svg:rect"));
    under.forEach((shape, index) => {
      const [x1, y1, x2, y2] = shape.corners;
      put(shapes[index], { class: shape.kind, x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) });
    });
    const held = items[selected]?.movable ? items[selected].box : null;
    const knobs = pool(this.handles, held ? 4 : 0, () => make("svg:circle", { r: 0.014, class: "handle" }));
    knobs.forEach((knob, k) => {
      const [cx, cy, w, h] = held;
      put(knob, { cx: cx + (HANDLES[k][0] * w) / 2, cy: cy + (HANDLES[k][1] * h) / 2 });
    });
  }

  press(event) {
    if (event.button > 0) return;
    const [x, y] = placeOn(this.svg, event), grip = event.pointerType === "touch" ? GRIP_TOUCH : GRIP;
    const knob = [...this.handles.children].findIndex(
      (node) => Math.hypot(node.getAttribute("cx") - x, node.getAttribute("cy") - y) < grip,
    );
    const index = knob >= 0 ? this.selected : this.under_pointer(x, y, grip / 2);
    if (index < 0) return;
    event.preventDefault();
    this.svg.setPointerCapture(event.pointerId);
    if (index !== this.selected) this.say.picked(index);
    this.boxes.children[index]?.focus({ preventScroll: true });
    const [cx, cy, w, h] = this.items[index].box;
    const corner = knob < 0 ? null : HANDLES[knob];
    const fixed = corner && [cx - (corner[0] * w) / 2, cy - (corner[1] * h) / 2]; // the opposite corner stays
    const start = corner ? [cx + (corner[0] * w) / 2, cy + (corner[1] * h) / 2] : [cx, cy];
    this.held = { pointer: event.pointerId, index, fixed, offset: [start[0] - x, start[1] - y] };
  }

  drag(event) {
    if (!this.held || event.pointerId !== this.held.pointer) return;
    const { index, fixed, offset } = this.held, [px, py] = placeOn(this.svg, event);
    const [x, y] = [clamp(px + offset[0], 0, 1), clamp(py + offset[1], 0, 1)], [, , w, h] = this.items[index].box;
    if (!fixed) return this.say.moved(index, [x, y, w, h]);
    const side = (at, anchor) => {
      const from = clamp(anchor, 0, 1), far = Math.abs(at - from) < SMALLEST ? from + (at < from ? -SMALLEST : SMALLEST) : at;
      return [(from + far) / 2, Math.abs(far - from)];
    };
    const [across, down] = [side(x, fixed[0]), side(y, fixed[1])];
    this.say.moved(index, [across[0], down[0], across[1], down[1]]);
  }

  // The smallest movable box around a point.
  under_pointer(x, y, margin) {
    let best = -1;
    this.items.forEach(({ box: [cx, cy, w, h], movable }, index) => {
      if (!movable || Math.abs(x - cx) > w / 2 + margin || Math.abs(y - cy) > h / 2 + margin) return;
      const [, , bestW, bestH] = this.items[best]?.box ?? [0, 0, Infinity, Infinity];
      if (w * h < bestW * bestH) best = index;
    });
    return best;
  }

  key(event) {
    const index = [...this.boxes.children].indexOf(event.target.closest?.(".box"));
    if (index < 0 || !this.items[index].movable) return;
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const removes = (event.key === "Delete" || event.key === "Backspace") && this.say.removed;
    if (!way && !removes) return;
    event.preventDefault();
    event.stopPropagation(); // the notebook has its own use for arrows
    if (removes) return this.say.removed(index);
    const [cx, cy, w, h] = this.items[index].box, [dx, dy] = way.map((d) => d * STEP);
    const box = event.shiftKey
      ? [cx, cy, clamp(w + dx, SMALLEST, 1), clamp(h + dy, SMALLEST, 1)]
      : [clamp(cx + dx, 0, 1), clamp(cy + dy, 0, 1), w, h];
    this.say.moved(index, box);
  }

  focus(index) {
    this.boxes.children[index]?.focus({ preventScroll: true });
  }
}

function boxNode() {
  return make(
    "svg:g", { class: "box" },
    make("svg:rect", { class: "seam" }), make("svg:rect", { class: "edge" }), make("svg:text", { class: "name" }),
  );
}

function drawBox(group, { box: [cx, cy, w, h], name, kind, movable, words, below = false }, selected) {
  const frame = { x: cx - w / 2, y: cy - h / 2, width: Math.max(w, 0), height: Math.max(h, 0) };
  put(group, {
    class: `box ${kind}${selected ? " selected" : ""}`, "aria-label": words, role: "img",
    tabindex: movable ? 0 : null,
  });
  const [seam, edge, text] = group.children;
  put(seam, frame);
  put(edge, frame);
  const at = below ? cy + h / 2 - 0.012 : cy - h / 2 + 0.04;
  put(text, { x: clamp(frame.x + 0.012, 0, 0.9), y: clamp(at, 0.035, 0.99) });
  say(text, name);
}

function drawLines(layer, lines) {
  const nodes = pool(layer, lines.length, () =>
    make("svg:g", {}, make("svg:line", { class: "seam" }), make("svg:line", { class: "edge" }), make("svg:path", { class: "tip" })),
  );
  lines.forEach(({ from, to, kind, tip = false }, index) => {
    const ends = { x1: from[0], y1: from[1], x2: to[0], y2: to[1] };
    put(nodes[index], { class: kind });
    put(nodes[index].children[0], ends);
    put(nodes[index].children[1], ends);
    put(nodes[index].children[2], { d: tip ? arrowTip(from, to) : null });
  });
}

function arrowTip([x1, y1], [x2, y2]) {
  const length = Math.hypot(x2 - x1, y2 - y1);
  if (length < 1e-6) return null;
  const [dx, dy] = [((x2 - x1) / length) * 0.035, ((y2 - y1) / length) * 0.035];
  return `M${x2} ${y2} L${x2 - dx - dy / 2} ${y2 - dy + dx / 2} L${x2 - dx + dy / 2} ${y2 - dy - dx / 2} Z`;
}

// A picture with boxes on it that can be dragged, resized, and moved from the keyboard. Boxes are (cx, cy, w, h) in
// 0..1; pixels on the screen are the browser's business.

const SMALLEST = 0.02,
  STEP = 1 / 64,
  GRIP = 0.035,
  GRIP_TOUCH = 0.07,
  THINNEST = 0.004;
const HANDLES = [
  [-1, -1],
  [1, -1],
  [1, 1],
  [-1, 1],
];

export class Stage {
  // `moved(index, box)`, `picked(index)` and `removed(index)` tell what the reader did; `edge` is how much is seen
  // around the picture. `height` is the picture's in units of its width; with one other than 1 boxes and lines come in
  // that unit, and cannot be moved.
  constructor({ label, moved, picked, removed = null, guarded, edge = 0.02, height = 1 }) {
    const frame = `${-edge} ${-edge} ${1 + 2 * edge} ${height + 2 * edge}`;
    this.height = height;
    this.svg = make("svg:svg", { viewBox: frame, class: "stage", role: "group", "aria-label": label });
    this.node = make("div", { class: "picture" }, this.svg);
    const layer = (name) => this.svg.appendChild(make("svg:g", { class: name }));
    this.paper = this.svg.appendChild(make("svg:rect", { class: "paper", x: 0, y: 0, width: 1, height }));
    this.image = this.svg.appendChild(make("svg:image", { x: 0, y: 0, width: 1, height, preserveAspectRatio: "none" }));
    this.under = layer("under");
    this.boxes = layer("boxes");
    this.lines = layer("lines");
    this.arrows = layer("arrows");
    this.top = this.svg.appendChild(make("svg:rect", { class: "top" })); // the selected box, above all others
    this.names = layer("names");
    this.handles = layer("handles");
    this.items = [];
    this.selected = -1;
    this.held = null;
    this.say = { moved, picked, removed };
    // The listeners sit around the picture: with one of its own it would be a stop of the tab key.
    const on = (name, work, options) => this.node.addEventListener(name, guarded(work), options);
    on("pointerdown", (event) => this.press(event));
    on("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
      on(name, (event) => {
        if (event.pointerId === this.held?.pointer) this.held = null;
      });
    }
    // A finger on a box drags it, a finger beside all boxes scrolls the page.
    on(
      "touchstart",
      (event) => {
        if (this.held || this.hit(event.touches[0], GRIP_TOUCH).index >= 0) event.preventDefault();
      },
      { passive: false },
    );
    on("keydown", (event) => this.key(event));
    on("focusin", (event) => {
      const index = [...this.boxes.children].indexOf(event.target.closest?.(".box"));
      if (index >= 0 && index !== this.selected && this.items[index].movable) this.say.picked(index);
    });
  }

  // items: {box, name, kind, movable, words}; lines: {from, to, kind}, ends in 0..1; arrows: the same.
  draw({ items, selected = -1, image = "", lines = [], under = [], arrows = [] }) {
    const held = this.held && items[this.held.index];
    if (this.held && !(held?.movable && items.length === this.items.length)) this.held = null; // taken from the hand
    this.items = items;
    this.selected = selected;
    put(this.image, { href: image || null });
    put(this.svg, { role: items.some((item) => item.movable) ? "application" : "group" });
    const groups = pool(this.boxes, items.length, () => boxNode());
    items.forEach((item, index) => drawBox(groups[index], item, index === selected));
    const names = pool(this.names, items.length, () => make("svg:text"));
    items.forEach((item, index) => drawName(names[index], item, this.height));
    drawLines(this.lines, lines);
    drawLines(this.arrows, arrows);
    const shapes = pool(this.under, under.length, () => make("svg:rect"));
    under.forEach((shape, index) => {
      const [x1, y1, x2, y2] = shape.corners;
      put(shapes[index], {
        class: shape.kind,
        x: x1,
        y: y1,
        width: Math.max(x2 - x1, 0),
        height: Math.max(y2 - y1, 0),
      });
    });
    const chosen = items[selected]?.movable ? items[selected] : null;
    put(this.top, {
      class: chosen ? `top ${chosen.kind}` : "top",
      ...(chosen ? frameOf(chosen.box) : { width: 0, height: 0 }),
    });
    const knobs = pool(this.handles, chosen ? 4 : 0, () => make("svg:circle", { r: 0.014, class: "handle" }));
    knobs.forEach((knob, k) => {
      const [x, y] = cornerOf(chosen.box, HANDLES[k]);
      put(knob, { cx: x, cy: y, class: `handle ${HANDLES[k][0] === HANDLES[k][1] ? "falling" : "rising"}` });
    });
  }

  // What lies under a pointer: a corner of the selected box, or a box; a small box keeps a middle to be dragged by.
  hit(event, grip) {
    const [x, y] = placeOn(this.svg, event),
      chosen = this.items[this.selected];
    if (chosen?.movable) {
      const [, , w, h] = chosen.box,
        away = HANDLES.map((corner) => {
          const [cx, cy] = cornerOf(chosen.box, corner);
          return Math.hypot(cx - x, cy - y);
        });
      const nearest = away.indexOf(Math.min(...away)),
        [cx, cy] = chosen.box;
      const inside = Math.abs(x - cx) < w / 2 && Math.abs(y - cy) < h / 2;
      if (away[nearest] < (inside ? Math.min(grip, Math.min(w, h) / 3) : grip))
        return { x, y, index: this.selected, corner: HANDLES[nearest] };
    }
    return { x, y, index: this.under_pointer(x, y, grip / 2), corner: null };
  }

  press(event) {
    if (event.button > 0 || !event.isPrimary || this.held) return;
    const { x, y, index, corner } = this.hit(event, event.pointerType === "touch" ? GRIP_TOUCH : GRIP);
    if (index < 0) return;
    event.preventDefault();
    this.node.setPointerCapture(event.pointerId);
    if (index !== this.selected) this.say.picked(index);
    this.focus(index);
    const { box } = this.items[index],
      start = corner ? cornerOf(box, corner) : box;
    const fixed =
      corner &&
      cornerOf(
        box,
        corner.map((side) => -side),
      ); // the opposite corner stays
    this.held = { pointer: event.pointerId, index, before: box, fixed, offset: [start[0] - x, start[1] - y] };
  }

  drag(event) {
    if (!this.held || event.pointerId !== this.held.pointer) return;
    const { index, fixed, offset } = this.held,
      [px, py] = placeOn(this.svg, event);
    const [x, y] = [clamp(px + offset[0], 0, 1), clamp(py + offset[1], 0, 1)],
      [, , w, h] = this.items[index].box;
    if (!fixed) return this.say.moved(index, [x, y, w, h]);
    const side = (at, from) => {
      const far = Math.abs(at - from) < SMALLEST ? from + (at < from ? -SMALLEST : SMALLEST) : at;
      return [(from + far) / 2, Math.abs(far - from)];
    };
    const [across, down] = [side(x, fixed[0]), side(y, fixed[1])];
    this.say.moved(index, [across[0], down[0], across[1], down[1]]);
  }

  // The smallest movable box around a point; of equal ones the selected.
  under_pointer(x, y, margin) {
    const around = this.items.flatMap(({ box: [cx, cy, w, h], movable }, index) =>
      movable && Math.abs(x - cx) <= w / 2 + margin && Math.abs(y - cy) <= h / 2 + margin
        ? [{ index, size: w * h }]
        : [],
    );
    const rank = (one) => one.size - (one.index === this.selected ? 1e-9 : 0);
    return around.length ? around.reduce((a, b) => (rank(b) < rank(a) ? b : a)).index : -1;
  }

  key(event) {
    const index = [...this.boxes.children].indexOf(event.target.closest?.(".box"));
    if (index < 0 || !this.items[index].movable || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape" && this.held) {
      const { index: dragged, before } = this.held;
      this.held = null;
      event.stopPropagation(); // a notebook would leave the cell
      return this.say.moved(dragged, before);
    }
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const removes = (event.key === "Delete" || event.key === "Backspace") && this.say.removed;
    if (!way && !removes) return;
    event.preventDefault();
    if (removes) {
      this.held = null;
      return this.say.removed(index);
    }
    const box = [...this.items[index].box],
      axis = way[0] ? 0 : 1,
      by = STEP * (way[0] + way[1]);
    // A box beyond an edge may come back step by step, and not go further.
    if (event.shiftKey) box[axis + 2] = clamp(box[axis + 2] + by, SMALLEST, Math.max(1, box[axis + 2]));
    else box[axis] = clamp(box[axis] + by, Math.min(0, box[axis]), Math.max(1, box[axis]));
    this.say.moved(index, box);
  }

  focus(index) {
    this.boxes.children[index]?.focus({ preventScroll: true });
  }
}

function boxNode() {
  return make("svg:g", { class: "box" }, make("svg:rect", { class: "seam" }), make("svg:rect", { class: "edge" }));
}

function cornerOf([cx, cy, w, h], [across, down]) {
  return [cx + (across * w) / 2, cy + (down * h) / 2];
}

// A box without area is drawn as the thinnest one that can be seen.
function frameOf([cx, cy, w, h]) {
  const [wide, high] = [Math.max(w, THINNEST), Math.max(h, THINNEST)];
  return { x: cx - wide / 2, y: cy - high / 2, width: wide, height: high };
}

function drawBox(group, { box, kind, movable, words }, selected) {
  const frame = frameOf(box);
  put(group, {
    class: `box ${kind}${selected ? " selected" : ""}`,
    "aria-label": words,
    role: "img",
    tabindex: movable ? 0 : null,
  });
  for (const rect of group.children) put(rect, frame);
}

function drawName(text, { box, name, kind, below = false }, height) {
  const frame = frameOf(box),
    right = frame.x > 0.75; // a long name would leave the picture
  const x = right ? Math.min(frame.x + frame.width - 0.012, 0.99) : Math.max(frame.x + 0.012, 0);
  const y = clamp(below ? frame.y + frame.height - 0.012 : frame.y + 0.04, 0.035, height - 0.01);
  put(text, { x, y, class: `name ${kind}`, "text-anchor": right ? "end" : "start" });
  say(text, name);
}

function drawLines(layer, lines) {
  const parts = () => ["seam", "edge", "tip"].map((name) => make("svg:path", { class: name }));
  const nodes = pool(layer, lines.length, () => make("svg:g", {}, ...parts()));
  lines.forEach(({ from, to, kind, tip = false, bow = 0 }, index) => {
    put(nodes[index], { class: kind });
    const [seam, edge, end] = nodes[index].children,
      way = curve(from, to, bow);
    put(seam, { d: way });
    put(edge, { d: way });
    put(end, { d: tip ? arrowTip(from, to) : null });
  });
}

// From one point to another, bent aside by a share of the way, so that lines on one straight come apart.
function curve([x1, y1], [x2, y2], bow) {
  const [mx, my] = [(x1 + x2) / 2 + bow * (y1 - y2), (y1 + y2) / 2 + bow * (x2 - x1)];
  return bow ? `M${x1} ${y1} Q${mx} ${my} ${x2} ${y2}` : `M${x1} ${y1} L${x2} ${y2}`;
}

function arrowTip([x1, y1], [x2, y2]) {
  const length = Math.hypot(x2 - x1, y2 - y1);
  if (length < 1e-6) return null;
  const tip = Math.min(0.035, length),
    [dx, dy] = [((x2 - x1) / length) * tip, ((y2 - y1) / length) * tip];
  return `M${x2} ${y2} L${x2 - dx - dy / 2} ${y2 - dy + dx / 2} L${x2 - dx + dy / 2} ${y2 - dy - dx / 2} Z`;
}

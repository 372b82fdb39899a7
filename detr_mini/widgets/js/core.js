// What every widget shares: nodes, the theme of the page around it, messages, and the line to Python.

const SVG = "http://www.w3.org/2000/svg";

export function make(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  put(node, attributes);
  node.append(...children);
  return node;
}

// Attributes that differ are set; null removes one.
export function put(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) node.removeAttribute(name);
    else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
  }
  return node;
}

export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A parent's children, made once and kept: exactly `count` of them.
export function pool(parent, count, makeOne) {
  while (parent.children.length > count) parent.lastChild.remove();
  while (parent.children.length < count) parent.append(makeOne(parent.children.length));
  return [...parent.children];
}

// Where on a picture a pointer is, in the picture's own unit.
export function placeOn(svg, { clientX, clientY }) {
  const matrix = svg.getScreenCTM();
  return [(clientX - matrix.e) / matrix.a, (clientY - matrix.f) / matrix.d];
}

export function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

// The host's theme, read from the colour behind the widget, since every front end names its themes differently.
function watchTheme(root) {
  const read = () => {
    let node = root.parentElement ?? root.getRootNode().host;
    let paint = [255, 255, 255, 0];
    while (node && paint[3] === 0) {
      const numbers = getComputedStyle(node)
        .backgroundColor.match(/[\d.]+/g)
        ?.map(Number) ?? [0, 0, 0, 0];
      paint = [numbers[0], numbers[1], numbers[2], numbers[3] ?? 1];
      node = node.parentElement ?? node.getRootNode().host;
    }
    const light = paint[3] === 0 ? !matchMedia("(prefers-color-scheme: dark)").matches : luminance(paint) > 0.5;
    root.dataset.theme = light ? "light" : "dark";
  };
  const watcher = new MutationObserver(read),
    media = matchMedia("(prefers-color-scheme: dark)");
  for (const node of [document.documentElement, document.body]) watcher.observe(node, { attributes: true });
  media.addEventListener("change", read);
  const first = requestAnimationFrame(read); // by then the widget is in the page
  return () => {
    cancelAnimationFrame(first);
    watcher.disconnect();
    media.removeEventListener("change", read);
  };
}

function luminance([r, g, b]) {
  return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
}

// The state of a widget, shared with Python: at most one message per frame and one in flight, and the last always
// goes. A message says which parts were changed here since Python last answered; Python takes those and keeps its own
// of all others. It answers in `heard` with the view and the number of the message. A kernel that is busy or gone is
// asked again, ever more seldom.
const PATIENCE_MS = 3000;

class Line {
  constructor(model, changed) {
    this.model = model;
    this.view = Math.random().toString(36).slice(2);
    this.state = structuredClone(model.get("state"));
    this.given = model.get("given");
    this.changed = {}; // since the last message
    this.flying = {}; // in messages that Python has not answered
    this.inFlight = false;
    this.sent = 0;
    const seenBy = (state) => (state.by === "python" ? state.number : state.seen);
    this.seen = seenBy(this.state); // Python's last state that this one is made from
    this.fits = () => true; // whether what was changed here can stand beside what Python has set: a widget may say
    this.patience = PATIENCE_MS;
    this.onState = () => {
      const news = model.get("state");
      if (news.by === this.view) return; // our own
      this.seen = seenBy(news);
      const merged = { ...structuredClone(news), ...this.flying, ...this.changed };
      this.state = this.fits(merged) ? merged : structuredClone(news);
      changed();
    };
    this.onHeard = () => {
      if (model.get("heard") === `${this.view} ${this.sent}`) this.landed();
    };
    model.on("change:state", this.onState);
    model.on("change:heard", this.onHeard);
  }

  // Takes a change made here; the picture is the caller's business.
  change(part) {
    this.state = { ...this.state, ...part };
    this.changed = { ...this.changed, ...part };
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (!this.inFlight) this.send();
    });
  }

  send() {
    this.flying = { ...this.flying, ...this.changed };
    this.changed = {};
    if (!Object.keys(this.flying).length) return;
    this.inFlight = true;
    this.sent += 1;
    const touched = Object.keys(this.flying);
    this.state = { ...this.state, number: this.sent, by: this.view, touched, seen: this.seen };
    this.model.set("state", structuredClone(this.state));
    this.model.save_changes();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.patience *= 2;
      this.send();
    }, this.patience);
  }

  landed() {
    clearTimeout(this.timer);
    this.inFlight = false;
    this.flying = {};
    this.patience = PATIENCE_MS;
    this.onState(); // what Python made of it
    if (!this.frame) this.send();
  }

  close() {
    if (this.frame) cancelAnimationFrame(this.frame);
    if (Object.keys(this.changed).length) this.send();
    clearTimeout(this.timer);
    this.model.off("change:state", this.onState);
    this.model.off("change:heard", this.onHeard);
  }
}

// A widget from what is its own: `build(root, line)` makes the nodes once and gives back `draw()`, which is called for
// every change. What goes wrong, here or in Python, is said in the widget.
export function widget(name, build) {
  return {
    render({ model, el }) {
      const root = make("div", { class: `detr-mini ${name}`, role: "group", "aria-label": name });
      const trouble = make("p", { class: "trouble", role: "alert", hidden: true });
      const inner = make("div");
      root.append(inner, trouble);
      el.append(root);
      let own = "",
        draw = () => {};
      const tell = () => {
        const text = [own, model.get("trouble")].filter(Boolean).join(" ");
        say(trouble, text);
        trouble.hidden = !text;
      };
      const guarded =
        (work) =>
        (...given) => {
          try {
            return work(...given);
          } catch (error) {
            own = `${name} stopped: ${error.message}`;
            console.error(error);
          } finally {
            tell();
          }
        };
      const line = new Line(model, () => redraw());
      const redraw = guarded(() => {
        draw();
        own = ""; // what went wrong is said until the picture is right again
      });
      model.on("change:trouble", tell);
      root.addEventListener("keydown", (event) => keepKey(event));
      guarded(() => {
        draw = build(inner, line, { redraw, guarded });
        draw();
      })();
      const unwatch = watchTheme(root);
      return () => {
        model.off("change:trouble", tell);
        line.close();
        unwatch();
      };
    },
  };
}

// A notebook has shortcuts on plain keys, which must not reach it from a slider or a box: an arrow would leave the
// cell, x would cut it. Keys with a modifier, as Shift and Enter, stay the notebook's.
function keepKey(event) {
  const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
  if (plain && !["Tab", "Escape"].includes(event.key) && !(event.shiftKey && event.key === "Enter"))
    event.stopPropagation();
}

// Calls `work(event)` for a mouse's press and drag, and for a finger's tap and sideways drag: a finger that scrolls the
// page points at nothing.
export function onPointing(node, work) {
  let start = null;
  node.addEventListener("pointerdown", (event) => {
    start = event;
    if (event.pointerType === "touch" || event.button > 0) return;
    node.setPointerCapture(event.pointerId);
    work(event);
  });
  node.addEventListener("pointermove", (event) => {
    if (!(event.buttons & 1) || !start) return;
    const [across, down] = [event.clientX - start.clientX, event.clientY - start.clientY].map(Math.abs);
    if (event.pointerType !== "touch" || across > Math.max(8, down)) work(event);
  });
  node.addEventListener("click", (event) => {
    if (start?.pointerType === "touch") work(event);
  });
}

// A number as it is shown: a true minus, and no minus before a zero.
export function number(value, digits = 2) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : value < 0 ? "−∞" : "?";
  const text = value.toFixed(digits);
  return /[1-9]/.test(text) ? text.replace("-", "−") : text.replace("-", "");
}

// Controls with their words, so that a screen reader has them too. A name begins with the words that are shown, for
// those who say them to their computer.
export function button(text, label, press) {
  const node = make("button", { type: "button", "aria-label": `${text}: ${label}`, title: label }, text);
  node.addEventListener("click", press);
  return node;
}

// A button that plays through the points 0 to `last()`, one in `pace` milliseconds, and pauses when it is pressed again;
// `go(point)` shows one. It stops where the point is not the one it set: somebody's hand, or another view's.
export function player(root, what, { now, last, go, pace, redraw, guarded }) {
  let running = null; // its timer, and the point that it set
  const stop = () => {
    clearInterval(running?.timer);
    running = null;
  };
  const advance = () => {
    if (!root.isConnected || now() !== running.point || running.point >= last()) {
      stop();
      return redraw();
    }
    running.point += 1;
    go(running.point);
  };
  const press = () => {
    if (running) {
      stop();
      return redraw();
    }
    const from = now() ?? Infinity;
    running = { point: from >= last() ? 0 : from, timer: setInterval(guarded(advance), pace) };
    go(running.point);
  };
  const node = button("play", what, guarded(press));
  return {
    node,
    stop,
    plays: () => Boolean(running),
    draw() {
      if (running && now() !== running.point) stop();
      say(node, running ? "pause" : "play");
      put(node, { "aria-label": `${node.textContent}: ${what}`, title: `${node.textContent} ${what}` });
    },
  };
}

export function slider(text, { min, max, step }, moved, digits = 2) {
  const input = make("input", { type: "range", min, max, step, "aria-label": text });
  const shown = make("output", { "aria-live": "off" });
  input.addEventListener("input", () => moved(Number(input.value)));
  const node = make("label", { class: "slider" }, make("span", {}, text), input, shown);
  return {
    node,
    set(value, name = text, words = digits === null ? "" : number(value, digits)) {
      if (Number(input.value) !== value) input.value = value;
      say(shown, words);
      say(node.firstChild, name);
      put(input, { "aria-label": name, "aria-valuetext": words || null });
    },
  };
}

export function choice(text, options, chosen) {
  const select = make("select", { "aria-label": text });
  select.append(...options.map((option) => make("option", { value: option }, option)));
  select.addEventListener("change", () => chosen(select.value));
  return {
    node: make("label", { class: "choice" }, make("span", {}, text), select),
    set(value) {
      if (select.value !== value) select.value = value;
    },
  };
}

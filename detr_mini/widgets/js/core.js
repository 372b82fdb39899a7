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
      const numbers = getComputedStyle(node).backgroundColor.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
      paint = [numbers[0], numbers[1], numbers[2], numbers[3] ?? 1];
      node = node.parentElement ?? node.getRootNode().host;
    }
    const light = paint[3] === 0 ? !matchMedia("(prefers-color-scheme: dark)").matches : luminance(paint) > 0.5;
    root.dataset.theme = light ? "light" : "dark";
  };
  const watcher = new MutationObserver(read), media = matchMedia("(prefers-color-scheme: dark)");
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
// goes. Python answers each message with its number in `heard`; a kernel that is busy or gone is asked again later.
const PATIENCE_MS = 3000;

class Line {
  constructor(model, changed) {
    this.model = model;
    this.view = Math.random().toString(36).slice(2);
    this.state = structuredClone(model.get("state"));
    this.given = model.get("given");
    this.waits = this.inFlight = false;
    this.onState = () => {
      const news = model.get("state");
      if (news.by === this.view) return; // our own
      this.state = structuredClone(news);
      changed();
    };
    this.onHeard = () => this.landed();
    model.on("change:state", this.onState);
    model.on("change:heard", this.onHeard);
  }

  // Takes a change made here; the picture is the caller's business.
  change(part) {
    this.state = { ...this.state, ...part };
    this.waits = true;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.send();
    });
  }

  send() {
    if (!this.waits || this.inFlight) return;
    this.waits = false;
    this.inFlight = true;
    this.sent = (this.model.get("state").number ?? 0) + 1;
    this.state = { ...this.state, number: this.sent, by: this.view };
    this.model.set("state", structuredClone(this.state));
    this.model.save_changes();
    this.timer = setTimeout(() => this.landed(true), PATIENCE_MS);
  }

  landed(late = false) {
    if (!late && this.model.get("heard") < this.sent) return;
    clearTimeout(this.timer);
    this.inFlight = false;
    this.send();
  }

  close() {
    clearTimeout(this.timer);
    if (this.frame) cancelAnimationFrame(this.frame);
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
      let own = "", draw = () => {};
      const tell = () => {
        const text = [own, model.get("trouble")].filter(Boolean).join(" ");
        say(trouble, text);
        trouble.hidden = !text;
      };
      const guarded = (work) => (...given) => {
        try {
          const answer = work(...given);
          own = "";
          return answer;
        } catch (error) {
          own = `${name} stopped: ${error.message}`;
          console.error(error);
        } finally {
          tell();
        }
      };
      const line = new Line(model, () => redraw());
      const redraw = guarded(() => draw());
      model.on("change:trouble", tell);
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

// Controls with their words, so that a screen reader has them too.
export function button(text, label, press) {
  const node = make("button", { type: "button", "aria-label": label, title: label }, text);
  node.addEventListener("click", press);
  return node;
}

export function slider(text, { min, max, step }, moved, digits = 2) {
  const input = make("input", { type: "range", min, max, step, "aria-label": text });
  const shown = make("output");
  input.addEventListener("input", () => moved(Number(input.value)));
  const node = make("label", { class: "slider" }, make("span", {}, text), input, shown);
  return {
    node,
    set(value, name = text) {
      if (Number(input.value) !== value) input.value = value;
      say(shown, digits === null ? "" : value.toFixed(digits));
      say(node.firstChild, name);
      put(input, { "aria-label": name });
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

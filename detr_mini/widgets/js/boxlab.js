// Two boxes; how far the one is from the other in three measures, and where each measure would pull it.

const MEASURES = ["IoU", "GIoU", "L1"],
  SIDES = ["cx", "cy", "w", "h"],
  PULL = 0.12;

// How (cx, cy, w, h) should change to become better in a measure.
export function pull(found, measure) {
  return measure === "IoU"
    ? found.iouGradient
    : measure === "GIoU"
      ? found.giouGradient
      : found.l1Gradient.map((by) => -by);
}

function buildBoxLab(root, line, { guarded, redraw }) {
  const stage = new Stage({
    label: "two boxes: tab to one, arrows move it, shift with arrows resizes it",
    guarded,
    edge: PULL,
    moved: (index, box) => {
      line.change({ [index ? "b" : "a"]: corners(box) });
      redraw();
    },
    picked: (index) => {
      picked = index;
      redraw();
    },
  });
  let picked = 0;
  const asked = choice(
    "arrows of",
    MEASURES,
    guarded((measure) => {
      line.change({ measure });
      redraw();
    }),
  );
  const head = make("tr", {}, ...["", "value", ...SIDES].map((name) => make("th", { scope: "col" }, name)));
  const rows = MEASURES.map((name) => {
    const [value, ...slopes] = Array.from({ length: 5 }, () => make("td"));
    return { name, value, slopes, node: make("tr", {}, make("th", { scope: "row" }, name), value, ...slopes) };
  });
  const table = make(
    "table",
    { class: "measures" },
    make("caption", {}, "slopes: how fast each gets better as a's cx, cy, w or h grows"),
    make("thead", {}, head),
    make("tbody", {}, ...rows.map((row) => row.node)),
  );
  const signs = make("p", { class: "small signs" }),
    notes = make("p", { class: "notes" });
  const spoken = make("p", { class: "unseen", "aria-live": "polite" });
  root.append(
    make(
      "div",
      { class: "columns" },
      make("div", {}, stage.node, signs),
      make(
        "div",
        { class: "aside" },
        make("div", { class: "bar" }, asked.node),
        make("div", { class: "scroll" }, table),
        notes,
        spoken,
      ),
    ),
  );

  return () => {
    const { a, b, measure } = line.state,
      found = measures(a, b);
    const values = { IoU: found.iou, GIoU: found.giou, L1: found.l1 };
    asked.set(measure);
    for (const { name, value, slopes, node } of rows) {
      say(value, number(values[name], 3));
      pull(found, name).forEach((by, i) => say(slopes[i], signed(by)));
      put(node, { class: name === measure ? "shown" : null });
    }
    const shared = [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])];
    const overlaps = shared[2] > shared[0] && shared[3] > shared[1],
      hulled = measure === "GIoU";
    const under = overlaps ? [{ corners: shared, kind: "shared" }] : [];
    if (hulled)
      under.unshift({
        corners: [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])],
        kind: "hull",
      });
    const words = (name, box) => `${name}, ${box.map((side) => number(side)).join(" ")}`;
    stage.draw({
      items: [
        { box: centred(a), name: "a", kind: "query", movable: true, words: words("a, the prediction", a) },
        { box: centred(b), name: "b", kind: "object", movable: true, below: true, words: words("b, the truth", b) },
      ],
      selected: picked,
      image: line.given.image,
      under,
      arrows: sideArrows(a, pull(found, measure)),
    });
    say(
      signs,
      `blue: a, the prediction; orange dashed: b, the truth${hulled ? "; dotted: hull" : ""}${overlaps ? "; grey: overlap" : ""}; arrows: which way a's sides are pulled`,
    );
    say(notes, notesOn({ a, b }, found).join(" "));
    say(spoken, `${measure} ${number(values[measure], 2)}`);
  };
}

function signed(value) {
  const text = number(value);
  return text.startsWith("−") || !/[1-9]/.test(text) ? text : `+${text}`;
}

function notesOn({ a, b }, found) {
  const notes = [],
    among = (test) =>
      [
        ["a", a],
        ["b", b],
      ]
        .filter(([, box]) => test(box))
        .map(([name]) => name);
  const about = (names, one, two) => {
    if (names.length) notes.push(`${names.join(" and ")} ${names.length > 1 ? two : one}`);
  };
  const pixels = (box) => Math.max(...box) > 4,
    flat = (box) => !(box[2] > box[0] && box[3] > box[1]);
  about(among(flat), "has no area: IoU is 0 whatever the other does.", "have no area: IoU is 0.");
  about(
    among(pixels),
    "seems to be in pixels: divide by the width and height of the image.",
    "seem to be in pixels: divide by the width and height of the image.",
  );
  about(
    among((box) => !pixels(box) && (Math.min(...box) < 0 || Math.max(...box) > 1)),
    "reaches outside the image.",
    "reach outside the image.",
  );
  if (a.every((side, i) => side === b[i])) notes.push("The boxes coincide.");
  const still = MEASURES.filter((name) => pull(found, name).every((by) => Math.abs(by) < STILL));
  if (still.length) notes.push(`No slope, so nothing to learn from: ${still.join(", ")}.`);
  return notes;
}

// Arrows at the middles of a's sides, as long as the sides are pulled; the longest is PULL.
export function sideArrows(a, change) {
  const [cx, cy, w, h] = change,
    sides = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2];
  const longest = Math.max(...sides.map(Math.abs));
  if (longest < STILL) return [];
  const [mx, my] = [(a[0] + a[2]) / 2, (a[1] + a[3]) / 2];
  const starts = [
    [a[0], my],
    [mx, a[1]],
    [a[2], my],
    [mx, a[3]],
  ];
  return starts.flatMap(([x, y], i) => {
    const by = (sides[i] / longest) * PULL;
    if (Math.abs(by) <= 0.02 * PULL) return [];
    return [{ from: [x, y], to: i % 2 ? [x, y + by] : [x + by, y], kind: "pull", tip: true }];
  });
}

export default widget("BoxLab", buildBoxLab);

// Two boxes; how far the one is from the other in three measures, and where each measure would pull it.

const MEASURES = ["IoU", "GIoU", "L1"], PULL = 0.22, STILL = 1e-9;

// How (cx, cy, w, h) should change to become better in a measure.
export function pull(found, measure) {
  return measure === "IoU" ? found.iouGradient : measure === "GIoU" ? found.giouGradient : found.l1Gradient.map((by) => -by);
}

function buildBoxLab(root, line, { guarded, redraw }) {
  const stage = new Stage({
    label: "two boxes: tab to one, arrows move it, shift with arrows resizes it",
    guarded,
    moved: (index, box) => move(index, corners(box)),
    picked: (index) => { picked = index; redraw(); },
  });
  let picked = 0;
  const move = (index, box) => {
    line.change({ [index ? "b" : "a"]: box });
    redraw();
  };
  const asked = choice("arrows of", MEASURES, (measure) => { line.change({ measure }); redraw(); });
  const cards = MEASURES.map((name) => {
    const value = make("output"), wish = make("small");
    return { name, value, wish, node: make("div", { class: "card" }, make("span", {}, name), value, wish) };
  });
  const notes = make("p", { class: "notes", "aria-live": "polite" });
  const aside = make("div", { class: "aside" }, asked.node, make("div", { class: "cards" }, ...cards.map((card) => card.node)), notes);
  root.append(make("div", { class: "columns" }, stage.node, aside));

  return () => {
    const { a, b, measure } = line.state, found = measures(a, b);
    const values = { IoU: found.iou, GIoU: found.giou, L1: found.l1 };
    asked.set(measure);
    for (const { name, value, wish, node } of cards) {
      const change = pull(found, name), still = change.every((side) => Math.abs(side) < STILL);
      say(value, values[name].toFixed(3));
      const sides = ["cx", "cy", "w", "h"].map((side, i) => `${side} ${change[i] < 0 ? "−" : "+"}${Math.abs(change[i]).toFixed(2)}`);
      say(wish, still ? "no gradient: it asks for nothing" : `a wants ${sides.join(", ")}`);
      put(node, { class: name === measure ? "card shown" : "card" });
    }
    const hull = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];
    const shared = [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])];
    const under = measure === "GIoU" ? [{ corners: hull, kind: "hull" }] : [];
    if (shared[2] > shared[0] && shared[3] > shared[1]) under.push({ corners: shared, kind: "shared" });
    const words = (name, box) => `${name}, ${box.map((side) => side.toFixed(2)).join(" ")}`;
    stage.draw({
      items: [
        { box: centred(a), name: "a", kind: "query", movable: true, words: words("a, the prediction", a) },
        { box: centred(b), name: "b", kind: "object", movable: true, below: true, words: words("b, the truth", b) },
      ],
      selected: picked, image: line.given.image, under, arrows: sideArrows(a, pull(found, measure)),
    });
    const outside = [["a", a], ["b", b]].filter(([, box]) => Math.min(...box) < 0 || Math.max(...box) > 1).map(([name]) => name);
    const flat = [["a", a], ["b", b]].filter(([, box]) => !(box[2] > box[0] && box[3] > box[1])).map(([name]) => name);
    const said = [];
    if (flat.length) said.push(`${flat.join(" and ")} without area: no overlap is defined that a gradient could improve.`);
    if (outside.length) said.push(`${outside.join(" and ")} reaches outside the image.`);
    if (a.every((side, i) => side === b[i])) said.push("The boxes coincide.");
    say(notes, said.join(" "));
  };
}

// Arrows at the middles of a's sides, as long as the sides are pulled; the longest is PULL.
export function sideArrows(a, change) {
  const [cx, cy, w, h] = change, sides = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2];
  const longest = Math.max(...sides.map(Math.abs));
  if (longest < STILL) return [];
  const [mx, my] = [(a[0] + a[2]) / 2, (a[1] + a[3]) / 2];
  const starts = [[a[0], my], [mx, a[1]], [a[2], my], [mx, a[3]]];
  return starts.flatMap(([x, y], i) => {
    const by = (sides[i] / longest) * PULL;
    if (Math.abs(by) <= 0.02 * PULL) return [];
    return [{ from: [x, y], to: i % 2 ? [x, y + by] : [x + by, y], kind: "pull", tip: true }];
  });
}

export default widget("BoxLab", buildBoxLab);

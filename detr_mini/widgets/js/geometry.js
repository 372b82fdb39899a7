// Boxes, as detr_mini.boxes and detr_mini.plots.boxes compute them: corners (x1, y1, x2, y2) or (cx, cy, w, h), 0..1.

const EMPTY_AREA = 1e-20,
  STILL = 1e-9; // a gradient or a difference below this is none

export function corners([cx, cy, w, h]) {
  return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2];
}

export function centred([x1, y1, x2, y2]) {
  return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1];
}

function area([x1, y1, x2, y2]) {
  return (x2 - x1) * (y2 - y1);
}

// Overlap and hull along one axis, each with its derivatives by the first box's two sides. Where two sides coincide
// the derivative is shared, as torch.minimum and torch.maximum share it.
function along(a1, a2, b1, b2) {
  const first = a1 > b1 ? 1 : a1 < b1 ? 0 : 0.5; // share of a1 in max(a1, b1)
  const last = a2 < b2 ? 1 : a2 > b2 ? 0 : 0.5; // share of a2 in min(a2, b2)
  const overlap = Math.min(a2, b2) - Math.max(a1, b1);
  const together = overlap > 0 ? 1 : 0;
  return {
    overlap: Math.max(overlap, 0),
    overlapBy: [-first * together, last * together],
    hull: Math.max(a2, b2) - Math.min(a1, b1),
    hullBy: [first - 1, 1 - last],
  };
}

// IoU, GIoU and L1 of box a with box b, both as corners, and the gradients by a's (cx, cy, w, h). As in Python the
// corners are those of (cx, cy, w, h): rounding decides whether two sides coincide.
export function measures(aCorners, bCorners) {
  const [inA, inB] = [centred(aCorners), centred(bCorners)],
    [a, b] = [corners(inA), corners(inB)];
  const x = along(a[0], a[2], b[0], b[2]),
    y = along(a[1], a[3], b[1], b[3]);
  const [width, height] = [a[2] - a[0], a[3] - a[1]];
  const shared = x.overlap * y.overlap,
    union = area(a) + area(b) - shared,
    hull = x.hull * y.hull;
  const sharedBy = [
    x.overlapBy[0] * y.overlap,
    y.overlapBy[0] * x.overlap,
    x.overlapBy[1] * y.overlap,
    y.overlapBy[1] * x.overlap,
  ];
  const areaBy = [-height, -width, height, width];
  const unionBy = areaBy.map((by, i) => by - sharedBy[i]);
  const hullBy = [x.hullBy[0] * y.hull, y.hullBy[0] * x.hull, x.hullBy[1] * y.hull, y.hullBy[1] * x.hull];
  const iou = ratio(shared, sharedBy, union, unionBy);
  const empty = ratio(
    hull - union,
    hullBy.map((by, i) => by - unionBy[i]),
    hull,
    hullBy,
  );
  return {
    iou: iou.value,
    giou: iou.value - empty.value,
    l1: l1(inA, inB),
    iouGradient: byCentre(iou.by),
    giouGradient: byCentre(iou.by.map((by, i) => by - empty.by[i])),
    l1Gradient: inA.map((side, i) => (Math.abs(side - inB[i]) > STILL ? Math.sign(side - inB[i]) : 0)),
  };
}

function ratio(part, partBy, whole, wholeBy) {
  if (!(whole > EMPTY_AREA)) return { value: part, by: partBy };
  const value = part / whole;
  return { value, by: partBy.map((by, i) => (by - value * wholeBy[i]) / whole) };
}

// Derivatives by (x1, y1, x2, y2) turned into those by (cx, cy, w, h).
function byCentre([x1, y1, x2, y2]) {
  return [x1 + x2, y1 + y2, (x2 - x1) / 2, (y2 - y1) / 2];
}

export function l1(a, b) {
  return a.reduce((sum, side, i) => sum + Math.abs(side - b[i]), 0);
}

export function giou(a, b) {
  return measures(a, b).giou;
}

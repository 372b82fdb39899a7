// The matching cost and who answers for which object, as detr_mini.matching, detr_mini.hungarian and
// detr_mini.plots.losses compute them. Boxes are (cx, cy, w, h); a probability list ends with "no object".

export function normalised(probabilities) {
  const sum = probabilities.reduce((total, p) => total + p, 0);
  return probabilities.map((p) => p / sum);
}

// The three terms, each (Q, T) and times its weight, and their sum.
export function matchingCost(boxes, probabilities, trueBoxes, labels, weights) {
  const sure = probabilities.map(normalised);
  const table = (entry) => boxes.map((box, q) => trueBoxes.map((truth, t) => entry(q, t, box, truth)));
  const terms = {
    class: table((q, t) => -weights.label * sure[q][labels[t]]),
    L1: table((q, t, box, truth) => weights.l1 * l1(box, truth)),
    GIoU: table((q, t, box, truth) => -weights.giou * giou(corners(box), corners(truth))),
  };
  return { terms, cost: table((q, t) => terms.class[q][t] + terms.L1[q][t] + terms.GIoU[q][t]) };
}

// The smallest entry, its row and column struck, and again; the first of equals is taken. In the order taken.
export function greedy(cost) {
  const rows = cost.length,
    columns = rows ? cost[0].length : 0,
    pairs = [];
  const free = { rows: Array(rows).fill(true), columns: Array(columns).fill(true) };
  while (pairs.length < Math.min(rows, columns)) {
    let best = null;
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++)
        if (free.rows[r] && free.columns[c] && (best === null || cost[r][c] < cost[best[0]][best[1]])) best = [r, c];
    pairs.push(best);
    free.rows[best[0]] = free.columns[best[1]] = false;
  }
  return pairs;
}

// Every step of the Hungarian algorithm on a cost (N, M), as detr_mini.hungarian.trace yields them.
export function trace(cost) {
  const rows = cost.length,
    columns = rows ? cost[0].length : 0,
    wide = rows <= columns,
    steps = [];
  if (!rows || !columns) return steps;
  const table = wide ? cost : cost[0].map((_, c) => cost.map((row) => row[c]));
  const n = table.length,
    m = table[0].length;
  const u = Array(n).fill(0),
    v = Array(m).fill(0),
    columnOf = Array(n).fill(-1),
    rowOf = Array(m).fill(-1);
  let slack, visited, from, added, reached;

  const lookFrom = (row) => {
    for (let j = 0; j < m; j++) {
      const reduced = Math.max(0, table[row][j] - u[row] - v[j]);
      if (!visited[j] && reduced < slack[j]) {
        slack[j] = reduced;
        from[j] = row;
      }
    }
  };
  const way = () => {
    const edges = [];
    for (let column = reached; column !== null;) {
      const row = from[column];
      edges.push([row, column]);
      if (row === added) break;
      column = columnOf[row];
      edges.push([row, column]);
    }
    return edges.reverse();
  };
  const note = (kind, path) => {
    const pairs = columnOf.flatMap((column, row) => (column < 0 ? [] : [wide ? [row, column] : [column, row]]));
    steps.push({
      kind,
      adds: wide ? "rows" : "columns",
      added,
      reached,
      rowPotentials: [...(wide ? u : v)],
      columnPotentials: [...(wide ? v : u)],
      slack: [...slack],
      visited: [...visited],
      path: path.map(([row, column]) => (wide ? [row, column] : [column, row])),
      matching: pairs.sort((a, b) => a[0] - b[0]),
    });
  };

  for (let row = 0; row < n; row++) {
    added = row;
    reached = null;
    slack = Array(m).fill(Infinity);
    visited = Array(m).fill(false);
    from = Array(m).fill(row);
    u[row] = Math.min(...table[row].map((value, j) => value - v[j]));
    lookFrom(row);
    note("start", []);
    do {
      const open = slack.map((value, j) => (visited[j] ? Infinity : value));
      reached = open.indexOf(Math.min(...open));
      const rise = slack[reached];
      u[added] += rise;
      for (let j = 0; j < m; j++) {
        if (visited[j]) {
          u[rowOf[j]] += rise;
          v[j] -= rise;
        } else slack[j] -= rise;
      }
      visited[reached] = true;
      if (rowOf[reached] >= 0) lookFrom(rowOf[reached]);
      note("visit", way());
    } while (rowOf[reached] >= 0);
    const path = way();
    for (let k = 0; k < path.length; k += 2) {
      columnOf[path[k][0]] = path[k][1];
      rowOf[path[k][1]] = path[k][0];
    }
    note("augment", path);
  }
  return steps;
}

export function assign(cost) {
  const steps = trace(cost);
  return steps.length ? steps[steps.length - 1].matching : [];
}

export function total(cost, pairs) {
  return pairs.reduce((sum, [row, column]) => sum + cost[row][column], 0);
}

// What every query adds to the loss of the image, as detr_mini.plots.losses.pair_losses takes it apart.
export function pairLosses(boxes, probabilities, trueBoxes, labels, pairs, weights) {
  const owner = boxes.map(() => -1);
  for (const [query, target] of pairs) owner[query] = target;
  const classWeight = owner.map((target) => (target < 0 ? weights.no_object : 1));
  const summed = Math.max(
      classWeight.reduce((sum, w) => sum + w, 0),
      1e-9,
    ),
    objects = Math.max(labels.length, 1);
  const nats = probabilities.map((p, q) => {
    const sure = normalised(p.map((one) => Math.max(one, 1e-12)));
    return -Math.log(sure[owner[q] < 0 ? sure.length - 1 : labels[owner[q]]]);
  });
  const onPairs = (entry) => owner.map((target, q) => (target < 0 ? 0 : entry(boxes[q], trueBoxes[target]) / objects));
  return {
    owner,
    label: nats.map((nat, q) => (weights.label * classWeight[q] * nat) / summed),
    l1: onPairs((box, truth) => weights.l1 * l1(box, truth)),
    giou: onPairs((box, truth) => weights.giou * (1 - giou(corners(box), corners(truth)))),
  };
}

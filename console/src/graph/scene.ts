// What is drawn, in the graph's own coordinates: the same for the canvas, for clicks and for the minimal table.

import { bytesPerSecond, health, quantile, success, type Health } from "../lib/rates.ts";
import { bytes, milliseconds, percent, rate, share } from "../lib/format.ts";
import { groupOf, HEAD, PADDING, sizeOf, SLOT, type Places, type Rect, type Way } from "./layout.ts";
import type { Box, Edge, Graph } from "./model.ts";

export interface Labels {
  rate: boolean;
  success: boolean;
  latency: boolean;
  bytes: boolean;
  share: boolean;
  lock: boolean;
  protocol: boolean;
}

export interface Point {
  x: number;
  y: number;
}

export interface SceneBox extends Rect {
  box: Box;
  faded: boolean;
}

export interface SceneEdge {
  edge: Edge;
  health: Health;
  /** Start, two control points, end. */
  curve: [Point, Point, Point, Point];
  label: string;
  faded: boolean;
}

export interface Scene {
  groups: (Rect & { name: string })[];
  boxes: Map<string, SceneBox>;
  edges: SceneEdge[];
  bounds: Rect;
}

/** The share that an edge has, and the one that documents set for it, such as `78 % (set 80 %)`. */
export function shareOf(edge: Edge): string {
  const set = edge.weights.length > 0 ? `set ${edge.weights.map(share).join(" or ")}` : "";
  if (edge.share === null) return set;
  return set ? `${share(edge.share)} (${set})` : share(edge.share);
}

/** What stands on an edge, such as `12.4/s · 65 %`. */
export function labelOf(edge: Edge, labels: Labels): string {
  const { rates } = edge;
  const parts: string[] = [];
  // Most is HTTP: what is not is told.
  if (labels.protocol && edge.protocol !== "http") parts.push(edge.protocol);
  if (labels.rate && (rates.requests > 0 || edge.protocol !== "tcp")) parts.push(`${rate(rates.requests)}/s`);
  if (labels.share && (edge.share !== null || edge.weights.length > 0)) parts.push(shareOf(edge));
  const ok = success(rates);
  if (ok !== null && (labels.success || ok < 0.999) && ok < 1) parts.push(`${percent(ok)} ok`);
  if (labels.latency && rates.requests > 0) parts.push(milliseconds(quantile(rates, 0.95)));
  if (labels.bytes || edge.protocol === "tcp") parts.push(`${bytes(bytesPerSecond(rates))}/s`);
  if (edge.circuit) parts.push(edge.circuit);
  if (labels.lock && edge.mtls === false) parts.push("no mTLS");
  return parts.join(" · ");
}

export function compose(
  graph: Graph,
  places: Places,
  labels: Labels,
  isFound: { box: (box: Box) => boolean; edge: (edge: Edge) => boolean } | null,
  way: Way = "right",
): Scene {
  const boxes = new Map<string, SceneBox>();
  for (const box of graph.boxes.values()) {
    const at = places.get(box.id);
    if (at) boxes.set(box.id, { ...at, ...sizeOf(box), box, faded: isFound !== null && !isFound.box(box) });
  }
  const groups = new Map<string, Rect & { name: string }>();
  for (const { box, x, y, w, h } of boxes.values()) {
    if (!box.namespace) continue;
    const key = groupOf(box);
    const known = groups.get(key);
    groups.set(key, { name: box.namespace, ...union(known, { x, y, w, h }) });
  }
  const framed = [...groups.values()].map(({ name, x, y, w, h }) => ({
    name,
    x: x - PADDING,
    y: y - PADDING - 18,
    w: w + 2 * PADDING,
    h: h + 2 * PADDING + 18,
  }));
  const edges: SceneEdge[] = [];
  for (const edge of graph.edges.values()) {
    const [from, to] = [boxes.get(edge.from), boxes.get(edge.to)];
    if (!from || !to) continue;
    edges.push({
      edge,
      health: health(edge.rates),
      curve: curveOf(from, to, edge, way),
      label: labelOf(edge, labels),
      faded: isFound !== null && !isFound.edge(edge),
    });
  }
  let bounds: Rect | undefined;
  for (const rect of [...framed, ...boxes.values()]) bounds = union(bounds, rect);
  return { groups: framed, boxes, edges, bounds: bounds ?? { x: 0, y: 0, w: 1, h: 1 } };
}

function union(one: Rect | undefined, other: Rect): Rect {
  if (!one) return { x: other.x, y: other.y, w: other.w, h: other.h };
  const [x, y] = [Math.min(one.x, other.x), Math.min(one.y, other.y)];
  return {
    x,
    y,
    w: Math.max(one.x + one.w, other.x + other.w) - x,
    h: Math.max(one.y + one.h, other.y + other.h) - y,
  };
}

/** Where an edge meets a box: at the slot, or at the head. */
function heightOf(at: SceneBox, slot: string | null): number {
  const i = slot === null ? -1 : at.box.slots.findIndex(({ id }) => id === slot);
  return i < 0 ? at.y + HEAD / 2 : at.y + HEAD + i * SLOT + SLOT / 2;
}

function curveOf(from: SceneBox, to: SceneBox, edge: Edge, way: Way): SceneEdge["curve"] {
  const y1 = heightOf(from, edge.fromSlot);
  const y2 = heightOf(to, edge.toSlot);
  if (from === to) {
    // A service that calls itself: below its left side, where little else ends.
    const { x } = from;
    const low = from.y + from.h;
    return [{ x: x + 34, y: low }, { x: x + 20, y: low + 52 }, { x: x - 56, y: low + 40 }, { x, y: y2 + 4 }];
  }
  if (way === "down" && to.y > from.y + from.h) {
    // From below the caller to the nearer side of whom it calls, which has its versions there.
    const aside = (to.x + to.w / 2 - from.x - from.w / 2) / (2 * from.w);
    const start = { x: from.x + from.w * (0.5 + Math.max(-0.35, Math.min(0.35, aside))), y: from.y + from.h };
    const side = start.x > to.x + to.w / 2 ? 1 : -1;
    const x = side > 0 ? to.x + to.w : to.x;
    return [start, { x: start.x, y: start.y + (y2 - start.y) * 0.6 }, { x: x + side * 34, y: y2 }, { x, y: y2 }];
  }
  const start = { x: from.x + from.w, y: y1 };
  const end = { x: to.x, y: y2 };
  // Backwards and within a column it swings out.
  const reach = Math.max(48, Math.abs(end.x - start.x) * 0.45);
  return [start, { x: start.x + reach, y: y1 }, { x: end.x - reach, y: y2 }, end];
}

export function pointOn([a, b, c, d]: SceneEdge["curve"], t: number): Point {
  const u = 1 - t;
  const [p, q, r, s] = [u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t];
  return { x: p * a.x + q * b.x + r * c.x + s * d.x, y: p * a.y + q * b.y + r * c.y + s * d.y };
}

export type Target = { kind: "box"; id: string } | { kind: "edge"; id: string };

/** What is there, in the graph's coordinates. `near` is how far an edge may be. */
export function hit(scene: Scene, at: Point, near: number): Target | null {
  for (const { x, y, w, h, box } of scene.boxes.values()) {
    if (at.x >= x && at.x <= x + w && at.y >= y && at.y <= y + h) return { kind: "box", id: box.id };
  }
  let best: Target | null = null;
  let nearest = near;
  for (const { edge, curve } of scene.edges) {
    const [a, b, c, d] = curve;
    const [left, right] = [Math.min(a.x, b.x, c.x, d.x), Math.max(a.x, b.x, c.x, d.x)];
    const [top, bottom] = [Math.min(a.y, b.y, c.y, d.y), Math.max(a.y, b.y, c.y, d.y)];
    if (at.x < left - near || at.x > right + near || at.y < top - near || at.y > bottom + near) continue;
    for (let i = 0; i <= 40; i += 1) {
      const point = pointOn(curve, i / 40);
      const distance = Math.hypot(point.x - at.x, point.y - at.y);
      if (distance < nearest) {
        nearest = distance;
        best = { kind: "edge", id: edge.id };
      }
    }
  }
  return best;
}

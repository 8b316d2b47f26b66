// Where boxes stand. Dagre arranges the services of each namespace, and then the namespaces; from then on what stands
// stays, and what is new is put near whom it talks to.

import { graphlib, layout as dagre } from "@dagrejs/dagre";
import type { Box, Graph } from "./model.ts";

export interface Rect {
  x: number;
  y: number;
  w: number;
  h: number;
}

export const HEAD = 30;
export const SLOT = 22;
const WIDTH = 148;
const GAP_X = 170;
const GAP_Y = 26;
/** Between a caller and whom it calls, from top to bottom. */
const GAP_DOWN = 84;
/** Between boxes beside each other, where edges and their labels go down. */
const GAP_BESIDE = 92;
/** Room around what a namespace holds, with its name on top. */
export const PADDING = 22;
const CAPTION = 18;

/** How many times as wide as it is high the graph may become before namespaces are set in rows. */
const WIDEST = 3;

/** Places of boxes by id, top left. */
export type Places = Map<string, { x: number; y: number }>;

export function sizeOf(box: Box): { w: number; h: number } {
  return { w: WIDTH, h: HEAD + (box.slots.length > 0 ? box.slots.length * SLOT + 6 : 0) };
}

/** How calls go: from left to right, or on a screen that is high and narrow from top to bottom. */
export type Way = "right" | "down";

/** Gives places to boxes that have none; true if anything changed. Boxes that are gone keep theirs: they may come back. */
export function place(graph: Graph, places: Places, way: Way = "right"): boolean {
  const missing = [...graph.boxes.values()].filter(({ id }) => !places.has(id));
  if (missing.length === 0) return false;
  const standing = graph.boxes.size - missing.length;
  if (missing.length > standing) {
    arrange(graph, places, way);
    return true;
  }
  for (const box of missing) squeezeIn(box, graph, places);
  return true;
}

/** Between ranks, and within one. */
function gaps(way: Way): [number, number] {
  return way === "right" ? [GAP_X, GAP_Y] : [GAP_DOWN, GAP_BESIDE];
}

/** Arranges everything anew. */
export function arrange(graph: Graph, places: Places, way: Way = "right"): void {
  places.clear();
  const groups = new Map<string, Box[]>();
  for (const box of graph.boxes.values()) {
    const key = groupOf(box);
    groups.set(key, [...(groups.get(key) ?? []), box]);
  }
  const links = [...graph.edges.values()].map(({ from, to }) => [from, to] as const);
  const groupOfBox = new Map([...graph.boxes.values()].map((box) => [box.id, groupOf(box)]));
  const inner = new Map<string, { w: number; h: number; at: Places }>();
  for (const [name, boxes] of groups) {
    const own = links.filter(([from, to]) => groupOfBox.get(from) === name && groupOfBox.get(to) === name);
    inner.set(name, run(boxes.map((box) => ({ id: box.id, ...sizeOf(box) })), own, ...gaps(way), way));
  }
  const between = links.map(([from, to]) => [groupOfBox.get(from)!, groupOfBox.get(to)!] as const);
  const frames = [...inner].map(([id, { w, h }]) => ({ id, w: w + 2 * PADDING, h: h + 2 * PADDING + CAPTION }));
  const [along, beside] = gaps(way);
  const flow = run(frames, between.filter(([from, to]) => from !== to), along, Math.max(beside, 2 * GAP_Y), way);
  const outer = way === "right" && flow.w > WIDEST * flow.h && frames.length > 3 ? inRows(frames, flow) : flow;
  for (const [name, { at }] of inner) {
    const frame = outer.at.get(name)!;
    for (const [id, { x, y }] of at) places.set(id, { x: frame.x + PADDING + x, y: frame.y + PADDING + CAPTION + y });
  }
}

/** A long row of namespaces is no picture: they are set in rows like words, in the order in which calls flow. */
function inRows(frames: { id: string; w: number; h: number }[], flow: { at: Places }): { at: Places } {
  const order = (id: string) => flow.at.get(id)!;
  const sorted = [...frames].sort((a, b) => order(a.id).x - order(b.id).x || order(a.id).y - order(b.id).y);
  const widest = Math.max(...frames.map(({ w }) => w));
  let best: { at: Places; off: number } | null = null;
  for (let columns = 1; columns <= frames.length; columns += 1) {
    const width = columns * (widest + GAP_X);
    const at: Places = new Map();
    let [x, y, row, right] = [0, 0, 0, 0];
    for (const { id, w, h } of sorted) {
      if (x > 0 && x + w > width) [x, y, row] = [0, y + row + 3 * GAP_Y, 0];
      at.set(id, { x, y });
      x += w + GAP_X;
      right = Math.max(right, x);
      row = Math.max(row, h);
    }
    // As wide as screens are, more or less.
    const off = Math.abs(Math.log(right / (y + row) / 1.8));
    if (!best || off < best.off) best = { at, off };
  }
  return best ?? flow;
}

/** Boxes of a namespace stand together; so do single strangers, each by itself. */
export function groupOf(box: Box): string {
  return box.namespace ? `ns:${box.namespace}` : box.id;
}

function run(
  nodes: { id: string; w: number; h: number }[],
  links: (readonly [string, string])[],
  ranksep: number,
  nodesep: number,
  way: Way,
): { w: number; h: number; at: Places } {
  const graph = new graphlib.Graph();
  // The longest-path ranker is the one that stays quick with hundreds of services.
  const ranker = nodes.length > 60 ? "longest-path" : "network-simplex";
  graph.setGraph({ rankdir: way === "right" ? "LR" : "TB", ranksep, nodesep, ranker });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const { id, w, h } of nodes) graph.setNode(id, { width: w, height: h });
  for (const [from, to] of links) if (from !== to) graph.setEdge(from, to);
  dagre(graph);
  const at: Places = new Map();
  let [w, h] = [0, 0];
  for (const { id, w: width, h: height } of nodes) {
    const { x, y } = graph.node(id) as { x: number; y: number };
    at.set(id, { x: x - width / 2, y: y - height / 2 });
    w = Math.max(w, x + width / 2);
    h = Math.max(h, y + height / 2);
  }
  return { w, h, at };
}

/** The free place that is nearest to where a new box belongs: right of its callers, or left of whom it calls. */
function squeezeIn(box: Box, graph: Graph, places: Places): void {
  const size = sizeOf(box);
  const wishes: { x: number; y: number }[] = [];
  for (const { from, to } of graph.edges.values()) {
    const caller = to === box.id ? places.get(from) : undefined;
    const called = from === box.id ? places.get(to) : undefined;
    if (caller) wishes.push({ x: caller.x + WIDTH + GAP_X, y: caller.y });
    if (called) wishes.push({ x: called.x - WIDTH - GAP_X, y: called.y });
  }
  const family = [...graph.boxes.values()].filter((other) => groupOf(other) === groupOf(box) && places.has(other.id));
  if (wishes.length === 0) wishes.push(...family.map(({ id }) => places.get(id)!));
  const mean = (pick: (wish: { x: number; y: number }) => number) =>
    wishes.length ? wishes.reduce((sum, wish) => sum + pick(wish), 0) / wishes.length : 0;
  const [x, y] = [mean((wish) => wish.x), mean((wish) => wish.y)];
  const taken: Rect[] = [...graph.boxes.values()]
    .filter(({ id }) => places.has(id))
    .map((other) => ({ ...places.get(other.id)!, ...sizeOf(other) }));
  const isFree = (at: { x: number; y: number }) =>
    taken.every(
      (other) =>
        at.x + size.w + GAP_Y <= other.x ||
        other.x + other.w + GAP_Y <= at.x ||
        at.y + size.h + GAP_Y <= other.y ||
        other.y + other.h + GAP_Y <= at.y,
    );
  for (let step = 0; step < 400; step += 1) {
    // Up and down first, in growing steps, then a column further.
    const row = step % 40;
    const offset = (row % 2 === 0 ? 1 : -1) * Math.ceil(row / 2) * (HEAD + GAP_Y);
    const at = { x: x + Math.floor(step / 40) * (WIDTH + GAP_X), y: y + offset };
    if (isFree(at)) {
      places.set(box.id, at);
      return;
    }
  }
  places.set(box.id, { x, y: Math.max(0, ...taken.map((rect) => rect.y + rect.h)) + GAP_Y });
}

// Draws a scene on a canvas. What stands still is drawn once into a picture of its own and kept until something changes;
// each frame copies that and draws the moving traffic on it.

import { colour } from "../ui/theme.ts";
import { HEAD, SLOT, type Rect } from "./layout.ts";
import type { BoxKind } from "./model.ts";
import { pointOn, type Point, type Scene, type SceneBox, type SceneEdge, type Target } from "./scene.ts";

export interface View {
  scale: number;
  /** Where the graph's origin is on the canvas, in CSS pixels. */
  x: number;
  y: number;
}

/** Samples of an edge, along which its traffic moves. */
const SAMPLES = 32;
/** With more edges in sight, those that are well step back. */
const CROWD = 150;
const FONT = "system-ui, sans-serif";

interface Lane {
  points: Float32Array;
  /** Where nothing moves, on the canvas: its label, which is to be read, and boxes that it goes behind. */
  covered: Rect[];
  count: number;
  speed: number;
  failing: number;
  colour: string;
}

interface Palette {
  [name: string]: string;
}

export class Painter {
  private readonly still = document.createElement("canvas");
  private readonly context: CanvasRenderingContext2D;
  private lanes: Lane[] = [];
  private scale = 1;
  private isCrowded = false;
  private palette: Palette = {};
  private readonly canvas: HTMLCanvasElement;

  constructor(canvas: HTMLCanvasElement) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d")!;
    this.readColours();
  }

  readColours(): void {
    const names = ["bg", "card", "line", "text", "quiet", "accent", "good", "poor", "bad", "idle", "group"];
    this.palette = Object.fromEntries(names.map((name) => [name, colour(name)]));
  }

  private of(name: string): string {
    return this.palette[name] ?? "gray";
  }

  /** Draws what stands still. */
  compose(scene: Scene, view: View, chosen: Target | null): void {
    const ratio = devicePixelRatio || 1;
    this.scale = view.scale;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    for (const canvas of [this.canvas, this.still]) {
      const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
      if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    }
    const pen = this.still.getContext("2d")!;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.fillStyle = this.of("bg");
    pen.fillRect(0, 0, this.still.width, this.still.height);
    pen.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
    const seen: Rect = { x: -view.x / view.scale, y: -view.y / view.scale, w: width / view.scale, h: height / view.scale };
    for (const group of scene.groups) this.group(pen, group, view.scale);
    const near = chosen ? neighbours(scene, chosen) : null;
    const edges = scene.edges.filter(({ curve }) => overlaps(hull(curve), seen));
    this.isCrowded = edges.length > CROWD;
    for (const edge of edges) this.edge(pen, edge, near !== null && !near.has(edge.edge.id), view.scale);
    for (const box of scene.boxes.values()) {
      if (overlaps(box, seen)) this.box(pen, box, view.scale, chosen?.kind === "box" && chosen.id === box.box.id, near);
    }
    // Small writing cannot be read, and it takes the longest to draw.
    const readable = edges.filter(
      ({ edge, label, faded }) => label && !faded && (view.scale > 0.55 || near?.has(edge.id)) && (!near || near.has(edge.id)),
    );
    const boxes = [...scene.boxes.values()].filter((box) => overlaps(box, seen));
    const written = this.labels(pen, readable, boxes);
    const onCanvas = ({ x, y, w, h }: Rect): Rect => ({
      x: (x * view.scale + view.x) * ratio,
      y: (y * view.scale + view.y) * ratio,
      w: w * view.scale * ratio,
      h: h * view.scale * ratio,
    });
    this.lanes = edges
      .filter(({ edge, faded }) => !faded && (!near || near.has(edge.id)))
      .flatMap((edge) => {
        const label = written.get(edge);
        const around = hull(edge.curve);
        const { from, to } = edge.edge;
        // Edges go behind boxes, and so does what moves along them.
        const above = boxes.filter((box) => box.box.id !== from && box.box.id !== to && overlaps(box, around));
        return this.lane(edge, view, ratio, [...above, ...(label ? [label] : [])].map(onCanvas));
      });
  }

  /** Draws one frame. `seconds` is the time that moves traffic; null leaves it out. */
  frame(seconds: number | null): void {
    const pen = this.context;
    // The page is being left, or has no room for it.
    if (this.still.width === 0 || this.still.height === 0) return;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.drawImage(this.still, 0, 0);
    if (seconds === null) return;
    const size = Math.max(2, Math.round((devicePixelRatio || 1) * 4 * Math.min(1, this.scale)));
    let ink = "";
    for (const { points, covered, count, speed, failing, colour } of this.lanes) {
      for (let i = 0; i < count; i += 1) {
        const along = ((seconds * speed + i / count) % 1) * (SAMPLES - 1);
        const at = Math.floor(along);
        const part = along - at;
        const x = points[2 * at]! + (points[2 * at + 2]! - points[2 * at]!) * part;
        const y = points[2 * at + 1]! + (points[2 * at + 3]! - points[2 * at + 1]!) * part;
        if (covered.some((rect) => x > rect.x && x < rect.x + rect.w && y > rect.y && y < rect.y + rect.h)) continue;
        const wanted = i < failing ? this.of("bad") : colour;
        if (wanted !== ink) pen.fillStyle = ink = wanted;
        const side = i < failing ? size + 2 : size;
        pen.fillRect(x - side / 2, y - side / 2, side, side);
      }
    }
  }

  private lane({ edge, curve, health }: SceneEdge, view: View, ratio: number, covered: Rect[]): Lane[] {
    const { requests, opened, failures, refused, open } = edge.rates;
    const amount = requests + opened;
    if (amount <= 0 && open === 0) return [];
    const points = new Float32Array(2 * SAMPLES + 2);
    for (let i = 0; i <= SAMPLES; i += 1) {
      const { x, y } = pointOn(curve, Math.min(1, i / (SAMPLES - 1)));
      points[2 * i] = (x * view.scale + view.x) * ratio;
      points[2 * i + 1] = (y * view.scale + view.y) * ratio;
    }
    const count = Math.min(8, 1 + Math.round(Math.log2(1 + amount)));
    const ill = amount > 0 ? (failures + refused) / amount : 0;
    return [
      {
        points,
        covered,
        count,
        speed: 0.25 + 0.06 * Math.min(6, Math.log2(1 + amount)),
        failing: ill > 0 ? Math.max(1, Math.round(ill * count)) : 0,
        colour: this.of(health === "idle" ? "idle" : health === "good" ? "accent" : health),
      },
    ];
  }

  private group(pen: CanvasRenderingContext2D, { x, y, w, h, name }: Rect & { name: string }, scale: number): void {
    pen.beginPath();
    pen.roundRect(x, y, w, h, 10);
    pen.fillStyle = this.of("group");
    pen.fill();
    pen.strokeStyle = this.of("line");
    pen.lineWidth = 1;
    pen.stroke();
    pen.fillStyle = this.of("quiet");
    // It can be read from afar too: then it stands above.
    const isFar = scale < 0.7;
    pen.font = `600 ${isFar ? 11 / scale : 12}px ${FONT}`;
    pen.textAlign = "left";
    pen.textBaseline = isFar ? "bottom" : "middle";
    pen.fillText(name, x + 12, isFar ? y - 2 / scale : y + 15);
  }

  private edge(pen: CanvasRenderingContext2D, { edge, curve, health, faded }: SceneEdge, far: boolean, scale: number): void {
    const [a, b, c, d] = curve;
    const full = this.isCrowded && health !== "bad" && health !== "poor" ? 0.45 : 1;
    pen.globalAlpha = faded ? 0.15 : far ? 0.25 : full;
    pen.strokeStyle = this.of(health);
    const { requests, opened } = edge.rates;
    pen.lineWidth = Math.max(1 / scale, 1 + Math.min(3, Math.log10(1 + requests + opened)));
    if (edge.circuit || health === "idle") pen.setLineDash([6, 5]);
    pen.beginPath();
    pen.moveTo(a.x, a.y);
    pen.bezierCurveTo(b.x, b.y, c.x, c.y, d.x, d.y);
    pen.stroke();
    if (edge.circuit || health === "idle") pen.setLineDash([]);
    const back = Math.sign(c.x - d.x) || -1;
    pen.fillStyle = this.of(health);
    pen.beginPath();
    pen.moveTo(d.x, d.y);
    pen.lineTo(d.x + back * 9, d.y - 4.5);
    pen.lineTo(d.x + back * 9, d.y + 4.5);
    pen.fill();
    pen.globalAlpha = 1;
  }

  /** Gives where each label stands. */
  private labels(pen: CanvasRenderingContext2D, edges: SceneEdge[], boxes: Rect[]): Map<SceneEdge, Rect> {
    pen.font = `11px ${FONT}`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const taken = new Map<SceneEdge, Rect>();
    for (const sceneEdge of edges) {
      const { curve, label, edge } = sceneEdge;
      const lock = edge.mtls === true ? 14 : 0;
      const w = pen.measureText(label).width + 10 + lock;
      // Where it does not lie on another one, if there is such a place.
      const rects = [0.62, 0.72, 0.52, 0.42, 0.8, 0.32, 0.22, 0.88, 0.12].map((t) => around(pointOn(curve, t), w));
      // Else beside its edge, as near as can be.
      for (const off of [19, -19, 38, -38]) rects.push(...rects.slice(0, 6).map((rect) => ({ ...rect, y: rect.y + off })));
      const isFree = (rect: Rect) => ![...taken.values(), ...boxes].some((other) => overlaps(rect, other));
      const rect = rects.find(isFree) ?? rects[0]!;
      taken.set(sceneEdge, rect);
      pen.fillStyle = this.of("card");
      pen.globalAlpha = 0.92;
      pen.beginPath();
      pen.roundRect(rect.x, rect.y, rect.w, rect.h, 5);
      pen.fill();
      pen.globalAlpha = 1;
      pen.fillStyle = this.of("text");
      pen.fillText(label, rect.x + lock + (rect.w - lock) / 2, rect.y + rect.h / 2 + 0.5);
      if (lock) this.lock(pen, rect.x + 6, rect.y + 4);
    }
    return taken;
  }

  private lock(pen: CanvasRenderingContext2D, x: number, y: number): void {
    pen.strokeStyle = pen.fillStyle = this.of("quiet");
    pen.lineWidth = 1.4;
    pen.beginPath();
    pen.arc(x + 4, y + 4, 2.4, Math.PI, 0);
    pen.stroke();
    pen.fillRect(x, y + 4, 8, 6);
  }

  private box(
    pen: CanvasRenderingContext2D,
    { x, y, w, h, box, faded }: SceneBox,
    scale: number,
    isChosen: boolean,
    near: Set<string> | null,
  ): void {
    pen.globalAlpha = faded ? 0.25 : near && !near.has(box.id) ? 0.45 : 1;
    outline(pen, box.kind, { x, y, w, h });
    pen.fillStyle = this.of("card");
    pen.fill();
    const tone = toneOf(box.inbound, box.circuit);
    pen.strokeStyle = isChosen ? this.of("accent") : tone === "good" || tone === "idle" ? this.of("line") : this.of(tone);
    pen.lineWidth = isChosen ? 3 : tone === "good" || tone === "idle" ? 1.2 : 2;
    if (box.kind === "outside" || box.kind === "unknown") pen.setLineDash([4, 3]);
    pen.stroke();
    pen.setLineDash([]);
    if (scale > 0.28) {
      pen.textBaseline = "middle";
      pen.textAlign = "left";
      pen.fillStyle = this.of("text");
      pen.font = `600 13px ${FONT}`;
      const sign = { service: "", workload: "", gateway: "⇥ ", outside: "☁ ", unknown: "" }[box.kind];
      const inset = box.kind === "service" || box.kind === "workload" ? 10 : 16;
      pen.fillText(clip(pen, sign + box.name, w - 24 - inset), x + inset, y + HEAD / 2);
      this.dot(pen, x + w - 14, y + HEAD / 2, tone);
      pen.font = `12px ${FONT}`;
      box.slots.forEach((slot, i) => {
        const middle = y + HEAD + i * SLOT + SLOT / 2;
        pen.fillStyle = this.of("line");
        pen.fillRect(x + 1, y + HEAD + i * SLOT, w - 2, 1);
        pen.fillStyle = this.of("quiet");
        pen.fillText(clip(pen, slot.version || slot.name, w - 40), x + 16, middle);
        this.dot(pen, x + w - 14, middle, toneOf(slot.inbound, slot.circuit));
      });
    }
    pen.globalAlpha = 1;
  }

  /** Told by shape too: a disc, a triangle, a square, a ring. */
  private dot(pen: CanvasRenderingContext2D, x: number, y: number, tone: string): void {
    pen.fillStyle = pen.strokeStyle = this.of(tone);
    pen.beginPath();
    if (tone === "bad") pen.rect(x - 4, y - 4, 8, 8);
    else if (tone === "poor") {
      pen.moveTo(x, y - 5);
      pen.lineTo(x + 5, y + 4);
      pen.lineTo(x - 5, y + 4);
    } else pen.arc(x, y, 4, 0, 2 * Math.PI);
    if (tone === "idle") {
      pen.lineWidth = 1.2;
      pen.stroke();
    } else pen.fill();
  }
}

/** Kinds of places are told apart by their shapes: gateways are pointed, what is outside is round, the rest has corners. */
function outline(pen: CanvasRenderingContext2D, kind: BoxKind, { x, y, w, h }: Rect): void {
  pen.beginPath();
  if (kind !== "gateway") return pen.roundRect(x, y, w, h, { service: 7, workload: 1, outside: h / 2, unknown: h / 2 }[kind]);
  const [middle, tip] = [y + h / 2, 12];
  pen.moveTo(x, middle);
  pen.lineTo(x + tip, y);
  pen.lineTo(x + w - tip, y);
  pen.lineTo(x + w, middle);
  pen.lineTo(x + w - tip, y + h);
  pen.lineTo(x + tip, y + h);
  pen.closePath();
}

function toneOf(rates: { requests: number; failures: number; opened: number; refused: number; open: number }, circuit: string | null) {
  if (circuit === "tripped") return "bad";
  const all = rates.requests + rates.opened;
  if (all <= 0) return circuit ? "poor" : rates.open > 0 ? "good" : "idle";
  const ill = (rates.failures + rates.refused) / all;
  return ill > 0.05 ? "bad" : ill > 0.001 || circuit ? "poor" : "good";
}

/** What belongs to what is chosen: boxes and edges by id. */
function neighbours(scene: Scene, chosen: Target): Set<string> {
  const near = new Set([chosen.id]);
  for (const { edge } of scene.edges) {
    if (chosen.kind === "edge" ? edge.id === chosen.id : edge.from === chosen.id || edge.to === chosen.id) {
      near.add(edge.id).add(edge.from).add(edge.to);
    }
  }
  return near;
}

function around({ x, y }: Point, w: number): Rect {
  return { x: x - w / 2, y: y - 9, w, h: 18 };
}

function hull(curve: Point[]): Rect {
  const [xs, ys] = [curve.map(({ x }) => x), curve.map(({ y }) => y)];
  const [x, y] = [Math.min(...xs), Math.min(...ys)];
  return { x, y, w: Math.max(...xs) - x, h: Math.max(...ys) - y };
}

function overlaps(a: Rect, b: Rect): boolean {
  return a.x <= b.x + b.w && b.x <= a.x + a.w && a.y <= b.y + b.h && b.y <= a.y + a.h;
}

const clipped = new Map<string, string>();

/** Text that fits, with … where it is cut. Measuring is slow, so answers are kept. */
function clip(pen: CanvasRenderingContext2D, text: string, width: number): string {
  const key = `${pen.font}|${width}|${text}`;
  const known = clipped.get(key);
  if (known !== undefined) return known;
  let short = text;
  while (short.length > 1 && pen.measureText(short === text ? text : `${short}…`).width > width) short = short.slice(0, -1);
  const result = short === text ? text : `${short}…`;
  if (clipped.size > 5_000) clipped.clear();
  clipped.set(key, result);
  return result;
}

// The graph on a canvas: moved by dragging, by wheel and by keys. Screen readers get its table.

import { useEffect, useRef } from "preact/hooks";
import { plural } from "../lib/format.ts";
import { onRepaint } from "../ui/theme.ts";
import { Painter, type View } from "./draw.ts";
import type { Places } from "./layout.ts";
import { hit, type Point, type Scene, type Target } from "./scene.ts";

interface Props {
  scene: Scene;
  places: Places;
  animate: boolean;
  chosen: Target | null;
  choose: (target: Target | null) => void;
  /** A box was moved. */
  moved: () => void;
  /** When it changes, all is brought into sight. */
  fit: string;
}

const SMALLEST = 0.08;
const LARGEST = 3;
/** Around the graph, where there is room. */
const MARGIN = 28;

declare global {
  interface Window {
    /** How many frames were drawn, and what stands on edges: for tests. */
    weftGraph?: { frames: number; labels: () => string[]; boxes: () => { id: string; x: number; y: number }[] };
  }
}

export function Canvas(props: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const live = useRef(props);
  live.current = props;
  const view = useRef<View | null>(null);
  const dirty = useRef(true);
  dirty.current = true;

  const fit = () => {
    const at = canvas.current;
    if (!at || at.clientWidth === 0) return;
    const { bounds } = live.current.scene;
    const margin = at.clientWidth < 500 ? MARGIN / 3 : MARGIN;
    const room = { w: at.clientWidth - 2 * margin, h: at.clientHeight - 2 * margin };
    const scale = Math.max(SMALLEST, Math.min(1.4, room.w / bounds.w, room.h / bounds.h));
    view.current = {
      scale,
      x: margin + (room.w - bounds.w * scale) / 2 - bounds.x * scale,
      y: margin + (room.h - bounds.h * scale) / 2 - bounds.y * scale,
    };
    dirty.current = true;
  };
  const zoom = (factor: number, at?: Point) => {
    const now = view.current;
    if (!now || !canvas.current) return;
    const middle = at ?? { x: canvas.current.clientWidth / 2, y: canvas.current.clientHeight / 2 };
    const scale = Math.max(SMALLEST, Math.min(LARGEST, now.scale * factor));
    const ratio = scale / now.scale;
    view.current = { scale, x: middle.x - (middle.x - now.x) * ratio, y: middle.y - (middle.y - now.y) * ratio };
    dirty.current = true;
  };
  const pan = (x: number, y: number) => {
    if (!view.current) return;
    view.current = { ...view.current, x: view.current.x + x, y: view.current.y + y };
    dirty.current = true;
  };

  useEffect(() => {
    const at = canvas.current!;
    const painter = new Painter(at);
    const calm = matchMedia("(prefers-reduced-motion: reduce)");
    const counted = {
      frames: 0,
      labels: () => live.current.scene.edges.map(({ edge, label }) => `${edge.fromName} > ${edge.toName}: ${label}`),
      boxes: () => [...live.current.scene.boxes.values()].map(({ box: { id }, x, y }) => ({ id, x, y })),
    };
    window.weftGraph = counted;
    let handle = 0;
    let drawnStill = false;
    const frame = (millis: number) => {
      handle = requestAnimationFrame(frame);
      if (!view.current) fit();
      if (!view.current) return;
      const moving = live.current.animate && !calm.matches;
      if (dirty.current) painter.compose(live.current.scene, view.current, live.current.chosen);
      // Nothing moves: nothing is drawn.
      else if (!moving && drawnStill) return;
      dirty.current = false;
      painter.frame(moving ? millis / 1_000 : null);
      drawnStill = !moving;
      counted.frames += 1;
    };
    handle = requestAnimationFrame(frame);
    const resized = new ResizeObserver(fit);
    resized.observe(at);
    const endRepaint = onRepaint(() => {
      painter.readColours();
      dirty.current = true;
    });
    const wheel = (event: WheelEvent) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * 0.0015), { x: event.offsetX, y: event.offsetY });
    };
    at.addEventListener("wheel", wheel, { passive: false });
    return () => {
      cancelAnimationFrame(handle);
      resized.disconnect();
      endRepaint();
      at.removeEventListener("wheel", wheel);
      window.weftGraph = undefined;
    };
  }, []);

  // What is new may be out of sight at first: then all is shown again, until somebody has moved the picture.
  const touched = useRef(false);
  useEffect(() => {
    touched.current = false;
    fit();
  }, [props.fit]);
  useEffect(() => {
    if (!touched.current) fit();
  }, [props.scene.boxes.size]);

  const grip = useRef<{ x: number; y: number; box: string | null; moved: boolean } | null>(null);
  const toGraph = ({ x, y }: Point): Point => {
    const { scale, x: left, y: top } = view.current ?? { scale: 1, x: 0, y: 0 };
    return { x: (x - left) / scale, y: (y - top) / scale };
  };
  const under = (event: PointerEvent) =>
    hit(live.current.scene, toGraph({ x: event.offsetX, y: event.offsetY }), 9 / (view.current?.scale ?? 1));

  // Two fingers zoom.
  const fingers = useRef(new Map<number, Point>());
  const spread = () => {
    const [one, other] = [...fingers.current.values()];
    if (!one || !other) return null;
    return { width: Math.hypot(one.x - other.x, one.y - other.y), middle: { x: (one.x + other.x) / 2, y: (one.y + other.y) / 2 } };
  };

  const down = (event: PointerEvent) => {
    fingers.current.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    const target = under(event);
    grip.current = { x: event.offsetX, y: event.offsetY, box: target?.kind === "box" ? target.id : null, moved: false };
    canvas.current!.setPointerCapture(event.pointerId);
  };
  const move = (event: PointerEvent) => {
    const before = spread();
    if (fingers.current.has(event.pointerId)) fingers.current.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    const now = spread();
    if (before && now) {
      touched.current = true;
      if (grip.current) grip.current.moved = true;
      zoom(now.width / Math.max(1, before.width), now.middle);
      return;
    }
    const held = grip.current;
    if (!held) {
      canvas.current!.style.cursor = under(event) ? "pointer" : "grab";
      return;
    }
    const [dx, dy] = [event.offsetX - held.x, event.offsetY - held.y];
    if (!held.moved && Math.hypot(dx, dy) < 4) return;
    touched.current = true;
    grip.current = { ...held, x: event.offsetX, y: event.offsetY, moved: true };
    const place = held.box ? props.places.get(held.box) : undefined;
    if (held.box && place && view.current) {
      props.places.set(held.box, { x: place.x + dx / view.current.scale, y: place.y + dy / view.current.scale });
      props.moved();
    } else pan(dx, dy);
  };
  const up = (event: PointerEvent) => {
    fingers.current.delete(event.pointerId);
    if (grip.current && !grip.current.moved) props.choose(under(event));
    grip.current = null;
  };
  const key = (event: KeyboardEvent) => {
    const step = 60;
    const keys: Record<string, () => void> = {
      ArrowLeft: () => pan(step, 0),
      ArrowRight: () => pan(-step, 0),
      ArrowUp: () => pan(0, step),
      ArrowDown: () => pan(0, -step),
      "+": () => zoom(1.25),
      "=": () => zoom(1.25),
      "-": () => zoom(0.8),
      "0": fit,
      Escape: () => props.choose(null),
    };
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    touched.current = true;
    act();
  };

  const { boxes, edges } = props.scene;
  return (
    <div class="canvas">
      <canvas
        ref={canvas}
        tabIndex={0}
        role="img"
        aria-label={`Graph of ${plural(boxes.size, "place")} and ${plural(edges.length, "edge")}. “As a table” has the same in words. Arrow keys move it, plus and minus zoom, 0 shows all.`}
        onPointerDown={down}
        onPointerMove={move}
        onPointerUp={up}
        onPointerCancel={() => {
          fingers.current.clear();
          grip.current = null;
        }}
        onKeyDown={key}
      />
      <div class="zoom" role="group" aria-label="Zoom">
        <button type="button" aria-label="Larger" onClick={() => zoom(1.25)}>
          +
        </button>
        <button type="button" aria-label="Smaller" onClick={() => zoom(0.8)}>
          −
        </button>
        <button type="button" aria-label="Show all" onClick={fit}>
          ⤢
        </button>
      </div>
    </div>
  );
}

// Traffic of the last half hour: what this page has seen itself, each ten seconds, since it was opened.

import { Value } from "../lib/value.ts";
import { feeds } from "./feeds.ts";
import type { Row } from "./types.ts";

export interface Frame {
  /** When its window ended, milliseconds since 1970. */
  at: number;
  rows: Row[];
}

const STEP = 10_000;
const KEPT = 180;

/** The oldest first. */
export const frames = new Value<Frame[]>([]);

/** Keeps what the traffic's feed tells; called once. */
export function record(): void {
  feeds.traffic.use();
  let last = 0;
  feeds.traffic.told.follow(() => {
    const { data, at, trouble } = feeds.traffic.told.get();
    if (!data || trouble || at - last < STEP) return;
    last = at;
    frames.set([...frames.get(), { at, rows: data.rows }].slice(-KEPT));
  });
}

// Traffic of the last half hour: what the mesh remembers of it, and from then on what this page sees itself, each ten
// seconds.

import { Value } from "../lib/value.ts";
import { add, BOUNDS, none } from "../lib/rates.ts";
import { get } from "./client.ts";
import { feeds } from "./feeds.ts";
import type { Rates, Row, Track, TrafficHistory } from "./types.ts";

export interface Frame {
  /** When its window ended, milliseconds since 1970. */
  at: number;
  rows: Row[];
}

const STEP = 10_000;
const KEPT = 180;

/** The oldest first. */
export const frames = new Value<Frame[]>([]);

/** What a track says of one of its points, as rates; null if nothing went over it then. */
function rowAt({ series, ...call }: Track, point: number, seconds: number): Row | null {
  const rates: Rates = none();
  let isQuiet = true;
  for (const [name, counts] of Object.entries(series.counts)) {
    const count = counts[point] ?? 0;
    if (count === 0 || !(name in rates || name === "mutual_tls" || name === "in_the_clear")) continue;
    isQuiet = false;
    rates[name as Exclude<keyof Rates, "durations">] = name === "open" ? count : count / seconds;
  }
  if (isQuiet) return null;
  const durations = Object.entries(series.durations ?? {});
  if (durations.length > 0) {
    rates.durations = BOUNDS.map(() => 0);
    for (const [bucket, counts] of durations) rates.durations[Number(bucket)] = (counts[point] ?? 0) / seconds;
  }
  return { ...call, ...rates };
}

/** One frame for each point that some node knows of. */
export function framesOf(told: TrafficHistory): Frame[] {
  const seconds = told.step_ms / 1_000;
  const found: Frame[] = [];
  for (let point = 0; point < told.points; point += 1) {
    const begin = told.from_ms + point * told.step_ms;
    if (told.known_from_ms === null || begin < told.known_from_ms) continue;
    const rows = told.tracks.map((track) => rowAt(track, point, seconds)).filter((row) => row !== null);
    found.push({ at: begin + told.step_ms, rows });
  }
  return found;
}

/** The mean of several frames; what is open, and circuits, as at their end. */
export function meanOf(frames: Frame[]): Row[] {
  const sums = new Map<string, Row>();
  const key = (row: Row) =>
    [
      row.source_namespace, row.source_workload, row.source_version, row.service_namespace, row.service,
      row.destination_namespace, row.destination_workload, row.destination_version, row.protocol, row.reporter,
    ].join("|");
  for (const { rows } of frames) {
    for (const row of rows) {
      const { circuit: _, ...call } = row;
      const sum = sums.get(key(row)) ?? { ...call, ...none(), mutual_tls: 0, in_the_clear: 0 };
      add(sum, row);
      sums.set(key(row), sum);
    }
  }
  const last = new Map((frames.at(-1)?.rows ?? []).map((row) => [key(row), row]));
  return [...sums].map(([of, sum]) => {
    const now = last.get(of);
    const mean: Row = { ...sum, open: now?.open ?? 0, ...(now?.circuit && { circuit: now.circuit }) };
    for (const name of [...Object.keys(none()), "mutual_tls", "in_the_clear"] as (keyof Rates)[]) {
      if (name !== "open" && name !== "durations") mean[name] = (sum[name] ?? 0) / frames.length;
    }
    mean.durations = (sum.durations ?? []).map((count) => count / frames.length);
    return mean;
  });
}

/** Keeps what the traffic's feed tells; called once. */
export function record(): void {
  feeds.traffic.use();
  let last = 0;
  feeds.traffic.told.follow(() => {
    const { data, at, trouble } = feeds.traffic.told.get();
    if (!data || trouble || at - last < STEP) return;
    // It has just been opened, or was not looked at for a while: the mesh knows what was meanwhile, but for nodes of an
    // older version, which tell no bounds.
    if (at - last > 3 * STEP && data.bounds_ms?.length) void remember(last);
    last = at;
    keep([...frames.get(), { at, rows: data.rows }]);
  });
}

/** Asks for what was after that time. */
async function remember(since: number): Promise<void> {
  try {
    const told = await get<TrafficHistory>("/api/v1/traffic/history?since=30m&step=10s");
    const seen = frames.get();
    const before = seen.filter(({ at }) => at <= since);
    const after = seen.filter(({ at }) => at > since);
    const first = after[0]?.at ?? Infinity;
    keep([...before, ...framesOf(told).filter(({ at }) => at > since && at < first), ...after]);
  } catch {
    // There is what the page sees itself.
  }
}

function keep(all: Frame[]): void {
  frames.set(all.slice(-KEPT));
}

// What charts show: frames of traffic, summed up.

import type { Frame } from "../api/history.ts";
import type { Row } from "../api/types.ts";
import type { Line } from "../ui/chart.tsx";
import { bytesPerSecond, quantile, sumOf } from "./rates.ts";

export interface Series {
  times: number[];
  requests: Line[];
  latency: Line[];
  bytes: Line[];
}

/** Requests with failures, latencies, bytes of the rows that `of` picks. */
export function seriesOf(frames: Frame[], of: (row: Row) => boolean): Series {
  const sums = frames.map(({ rows }) => sumOf(rows.filter(of)));
  const line = (name: string, colour: string, value: (sum: (typeof sums)[number]) => number | null): Line => ({
    name,
    colour,
    values: sums.map(value),
  });
  return {
    times: frames.map(({ at }) => at),
    requests: [
      line("all", "accent", (sum) => sum.requests + sum.opened),
      line("failed", "bad", (sum) => sum.failures + sum.refused),
    ],
    latency: [
      line("p50", "good", (sum) => quantile(sum, 0.5)),
      line("p95", "poor", (sum) => quantile(sum, 0.95)),
      line("p99", "bad", (sum) => quantile(sum, 0.99)),
    ],
    bytes: [line("bytes", "accent", bytesPerSecond)],
  };
}

// The three charts of a service, a workload or a node.

import { useMemo } from "preact/hooks";
import { frames } from "../api/history.ts";
import type { Row } from "../api/types.ts";
import { bytes, milliseconds, rate } from "../lib/format.ts";
import { seriesOf } from "../lib/series.ts";
import { useValue } from "../lib/value.ts";
import { Chart } from "./chart.tsx";

export function Charts({ of, about }: { of: (row: Row) => boolean; about: string }) {
  const past = useValue(frames);
  const { times, requests, latency, bytes: sent } = useMemo(() => seriesOf(past, of), [past, about]);
  if (times.length === 0) return <p class="quiet">Charts come with the first ten seconds.</p>;
  return (
    <div class="charts">
      <Chart title="Requests per second" times={times} lines={requests} unit={rate} />
      <Chart title="Latency" times={times} lines={latency} unit={milliseconds} />
      <Chart title="Bytes per second" times={times} lines={sent} unit={bytes} />
    </div>
  );
}

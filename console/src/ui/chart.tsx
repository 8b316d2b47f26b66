// Charts over time by uPlot, and small ones without axes.

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { colour, onRepaint } from "./theme.ts";

export interface Line {
  name: string;
  /** Of the theme, such as `accent`. */
  colour: string;
  values: (number | null)[];
}

interface Props {
  title: string;
  /** Milliseconds since 1970. */
  times: number[];
  lines: Line[];
  unit: (value: number) => string;
}

/** What is seen at least, in seconds: a chart that has just begun is no point in the middle. */
const SHORTEST = 120;

export function Chart({ title, times, lines, unit }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const data = (): uPlot.AlignedData => [times.map((at) => at / 1_000), ...lines.map(({ values }) => values)];
  const shape = lines.map(({ name }) => name).join();

  useEffect(() => {
    const draw = () => {
      // Cleaning up comes a little after the page is gone.
      if (!place.current) return;
      chart.current?.destroy();
      const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false } };
      chart.current = new uPlot(
        {
          width: place.current.clientWidth || 300,
          height: 150,
          legend: { live: true },
          cursor: { y: false },
          scales: { x: { range: (_, min, max) => [Math.min(min, max - SHORTEST), max] }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
          axes: [
            { ...axis, values: "{HH}:{mm}:{ss}", space: 80, size: 30 },
            { ...axis, values: (_, ticks) => ticks.map((tick) => unit(tick)), size: 62 },
          ],
          series: [
            { value: (_, at) => (at ? new Date(at * 1_000).toLocaleTimeString([], { hour12: false }) : "") },
            ...lines.map(({ name, colour: of }) => ({
              label: name,
              stroke: colour(of),
              width: 1.5,
              points: { show: times.length < 3 },
              value: (_: uPlot, value: number | null) => (value === null ? "–" : unit(value)),
            })),
          ],
        },
        data(),
        place.current,
      );
    };
    draw();
    const end = onRepaint(draw);
    const resize = new ResizeObserver(() => {
      const width = place.current?.clientWidth ?? 0;
      if (width > 0) chart.current?.setSize({ width, height: 150 });
    });
    resize.observe(place.current!);
    return () => {
      end();
      resize.disconnect();
      chart.current?.destroy();
      chart.current = null;
    };
  }, [shape]);

  useEffect(() => chart.current?.setData(data()), [times, lines]);

  const latest = lines.map(({ name, values }) => {
    const value = values.at(-1) ?? null;
    return `${name} ${value === null ? "–" : unit(value)}`;
  });
  return (
    <figure class="chart" role="group" aria-label={`${title}: now ${latest.join(", ")}`}>
      <figcaption>{title}</figcaption>
      <div ref={place} />
    </figure>
  );
}

/** A line without axes; what it says is said in words beside it. */
export function Spark({ values, label }: { values: (number | null)[]; label: string }) {
  const top = Math.max(...values.map((value) => value ?? 0), 1e-9);
  const step = values.length > 1 ? 100 / (values.length - 1) : 0;
  const points = values.map((value, i) => `${(i * step).toFixed(1)},${(22 - (20 * (value ?? 0)) / top).toFixed(1)}`);
  return (
    <svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" role="img" aria-label={label}>
      <polyline points={points.join(" ")} vector-effect="non-scaling-stroke" />
    </svg>
  );
}

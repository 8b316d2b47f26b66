// Traces from their spans.

import type { Span } from "../api/types.ts";

export interface Trace {
  id: string;
  spans: Span[];
  start: number;
  /** Microseconds. */
  length: number;
  first: Span;
  error: boolean;
  services: string[];
}

/** The latest first. */
export function tracesOf(spans: Span[]): Trace[] {
  const groups = new Map<string, Span[]>();
  for (const span of spans) groups.set(span.trace, [...(groups.get(span.trace) ?? []), span]);
  const traces = [...groups].map(([id, spans]): Trace => {
    const first = spans.reduce((first, span) => (span.start_us < first.start_us ? span : first));
    const end = Math.max(...spans.map((span) => span.start_us + span.duration_us));
    return {
      id,
      spans,
      start: first.start_us,
      length: end - first.start_us,
      first,
      error: spans.some((span) => span.error),
      services: [...new Set(spans.flatMap((span) => [span.service, span.peer]).filter((name) => name !== null))].sort(),
    };
  });
  return traces.sort((a, b) => b.start - a.start);
}

/** Spans under their parents, each by its time, with their depth. One whose parent is not known begins a tree. */
export function treeOf(spans: Span[]): { span: Span; depth: number }[] {
  const known = new Set(spans.map(({ span }) => span));
  const byTime = (a: Span, b: Span) => a.start_us - b.start_us;
  const below = new Map<string, Span[]>();
  const roots: Span[] = [];
  for (const span of spans) {
    if (span.parent === null || span.parent === span.span || !known.has(span.parent)) roots.push(span);
    else below.set(span.parent, [...(below.get(span.parent) ?? []), span]);
  }
  const rows: { span: Span; depth: number }[] = [];
  const walk = (span: Span, depth: number) => {
    rows.push({ span, depth });
    const children = below.get(span.span) ?? [];
    // Taken out: a circle of parents ends.
    below.delete(span.span);
    for (const child of children.sort(byTime)) walk(child, depth + 1);
  };
  for (const root of roots.sort(byTime)) walk(root, 0);
  return rows;
}

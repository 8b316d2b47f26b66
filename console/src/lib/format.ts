// Numbers and times as people read them. null is shown as a dash.

export const DASH = "–";

export function rate(perSecond: number | null): string {
  if (perSecond === null) return DASH;
  if (perSecond === 0) return "0";
  if (perSecond < 0.1) return "<0.1";
  if (perSecond < 100) return perSecond.toFixed(1);
  return perSecond < 10_000 ? Math.round(perSecond).toString() : `${(perSecond / 1_000).toFixed(1)}k`;
}

/** A share of 0 to 1. Never rounded up to 100 %: one failure in a million is one. */
export function percent(share: number | null): string {
  if (share === null) return DASH;
  if (share >= 1) return "100 %";
  const text = (Math.floor(share * 1_000) / 10).toFixed(1);
  return share >= 0.999 ? `${(Math.floor(share * 100_000) / 1_000).toFixed(3)} %` : `${text} %`;
}

/** A share of traffic, where rounding does no harm. */
export function share(part: number): string {
  return `${Math.round(part * 100)} %`;
}

export function milliseconds(ms: number | null): string {
  if (ms === null) return DASH;
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(2)} s`;
}

export function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1_024 && unit < units.length - 1) {
    count /= 1_024;
    unit += 1;
  }
  return `${count >= 100 || unit === 0 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
}

export function duration(seconds: number): string {
  if (seconds < 0) return `ended ${duration(-seconds)} ago`;
  const parts: [number, string][] = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];
  for (const [size, name] of parts) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${name}`;
  }
  return "0 s";
}

export function ago(millis: number, now = Date.now()): string {
  const seconds = Math.max(0, (now - millis) / 1_000);
  return seconds < 1 ? "now" : `${duration(seconds)} ago`;
}

export function clock(millis: number): string {
  return new Date(millis).toLocaleTimeString([], { hour12: false });
}

export function dateTime(millis: number): string {
  return new Date(millis).toLocaleString([], { hour12: false });
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

// Arithmetic of rates, as node/src/traffic.rs has it.

import type { Rates } from "../api/types.ts";

/** Upper bounds of the buckets of durations, in milliseconds: node/proxy/src/metrics/histogram.rs. */
export const BOUNDS = [
  0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000,
  3_600_000, Infinity,
];

export function none(): Rates {
  return {
    requests: 0, failures: 0, retries: 0, durations: [], opened: 0, refused: 0, open: 0, received_bytes: 0, sent_bytes: 0,
  };
}

export function add(sum: Rates, other: Rates): void {
  sum.requests += other.requests;
  sum.failures += other.failures;
  sum.retries += other.retries;
  sum.opened += other.opened;
  sum.refused += other.refused;
  sum.open += other.open;
  sum.received_bytes += other.received_bytes;
  sum.sent_bytes += other.sent_bytes;
  sum.mutual_tls = (sum.mutual_tls ?? 0) + (other.mutual_tls ?? 0);
  sum.in_the_clear = (sum.in_the_clear ?? 0) + (other.in_the_clear ?? 0);
  const durations = (sum.durations ??= []);
  other.durations?.forEach((value, i) => (durations[i] = (durations[i] ?? 0) + value));
}

export function sumOf(all: Iterable<Rates>): Rates {
  const sum = none();
  for (const rates of all) add(sum, rates);
  return sum;
}

/** The share that did not fail, 0 to 1; null if there was nothing. */
export function success(rates: Rates): number | null {
  const all = rates.requests + rates.opened;
  return all > 0 ? Math.min(1, Math.max(0, 1 - (rates.failures + rates.refused) / all)) : null;
}

/** The duration in milliseconds within which this share of requests ended, as Prometheus' histogram_quantile. */
export function quantile(rates: Rates, wantedShare: number): number | null {
  const durations = rates.durations ?? [];
  const all = durations.reduce((sum, value) => sum + value, 0);
  if (all <= 0) return null;
  const wanted = wantedShare * all;
  let below = 0;
  let lower = 0;
  for (const [i, count] of durations.entries()) {
    const bound = BOUNDS[i] ?? Infinity;
    if (bound === Infinity) break;
    if (count > 0 && below + count >= wanted) return lower + (bound - lower) * ((wanted - below) / count);
    below += count;
    lower = bound;
  }
  return lower;
}

export function bytesPerSecond(rates: Rates): number {
  return rates.received_bytes + rates.sent_bytes;
}

export type Health = "good" | "poor" | "bad" | "idle";

/** As the graph and tables colour it. */
export function health(rates: Rates): Health {
  const ok = success(rates);
  if (ok === null) return rates.open > 0 ? "good" : "idle";
  return ok < 0.95 ? "bad" : ok < 0.999 ? "poor" : "good";
}

// How long certificates are still good.

import type { Certificates } from "../api/types.ts";
import { DASH, duration } from "../lib/format.ts";
import { Mark, type Tone } from "./bits.tsx";

/** Certificates are renewed at half of their life: what has less left was not. Workloads' last an hour, nodes' a day. */
const LOW = { workload: 20 * 60, node: 6 * 3_600 };

/** By node and service account. */
export type Known = Map<string, number>;

const key = (node: string, namespace: string, account: string) => `${node}/${namespace}/${account}`;

export function known(told: Certificates | null): Known {
  return new Map((told?.certificates ?? []).map(({ node, account, seconds_left }) => [key(node, account.namespace, account.name), seconds_left]));
}

/** Of the account's certificate on that node; null if nobody says. */
export function leftOf(of: Known, node: string, namespace: string, account: string | undefined): number | null {
  return of.get(key(node, namespace, account ?? "")) ?? null;
}

/** The account of an identity such as `spiffe://cluster.local/ns/default/sa/web`. */
export function accountOf(identity: string | undefined): { namespace: string; account: string } | null {
  const [, namespace, account] = /\/ns\/([^/]+)\/sa\/([^/]+)$/.exec(identity ?? "") ?? [];
  return namespace && account ? { namespace, account } : null;
}

export function toneOfLeft(seconds: number, of: keyof typeof LOW): Tone {
  if (seconds <= 0) return "bad";
  return seconds < LOW[of] ? "poor" : "good";
}

export function Left({ seconds, of }: { seconds: number | null | undefined; of: keyof typeof LOW }) {
  if (seconds === null || seconds === undefined) return <>{DASH}</>;
  return <Mark tone={toneOfLeft(seconds, of)}>{seconds > 0 ? `${duration(seconds)} left` : duration(seconds)}</Mark>;
}

// How documents share out what is sent to a service: what VirtualServices and HTTPRoutes set, beside what is measured.

import type { Json, MeshDocument } from "../api/types.ts";

/** A part of what is sent to a service that a document gives to one of its versions, or to all of another service. */
export interface Weight {
  namespace: string;
  service: string;
  /** Null if the document does not tell versions apart. */
  version: string | null;
  /** 0 to 1. */
  part: number;
}

type Fields = { [key: string]: Json };

const fields = (value: Json | undefined): Fields =>
  value !== null && typeof value === "object" && !Array.isArray(value) ? value : {};
const list = (value: Json | undefined): Fields[] => (Array.isArray(value) ? value.map(fields) : []);
const text = (value: Json | undefined): string => (typeof value === "string" ? value : "");

/** Namespace and name of a host as a document of that namespace writes it. */
function hostIn(namespace: string, host: string): { namespace: string; service: string } {
  const [, name, other] = /^([^.]+)\.([^.]+)(?:\.svc(?:\..*)?)?$/.exec(host) ?? [];
  return name && other ? { namespace: other, service: name } : { namespace, service: host };
}

/** All weights that documents set where there are several to choose from. */
export function weightsOf(documents: MeshDocument[]): Weight[] {
  const subsets = new Map<string, string>();
  for (const { key, body } of documents) {
    if (key.kind !== "DestinationRule") continue;
    const spec = fields(fields(body).spec);
    const { namespace, service } = hostIn(key.namespace ?? "", text(spec.host));
    for (const subset of list(spec.subsets)) {
      const version = text(fields(subset.labels).version);
      if (version) subsets.set(`${namespace}/${service}/${text(subset.name)}`, version);
    }
  }
  const found: Weight[] = [];
  const share = (all: { to: Omit<Weight, "part">; weight: number }[]) => {
    const sum = all.reduce((sum, { weight }) => sum + weight, 0);
    if (all.length < 2 || sum <= 0) return;
    found.push(...all.map(({ to, weight }) => ({ ...to, part: weight / sum })));
  };
  const number = (value: Json | undefined, otherwise: number) => (typeof value === "number" ? value : otherwise);
  for (const { key, body } of documents) {
    const spec = fields(fields(body).spec);
    const own = key.namespace ?? "";
    if (key.kind === "VirtualService") {
      for (const rule of [...list(spec.http), ...list(spec.tcp), ...list(spec.tls)]) {
        const routes = list(rule.route).map((route) => {
          const destination = fields(route.destination);
          const to = hostIn(own, text(destination.host));
          const subset = text(destination.subset);
          const version = subset ? (subsets.get(`${to.namespace}/${to.service}/${subset}`) ?? subset) : null;
          return { to: { ...to, version }, weight: number(route.weight, 0) };
        });
        share(routes);
      }
    } else if (key.kind === "HTTPRoute" || key.kind === "GRPCRoute") {
      for (const rule of list(spec.rules)) {
        const backends = list(rule.backendRefs).map((backend) => ({
          to: { namespace: text(backend.namespace) || own, service: text(backend.name), version: null },
          weight: number(backend.weight, 1),
        }));
        share(backends);
      }
    }
  }
  return found;
}

/** What documents set for a version of a service: different parts if routes differ, the largest first. */
export function partsOf(weights: Weight[], namespace: string, service: string, version: string): number[] {
  const fits = (weight: Weight) =>
    weight.namespace === namespace && weight.service === service && (weight.version === null || weight.version === version);
  return [...new Set(weights.filter(fits).map(({ part }) => part))].sort((a, b) => b - a);
}

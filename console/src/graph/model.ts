// From rows of traffic to what is drawn: boxes (services with their versions, callers, hosts outside) and edges.

import type { Circuit, Rates, Row, Workload } from "../api/types.ts";
import { workloadName } from "../lib/names.ts";
import { add, none } from "../lib/rates.ts";
import { partsOf, type Weight } from "../lib/weights.ts";

const UNKNOWN = "unknown";

export type BoxKind = "service" | "workload" | "gateway" | "outside" | "unknown";

/** A service, or what is not known to be of one. */
export interface Box {
  id: string;
  kind: BoxKind;
  namespace: string;
  name: string;
  /** Its workloads; none if only services are shown. */
  slots: Slot[];
  /** What it gets, and what it sends. */
  inbound: Rates;
  outbound: Rates;
  circuit: string | null;
}

/** A workload in its service's box. */
export interface Slot {
  id: string;
  name: string;
  version: string;
  inbound: Rates;
  circuit: string | null;
}

export interface Edge {
  id: string;
  /** Boxes. */
  from: string;
  to: string;
  /** Slots, if they are shown. */
  fromSlot: string | null;
  toSlot: string | null;
  protocol: string;
  rates: Rates;
  /** Of what the caller sends to this service, 0 to 1, if others of its workloads get some. */
  share: number | null;
  /** The shares that documents set, 0 to 1; several if routes differ, none if no document shares out. */
  weights: number[];
  /** Whether it goes by mutual TLS; null if nobody says. */
  mtls: boolean | null;
  circuit: string | null;
  /** Names, for tables and labels. */
  fromName: string;
  toName: string;
}

export interface Graph {
  boxes: Map<string, Box>;
  edges: Map<string, Edge>;
}

export interface Options {
  /** Whether boxes have slots. */
  versions: boolean;
  /** Whether services without traffic are there. */
  idle: boolean;
}

export interface Known {
  workloads: Workload[];
  circuits: Circuit[];
  /** What documents set: see lib/weights.ts. */
  weights?: Weight[];
}

/** Which service a workload is of, by `NAMESPACE/WORKLOAD`. */
function servicesOf(rows: Row[], workloads: Workload[]): Map<string, { service: string; version: string }> {
  const found = new Map<string, { service: string; version: string }>();
  for (const workload of workloads) {
    const { service, labels } = workload;
    found.set(`${service.namespace}/${workloadName(workload)}`, { service: service.name, version: labels.version ?? "" });
  }
  for (const row of rows) {
    const { destination_workload: workload, destination_namespace: namespace } = row;
    if (workload === UNKNOWN || row.service === UNKNOWN || row.service_namespace !== namespace) continue;
    const known = found.get(`${namespace}/${workload}`);
    const told = row.destination_version === UNKNOWN ? undefined : row.destination_version;
    const version = told ?? known?.version ?? versionIn(workload, row.service);
    found.set(`${namespace}/${workload}`, { service: row.service, version });
  }
  return found;
}

function versionIn(workload: string, service: string): string {
  return workload.startsWith(`${service}-`) ? workload.slice(service.length + 1) : "";
}

/** Circuits by `NAMESPACE/WORKLOAD`: the worst that any node says. */
function circuitsOf(circuits: Circuit[]): Map<string, string> {
  const rank = ["failing", "probing", "tripped"];
  const worst = new Map<string, string>();
  for (const { endpoint, seen } of circuits) {
    // NODE/NAMESPACE/WORKLOAD:PORT
    const [, namespace = "", rest = ""] = endpoint.split("/");
    const key = `${namespace}/${rest.replace(/:\d+$/, "")}`;
    for (const { state } of seen) {
      if (rank.indexOf(state) > rank.indexOf(worst.get(key) ?? "")) worst.set(key, state);
    }
  }
  return worst;
}

/** Such as `ingress-gateway`, `istio-ingressgateway` or `waypoint`: nobody says it otherwise. */
function isGateway(name: string): boolean {
  return /(gateway|waypoint)(-[a-z0-9]+)?$/.test(name);
}

export function makeGraph(rows: Row[], known: Known, options: Options): Graph {
  const boxes = new Map<string, Box>();
  const edges = new Map<string, Edge>();
  const services = servicesOf(rows, known.workloads);
  const circuits = circuitsOf(known.circuits);

  const box = (kind: BoxKind, namespace: string, name: string): Box => {
    const id = kind === "unknown" ? UNKNOWN : `${kind}:${namespace}/${name}`;
    let found = boxes.get(id);
    if (!found) {
      found = { id, kind: isGateway(name) && kind !== "outside" ? "gateway" : kind, namespace, name, slots: [], inbound: none(), outbound: none(), circuit: null };
      boxes.set(id, found);
    }
    return found;
  };
  const slot = (of: Box, namespace: string, name: string, version: string): Slot => {
    const id = `${namespace}/${name}`;
    let found = of.slots.find((slot) => slot.id === id);
    if (!found) {
      found = { id, name, version, inbound: none(), circuit: circuits.get(id) ?? null };
      of.slots.push(found);
    }
    return found;
  };
  /** The box, and the slot in it, of a workload. */
  const ofWorkload = (namespace: string, name: string, told: { service?: string; version?: string }) => {
    const known = services.get(`${namespace}/${name}`);
    const service = told.service && told.service !== UNKNOWN ? told.service : known?.service;
    if (!service) return { at: box("workload", namespace, name), in: null };
    const at = box("service", namespace, service);
    const version = told.version && told.version !== UNKNOWN ? told.version : (known?.version ?? "");
    return { at, in: slot(at, namespace, name, version) };
  };
  const caller = (row: Row) =>
    row.source_workload === UNKNOWN
      ? { at: box("unknown", "", "outside callers"), in: null }
      : ofWorkload(row.source_namespace, row.source_workload, {
          service: row.source_app,
          version: row.source_version,
        });
  const called = (row: Row) => {
    if (row.destination_workload !== UNKNOWN) {
      const inService = row.service_namespace === row.destination_namespace ? row.service : undefined;
      const told = { service: inService, version: row.destination_version };
      return ofWorkload(row.destination_namespace, row.destination_workload, told);
    }
    const outside = row.outside ?? (row.service_namespace === UNKNOWN || row.service.includes("."));
    return { at: box(outside ? "outside" : "service", outside ? "" : row.service_namespace, row.service), in: null };
  };

  for (const row of rows) {
    const from = caller(row);
    const to = called(row);
    add(from.at.outbound, row);
    add(to.at.inbound, row);
    if (to.in) add(to.in.inbound, row);
    const fromSlot = options.versions ? (from.in?.id ?? null) : null;
    const toSlot = options.versions ? (to.in?.id ?? null) : null;
    const id = `${fromSlot ?? from.at.id}>${toSlot ?? to.at.id}:${row.protocol}`;
    let edge = edges.get(id);
    if (!edge) {
      edge = {
        id, from: from.at.id, to: to.at.id, fromSlot, toSlot, protocol: row.protocol, rates: none(), share: null,
        weights: partsOf(known.weights ?? [], to.at.namespace, to.at.name, (toSlot && to.in?.version) || ""), mtls: null, circuit: null, fromName: named(from.at, fromSlot), toName: named(to.at, toSlot),
      };
      edges.set(id, edge);
    }
    add(edge.rates, row);
    if (row.in_the_clear) edge.mtls = false;
    else if (row.mutual_tls && edge.mtls === null) edge.mtls = true;
    if (row.circuit) edge.circuit = row.circuit;
  }

  if (options.idle) {
    for (const workload of known.workloads) {
      const { service, labels } = workload;
      slot(box("service", service.namespace, service.name), service.namespace, workloadName(workload), labels.version ?? "");
    }
  }
  shareOut(edges);
  for (const box of boxes.values()) {
    box.slots.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
    box.circuit = box.slots.find((slot) => slot.circuit)?.circuit ?? null;
    if (!options.versions) box.slots = [];
  }
  return { boxes, edges };
}

function named(box: Box, slot: string | null): string {
  const name = slot ?? (box.namespace ? `${box.namespace}/${box.name}` : box.name);
  return name;
}

/** Says of each edge which part it has of what its caller sends to the same service. */
function shareOut(edges: Map<string, Edge>): void {
  const groups = new Map<string, Edge[]>();
  for (const edge of edges.values()) {
    const key = `${edge.fromSlot ?? edge.from}>${edge.to}`;
    groups.set(key, [...(groups.get(key) ?? []), edge]);
  }
  for (const group of groups.values()) {
    const amount = ({ rates }: Edge) => rates.requests + rates.opened;
    const all = group.reduce((sum, edge) => sum + amount(edge), 0);
    if (group.length < 2 || all <= 0) continue;
    for (const edge of group) edge.share = amount(edge) / all;
  }
}

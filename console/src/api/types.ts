// What the admin API says, as node/src/admin has it. Only what the console reads.

export interface Status {
  name: string;
  id: string;
  mesh: string;
  trust_domain: string;
  role: string;
  version: string;
  uptime_seconds: number;
  ready: boolean;
  not_ready: string[];
  certificate_seconds_left: number;
  issuer_seconds_left: number | null;
  members_alive: number;
  members_known: number;
  documents: number;
  documents_digest: string;
  view_epoch: number;
  actors: Actor[];
}

export interface Actor {
  name: string;
  state: string;
  restarts: number;
  queue_depth: number;
  queue_capacity: number;
  dropped: number;
  last_error: string | null;
}

export interface Member {
  name: string;
  id: string;
  address: string;
  state: "alive" | "suspect" | "failed" | "left";
  this_node: boolean;
  role: string;
  locality: string;
  /** Not told by a node that knows no cells. */
  cell?: string;
  relay?: boolean;
  labels: Record<string, string>;
  version: string;
  endpoints: number;
  since_seconds: number;
  /** Of its own certificate, as far as this node has seen it. */
  certificate_seconds_left?: number | null;
}

export interface Service {
  name: string;
  namespace: string;
  host: string;
  ports: { port: number; name: string; protocol: string }[];
  versions: string[];
  endpoints: number;
  healthy: number;
}

export interface Workload {
  service: { namespace: string; name: string };
  /** Its name; empty if an older version tells it. */
  workload?: string;
  port: number;
  node: string;
  protocol: string;
  /** Its service account; empty if an older version tells it. */
  account?: string;
  labels: Record<string, string>;
}

export interface Endpoint {
  workload: string;
  node: string;
  address: string;
  port: number;
  target_port: number;
  version: string;
  identities: string[];
  health: string;
  standing: string;
  held_back: string;
  active_requests: number;
  /** Nodes of an older version say neither. */
  locality?: string;
  weight?: number;
}

/** Answer to `GET /api/v1/certificates`: of workloads, by the nodes that host them. */
export interface Certificates {
  certificates: { node: string; account: { namespace: string; name: string }; seconds_left: number }[];
  silent: string[];
}

/** A request as a tap shows it. */
export interface Tapped extends Call {
  at: string;
  node: string;
  duration_ms: number;
  method: string;
  authority: string;
  path: string;
  status: number;
  grpc_status?: number;
  flag: string;
  failure?: string;
  mutual_tls: boolean;
  attempts: number;
  endpoint?: string;
  request_id?: string;
  trace?: string;
  request_bytes: number;
  response_bytes: number;
  request_headers: [string, string][];
  response_headers: [string, string][];
}

export interface TapState {
  nodes: number;
  silent: string[];
  refused: Record<string, string>;
  missed: number;
  ended: boolean;
}

/** Answer to `POST /api/v1/log` */
export interface Lines {
  /** The oldest first. */
  lines: { at_ms: number; node: string; side: "source" | "destination"; text: string }[];
  silent: string[];
  refused: Record<string, string>;
  /** Nodes that write no such lines, unless documents say so. */
  off: string[];
}

/** Numbers of a window, per second but for `open`. */
export interface Rates {
  requests: number;
  failures: number;
  retries: number;
  /** Requests per second by duration; see BOUNDS in lib/rates.ts. */
  durations?: number[];
  opened: number;
  refused: number;
  open: number;
  received_bytes: number;
  sent_bytes: number;
  /** Requests and connections to other nodes, by mutual TLS, and without TLS over the network. */
  mutual_tls?: number;
  in_the_clear?: number;
}

/** Who calls whom; `unknown` where it is not known. Nodes of an older version leave some out. */
export interface Call {
  source_namespace: string;
  source_workload: string;
  source_app?: string;
  source_version?: string;
  service_namespace: string;
  service: string;
  /** Whether it is a host that is no service of the mesh. */
  outside?: boolean;
  destination_namespace: string;
  destination_workload: string;
  destination_app?: string;
  destination_version?: string;
  protocol: string;
  reporter: "source" | "destination";
}

export interface Row extends Call, Rates {
  circuit?: string;
}

/** What went over one edge, point by point: counts, without what is 0 all the time. */
export interface Track extends Call {
  series: { counts: Record<string, number[]>; durations?: Record<string, number[]> };
}

/** Answer to `GET /api/v1/traffic/history` */
export interface TrafficHistory {
  from_ms: number;
  step_ms: number;
  points: number;
  known_from_ms: number | null;
  tracks: Track[];
  silent: string[];
  left_out: number;
}

export interface Traffic {
  window_seconds: number;
  /** Of the buckets of durations. */
  bounds_ms?: (number | null)[];
  rows: Row[];
  nodes: number;
  silent: string[];
  left_out: number;
}

export interface Circuit {
  endpoint: string;
  hosts: string[];
  standing: string;
  seen: Observation[];
}

export interface Observation {
  node: string;
  this_node: boolean;
  state: string;
  cause: string;
  failures: number;
  since_unix_millis: number;
  left_millis: number;
  lease_left_millis: number | null;
}

export interface MeshEvent {
  at: number;
  kind: string;
  subject: string;
  what: string;
  nodes: string[];
}

export interface DocumentKey {
  group: string;
  kind: string;
  namespace: string | null;
  name: string;
}

export interface Condition {
  type: string;
  status: string;
  reason: string;
  message: string;
}

export interface MeshDocument {
  key: DocumentKey;
  author: string;
  created_millis: number;
  updated_millis: number;
  version: string;
  body: Json;
  status: { conditions: Condition[]; nodes: { current: number; total: number; lagging: string[] } };
}

export interface DocumentVersion {
  version: string;
  time: string;
  author: string;
  node: string | null;
  event: string;
  sameAs: string | null;
  body: Json | null;
}

export interface Edited {
  documents: { key: DocumentKey; outcome: string; diff: string }[];
  problems: { line: number; column: number; severity: "error" | "warning"; message: string }[];
  written: boolean;
}

export interface Kind {
  kind: string;
  group: string;
  versions: string[];
  namespaced: boolean;
}

export interface Explanation {
  text: string;
  allowed?: boolean;
}

export interface Span {
  trace: string;
  span: string;
  parent: string | null;
  node: string;
  kind: "client" | "server";
  name: string;
  service: string | null;
  workload: string | null;
  peer: string | null;
  start_us: number;
  duration_us: number;
  method: string;
  path: string;
  status: number;
  flags: string;
  error: boolean;
  sampled: boolean;
  request_id: string | null;
}

export interface Check {
  about: string;
  verdict: "ok" | "warning" | "error";
  what: string;
  why?: string;
  fix?: string;
}

export interface Comparison {
  nodes: { node: string; digest: string; differences: { document: DocumentKey; what: string }[] }[];
  silent: string[];
}

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

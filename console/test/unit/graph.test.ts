import assert from "node:assert/strict";
import { test } from "node:test";
import type { MeshDocument, Row } from "../../src/api/types.ts";
import { fieldsOfBox, fieldsOfEdge, parse } from "../../src/graph/expression.ts";
import { place, type Places } from "../../src/graph/layout.ts";
import { makeGraph } from "../../src/graph/model.ts";
import { compose, hit } from "../../src/graph/scene.ts";
import { weightsOf } from "../../src/lib/weights.ts";

const LABELS = { rate: true, success: false, latency: false, bytes: false, share: true, lock: true, protocol: true };
const OPTIONS = { versions: true, idle: false };
const KNOWN = { workloads: [], circuits: [] };

/** `SOURCE>SERVICE@DESTINATION`, as the tests of node/src/traffic.rs write it. */
function row(text: string, requests: number, more: Partial<Row> = {}): Row {
  const [source = "", rest = ""] = text.split(">");
  const [service = "", destination = "unknown"] = rest.split("@");
  const namespace = (name: string) => (name === "unknown" ? "unknown" : "default");
  return {
    source_namespace: namespace(source), source_workload: source, service_namespace: namespace(service), service,
    destination_namespace: namespace(destination), destination_workload: destination, protocol: "http", reporter: "source",
    requests, failures: 0, retries: 0, opened: 0, refused: 0, open: 0, received_bytes: 0, sent_bytes: 0, ...more,
  };
}

const CANARY = [
  row("unknown>page@page-v1", 10),
  row("page-v1>reviews@reviews-v1", 8),
  row("page-v1>reviews@reviews-v3", 2, { failures: 1 }),
];

test("versions of a service share its box, and each has its part of the traffic", () => {
  const { boxes, edges } = makeGraph(CANARY, KNOWN, OPTIONS);
  assert.deepEqual([...boxes.keys()].sort(), ["service:default/page", "service:default/reviews", "unknown"]);
  assert.deepEqual(boxes.get("service:default/reviews")!.slots.map(({ version }) => version), ["v1", "v3"]);
  const shares = [...edges.values()].map(({ toName, share }) => [toName, share]);
  assert.deepEqual(shares, [["default/page-v1", null], ["default/reviews-v1", 0.8], ["default/reviews-v3", 0.2]]);
});

test("services alone have no slots, and their edges are sums", () => {
  const { boxes, edges } = makeGraph(CANARY, KNOWN, { ...OPTIONS, versions: false });
  assert.equal(boxes.get("service:default/reviews")!.slots.length, 0);
  assert.equal([...edges.values()].find(({ to }) => to === "service:default/reviews")!.rates.requests, 10);
});

test("hosts outside, and services that nobody answers for, are told apart", () => {
  const outside = { ...row("page-v1>api.example.com", 1), service_namespace: "unknown" };
  const { boxes } = makeGraph([outside, row("page-v1>gone", 1)], KNOWN, OPTIONS);
  assert.equal(boxes.get("outside:/api.example.com")!.kind, "outside");
  assert.equal(boxes.get("service:default/gone")!.kind, "service");
});

test("boxes stay where they are, and new ones overlap none", () => {
  const places: Places = new Map();
  const first = makeGraph(CANARY, KNOWN, OPTIONS);
  place(first, places);
  const before = new Map([...places].map(([id, at]) => [id, { ...at }]));
  const more = ["ratings", "details", "cart"].map((name) => row(`reviews-v1>${name}@${name}-v1`, 1));
  const second = makeGraph([...CANARY, ...more], KNOWN, OPTIONS);
  assert.ok(place(second, places));
  for (const [id, at] of before) assert.deepEqual(places.get(id), at, id);
  const boxes = [...compose(second, places, LABELS, null).boxes.values()];
  assert.equal(boxes.length, 6);
  for (const a of boxes) {
    for (const b of boxes) {
      const apart = a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;
      assert.ok(a === b || apart, `${a.box.id} lies on ${b.box.id}`);
    }
  }
  assert.equal(place(second, places), false, "nothing is new");
});

test("labels say what was chosen, failures always", () => {
  const graph = makeGraph(CANARY, KNOWN, OPTIONS);
  const places: Places = new Map();
  place(graph, places);
  const labels = compose(graph, places, LABELS, null).edges.map(({ label }) => label);
  assert.deepEqual(labels, ["10.0/s", "8.0/s · 80 %", "2.0/s · 20 % · 50.0 % ok"]);
});

test("beside the share of a canary stands what documents set, and what is no HTTP says so", () => {
  const document = (kind: string, spec: MeshDocument["body"]) =>
    ({ key: { group: "", kind, namespace: "default", name: "reviews" }, body: { spec } }) as MeshDocument;
  const subset = (name: string, version: string) => ({ name, labels: { version } });
  const route = (subset: string, weight?: number) => ({ destination: { host: "reviews", subset }, ...(weight && { weight }) });
  const documents = [
    document("DestinationRule", { host: "reviews.default.svc.cluster.local", subsets: [subset("old", "v1"), subset("new", "v3")] }),
    document("VirtualService", { hosts: ["reviews"], http: [{ route: [route("v2")] }, { route: [route("old", 60), route("new", 20)] }] }),
  ];
  const weights = weightsOf(documents);
  const rows = [...CANARY, row("page-v1>db@db-v1", 0, { protocol: "tcp", opened: 1, sent_bytes: 2_048 })];
  const graph = makeGraph(rows, { ...KNOWN, weights }, OPTIONS);
  const places: Places = new Map();
  place(graph, places);
  const labels = compose(graph, places, LABELS, null).edges.map(({ label }) => label);
  assert.deepEqual(labels, ["10.0/s", "8.0/s · 80 % (set 75 %)", "2.0/s · 20 % (set 25 %) · 50.0 % ok", "tcp · 2.0 KiB/s"]);
  // Of backends, each a service of its own.
  const backends = [{ name: "reviews-v1", weight: 9 }, { name: "reviews-v2" }];
  assert.deepEqual(weightsOf([document("HTTPRoute", { rules: [{ backendRefs: backends }, { backendRefs: [{ name: "one" }] }] })]), [
    { namespace: "default", service: "reviews-v1", version: null, part: 0.9 },
    { namespace: "default", service: "reviews-v2", version: null, part: 0.1 },
  ]);
});

test("a click finds boxes and edges", () => {
  const graph = makeGraph(CANARY, KNOWN, OPTIONS);
  const places: Places = new Map();
  place(graph, places);
  const scene = compose(graph, places, LABELS, null);
  const box = scene.boxes.get("service:default/page")!;
  assert.deepEqual(hit(scene, { x: box.x + 5, y: box.y + 5 }, 9), { kind: "box", id: "service:default/page" });
  const [start, , , end] = scene.edges[1]!.curve;
  assert.equal(hit(scene, { x: (start.x + end.x) / 2, y: (start.y + end.y) / 2 }, 40)?.kind, "edge");
  assert.equal(hit(scene, { x: -10_000, y: 0 }, 9), null);
});

test("expressions find and hide", () => {
  const graph = makeGraph(CANARY, KNOWN, OPTIONS);
  const found = (text: string) => {
    const test = parse(text)!;
    return [...graph.edges.values()].filter((edge) => test(fieldsOfEdge(edge))).map(({ toName }) => toName);
  };
  assert.deepEqual(found("error > 5"), ["default/reviews-v3"]);
  assert.deepEqual(found("reviews and not error > 5"), ["default/reviews-v1"]);
  assert.deepEqual(found("share <= 20 or to ~ page"), ["default/page-v1", "default/reviews-v3"]);
  assert.deepEqual(found("!(rps >= 8)"), ["default/reviews-v3"]);
  const boxes = [...graph.boxes.values()].filter((box) => parse("ns = default name != page")!(fieldsOfBox(box)));
  assert.deepEqual(boxes.map(({ name }) => name), ["reviews"]);
  assert.equal(parse("  "), null);
  for (const [wrong, why] of [
    ["rps >", /a value is missing/],
    ["rps > x", /not a number/],
    ["colour = red", /there is no field colour/],
    ["(a", /a \) is missing/],
    ["= 3", /name is missing/],
    ["a )", /too much/],
    ["not", /missing at the end/],
  ] as const) {
    assert.throws(() => parse(wrong), why, wrong);
  }
});

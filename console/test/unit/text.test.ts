import assert from "node:assert/strict";
import { test } from "node:test";
import { Splitter } from "../../src/api/stream.ts";
import type { MeshDocument, Span } from "../../src/api/types.ts";
import { documentsOf, keyOf, toYaml } from "../../src/lib/documents.ts";
import { duration, milliseconds, percent, rate } from "../../src/lib/format.ts";
import { none, quantile, success } from "../../src/lib/rates.ts";
import { href, parse } from "../../src/lib/router.ts";
import { tracesOf, treeOf } from "../../src/lib/spans.ts";
import { headersIn } from "../../src/pages/explain.tsx";
import { fieldsAt, spotIn, valuesAt, type Schema } from "../../src/ui/complete.ts";
import { compare } from "../../src/ui/table.tsx";

test("numbers are as people read them", () => {
  assert.deepEqual([0, 0.01, 12.34, 250, 12_345].map(rate), ["0", "<0.1", "12.3", "250", "12.3k"]);
  assert.deepEqual([null, 1, 0.9999, 0.5].map(percent), ["–", "100 %", "99.990 %", "50.0 %"]);
  assert.deepEqual([0.25, 5.5, 250, 2_500].map(milliseconds), ["0.25 ms", "5.5 ms", "250 ms", "2.50 s"]);
  assert.deepEqual([0, 59, 3_600, 90_000, -60].map(duration), ["0 s", "59 s", "1 h", "1 d", "ended 1 min ago"]);
});

test("quantiles are those of the node", () => {
  const durations = new Array(20).fill(0);
  assert.equal(quantile({ ...none(), durations }, 0.5), null);
  [durations[2], durations[3]] = [50, 50];
  assert.deepEqual([0, 0.25, 0.5, 0.75, 1].map((share) => quantile({ ...none(), durations }, share)), [1, 3, 5, 7.5, 10]);
  assert.equal(success(none()), null);
  assert.equal(success({ ...none(), requests: 8, failures: 1 }), 0.875);
});

test("streams are cut into events, however their bytes come", () => {
  const splitter = new Splitter();
  assert.deepEqual(splitter.push('data: {"a":'), []);
  assert.deepEqual(splitter.push('1}\n\n:\n\ndata: 2\n'), ['{"a":1}']);
  assert.deepEqual(splitter.push("\ndata: 3\n\n"), ["2", "3"]);
});

test("addresses are read as they are written", () => {
  const { path, query } = parse(href(["policy", "networking.istio.io", "a/b"], { find: "rps > 1 & x" }));
  assert.deepEqual([path, query.get("find")], [["policy", "networking.istio.io", "a/b"], "rps > 1 & x"]);
  assert.deepEqual(parse("#/%zz").path, ["%zz"]);
  assert.deepEqual(keyOf(["core", "Namespace", "-", "a"]), { group: "", kind: "Namespace", namespace: null, name: "a" });
});

test("YAML says what JSON said", () => {
  const text = toYaml({
    kind: "A", apiVersion: "v1", spec: { on: true, text: "yes", number: "8", list: [{ a: 1, b: [] }, "*", ["x"]], none: null, e: {} },
  });
  assert.equal(
    text,
    'apiVersion: v1\nkind: A\nspec:\n  "on": true\n  text: "yes"\n  number: "8"\n  list:\n  - a: 1\n    b: []\n  - "*"\n' +
      "  - - x\n  none: null\n  e: {}\n",
  );
});

test("documents that name a service are found", () => {
  const document = (kind: string, namespace: string, spec: object, name = "x") =>
    ({ key: { group: "", kind, namespace, name }, body: { spec } }) as unknown as MeshDocument;
  const all = [
    document("VirtualService", "default", { hosts: ["reviews"] }),
    document("VirtualService", "other", { hosts: ["reviews"] }),
    document("DestinationRule", "other", { host: "reviews.default.svc.cluster.local" }),
    document("AuthorizationPolicy", "default", {}),
    document("AuthorizationPolicy", "default", { selector: { matchLabels: { app: "ratings" } } }),
    document("HTTPRoute", "default", { rules: [{ backendRefs: [{ name: "reviews" }] }] }),
    document("Service", "default", {}, "reviews"),
  ];
  assert.deepEqual(documentsOf(all, "default", "reviews").map((one) => all.indexOf(one)), [0, 2, 3, 5, 6]);
});

test("spans stand under their parents, and circles end", () => {
  const span = (id: string, parent: string | null, start_us: number): Span =>
    ({ trace: "t", span: id, parent, start_us, duration_us: 10, service: `${id}.default`, peer: null, error: false }) as Span;
  const rows = treeOf([span("c", "a", 3), span("a", null, 1), span("b", "a", 2), span("d", "x", 0)]);
  assert.deepEqual(rows.map(({ span, depth }) => `${span.span}${depth}`), ["d0", "a0", "b1", "c1"]);
  assert.equal(treeOf([span("a", "a", 1)]).length, 1);
  const [trace] = tracesOf([span("b", "a", 12), span("a", null, 2)]);
  assert.deepEqual([trace!.first.span, trace!.length], ["a", 20]);
});

test("headers are read from lines", () => {
  assert.deepEqual(headersIn("a: b:c\n\n x-y:  z "), [["a", "b:c"], ["x-y", "z"]]);
  assert.throws(() => headersIn("a: b\nnothing"), /“nothing” is not a header/);
});

test("columns sort numbers by value, names by their numbers, and what is missing first", () => {
  assert.deepEqual([3, null, 20].sort(compare), [null, 3, 20]);
  assert.deepEqual(["host-10", "host-9"].sort(compare), ["host-9", "host-10"]);
});

const SCHEMA: Schema = {
  $defs: { Route: { properties: { destination: { $ref: "#/$defs/Destination" }, weight: { type: "integer" } } }, Destination: { properties: { host: { type: "string", description: "Whom." }, tls: { type: ["boolean", "null"] } } } },
  properties: {
    spec: { properties: { hosts: { type: "array", items: { type: "string" } }, mode: { enum: ["A", "B"] }, http: { type: "array", items: { anyOf: [{ properties: { route: { type: "array", items: { $ref: "#/$defs/Route" } } } }, { type: "null" }] } } } },
  },
};

test("the editor knows where the cursor is, and what may stand there", () => {
  const head = "apiVersion: v1\nkind: VirtualService\n";
  const at = (text: string) => spotIn(head + text);
  assert.deepEqual(at("spec:\n  ho"), { kind: "VirtualService", path: ["spec"], field: null, typed: "ho" });
  assert.deepEqual(at("spec:\n  hosts:\n  - a\n  mo").path, ["spec"]);
  assert.deepEqual(at("spec:\n  http:\n  - rou").path, ["spec", "http", "[]"]);
  assert.deepEqual(at("spec:\n  http:\n    - match: x\n      rou").path, ["spec", "http", "[]"]);
  assert.deepEqual(at("spec:\n  http:\n  - route:\n    - destination:\n        ho").path, ["spec", "http", "[]", "route", "[]", "destination"]);
  assert.deepEqual(at("spec:\n  http:\n  - route:\n    - destination:\n        host: a\n      wei").path, ["spec", "http", "[]", "route", "[]"]);
  assert.deepEqual(at("spec:\n  mode: A"), { kind: "VirtualService", path: ["spec"], field: "mode", typed: "A" });
  assert.equal(spotIn(`${head}---\nki`).kind, null);

  const labels = (path: string[]) => fieldsAt(SCHEMA, path).map(({ label, opens }) => `${label}:${opens}`);
  assert.deepEqual(labels(["spec"]), ["hosts:list", "mode:value", "http:list"]);
  assert.deepEqual(labels(["spec", "http", "[]", "route", "[]"]), ["destination:fields", "weight:value"]);
  assert.equal(fieldsAt(SCHEMA, ["spec", "http", "[]", "route", "[]", "destination"])[0]!.info, "Whom.");
  assert.deepEqual(valuesAt(SCHEMA, ["spec", "mode"]).map(({ label }) => label), ["A", "B"]);
  assert.deepEqual(valuesAt(SCHEMA, ["spec", "http", "[]", "route", "[]", "destination", "tls"]).map(({ label }) => label), ["true", "false"]);
});

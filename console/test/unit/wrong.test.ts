import assert from "node:assert/strict";
import { test } from "node:test";
import type { Circuit, Member, MeshDocument, Service, Status, Traffic } from "../../src/api/types.ts";
import { findWrong } from "../../src/lib/wrong.ts";

const FINE = {
  status: { ready: true, not_ready: [], certificate_seconds_left: 80_000, actors: [{ name: "facts", state: "running" }] } as unknown as Status,
  members: [{ name: "host-1", state: "alive" }, { name: "host-9", state: "left" }] as Member[],
  services: [{ namespace: "default", name: "reviews", endpoints: 2, healthy: 2 }] as Service[],
  circuits: [] as Circuit[],
  documents: [] as MeshDocument[],
  traffic: { silent: [], rows: [{ service_namespace: "default", service: "reviews", requests: 10, failures: 0, opened: 0, refused: 0 }] } as unknown as Traffic,
};

test("a mesh that does well has nothing wrong", () => {
  assert.deepEqual(findWrong(FINE), []);
  assert.deepEqual(findWrong({ ...FINE, status: null, traffic: null }), []);
});

test("what is wrong is told, the worst first, with where to look", () => {
  const condition = { type: "Programmed", status: "False", reason: "NoSuchHost", message: "no service gone" };
  const told = findWrong({
    status: { ...FINE.status!, certificate_seconds_left: 60 },
    members: [{ name: "host-2", state: "failed", since_seconds: 120 }, { name: "host-3", state: "suspect", since_seconds: 3 }] as Member[],
    services: [{ namespace: "default", name: "reviews", endpoints: 2, healthy: 1 }, { namespace: "a", name: "b", endpoints: 1, healthy: 0 }] as Service[],
    circuits: [{ endpoint: "host-2/default/reviews-v1:9080", hosts: [], standing: "excluded", seen: [{ node: "host-1", state: "tripped", cause: "consecutive_5xx" }] }] as unknown as Circuit[],
    documents: [{ key: { group: "g", kind: "VirtualService", namespace: "default", name: "x" }, status: { conditions: [condition] } }] as unknown as MeshDocument[],
    traffic: { silent: ["host-4"], rows: [{ service_namespace: "default", service: "reviews", requests: 10, failures: 5, opened: 0, refused: 0 }] } as unknown as Traffic,
  });
  const bad = told.filter(({ tone }) => tone === "bad").map(({ what }) => what);
  assert.deepEqual(told.slice(0, bad.length).map(({ what }) => what), bad, "the worst first");
  assert.deepEqual(bad, [
    "Node host-2 has failed, 2 min ago",
    "a/b has no healthy endpoint",
    "default/reviews answers 50.0 % of 10.0/s well",
    "Circuit of host-2/default/reviews-v1:9080: tripped at host-1 by consecutive_5xx",
    "This node's certificate: 1 min left",
  ]);
  const others = told.slice(bad.length).map(({ what, where }) => `${what} ${where}`);
  assert.deepEqual(others, [
    "Node host-3 is not heard of, since 3 s #/nodes/host-3",
    "default/reviews: 1 of 2 endpoints healthy #/services/default/reviews",
    "VirtualService default/x is not in force: no service gone #/policy/g/VirtualService/default/x",
    "host-4 does not tell of its traffic #/nodes/host-4",
  ]);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { framesOf } from "../../src/api/history.ts";
import type { Track } from "../../src/api/types.ts";

const call = {
  source_namespace: "default", source_workload: "page-v1", service_namespace: "default", service: "reviews",
  destination_namespace: "default", destination_workload: "reviews-v1", protocol: "http", reporter: "source" as const,
};

test("what the mesh remembers becomes frames of rates", () => {
  const track: Track = {
    ...call,
    series: { counts: { requests: [0, 50, 100], failures: [0, 0, 10], open: [0, 2, 0], newer: [1, 1, 1] }, durations: { "2": [0, 50, 100] } },
  };
  const told = { from_ms: 1_000_000, step_ms: 10_000, points: 3, known_from_ms: 1_010_000, tracks: [track], silent: [], left_out: 0 };
  const [first, second, ...more] = framesOf(told);
  assert.deepEqual([first!.at, second!.at, more.length], [1_020_000, 1_030_000, 0]);
  const [row] = first!.rows;
  assert.deepEqual([row!.service, row!.requests, row!.open, row!.durations![2]], ["reviews", 5, 2, 5]);
  assert.equal(second!.rows[0]!.failures, 1);
  assert.deepEqual(framesOf({ ...told, known_from_ms: null }), []);
  assert.deepEqual(framesOf({ ...told, known_from_ms: 0 })[0]!.rows, [], "nothing went over it then");
});

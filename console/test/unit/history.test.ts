import assert from "node:assert/strict";
import { test } from "node:test";
import { framesOf, meanOf } from "../../src/api/history.ts";
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

test("the mean of minutes is of all frames, with what is open at their end", () => {
  const row = (requests: number, open: number) => ({
    ...call, requests, failures: 0, retries: 0, durations: [0, requests], opened: 0, refused: 0, open, received_bytes: 0, sent_bytes: 100,
    mutual_tls: requests,
  });
  const other = { ...row(3, 0), destination_workload: "reviews-v2" };
  const frames = [{ at: 1, rows: [row(2, 7), other] }, { at: 2, rows: [] }, { at: 3, rows: [{ ...row(4, 1), circuit: "1/2 open" }] }];
  const [one, two, ...more] = meanOf(frames);
  assert.deepEqual([one!.requests, one!.open, one!.circuit, one!.durations, one!.mutual_tls], [2, 1, "1/2 open", [0, 2], 2]);
  assert.deepEqual([two!.destination_workload, two!.requests, two!.open, two!.circuit, more.length], ["reviews-v2", 1, 0, undefined, 0]);
});

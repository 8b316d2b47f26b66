import assert from "node:assert/strict";
import { test } from "node:test";
import type { Member } from "../../src/api/types.ts";
import { cells } from "../../src/lib/cells.ts";

function member(name: string, more: Partial<Member>): Member {
  return {
    name, id: name, address: "", state: "alive", this_node: false, role: "member", locality: "", labels: {}, version: "",
    endpoints: 0, since_seconds: 0, ...more,
  };
}

test("a cell has its members, of which those that are alive and link it are its relays", () => {
  const told = cells([
    member("b-1", { cell: "b", relay: true }),
    member("b-2", { cell: "b", relay: true, state: "failed" }),
    member("b-3", { cell: "b", state: "left" }),
    member("a-1", {}),
  ]);
  assert.deepEqual(told, [
    { name: "b", nodes: 2, alive: 1, relays: ["b-1"] },
    { name: "default", nodes: 1, alive: 1, relays: [] },
  ]);
});

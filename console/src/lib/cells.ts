// Cells: the nodes that gossip with each other. A large mesh is several, which relays link.

import type { Member } from "../api/types.ts";

export interface Cell {
  name: string;
  nodes: number;
  alive: number;
  /** Those that are alive: without one, nobody hears of the cell's services. */
  relays: string[];
}

/** By name, without members that have left. */
export function cells(members: Member[]): Cell[] {
  const found = new Map<string, Cell>();
  for (const { name: node, cell, relay, state } of members) {
    if (state === "left") continue;
    const name = cell || "default";
    const known = found.get(name) ?? { name, nodes: 0, alive: 0, relays: [] };
    found.set(name, known);
    known.nodes += 1;
    if (state !== "alive") continue;
    known.alive += 1;
    if (relay) known.relays.push(node);
  }
  return [...found.values()].sort((a, b) => a.name.localeCompare(b.name));
}

// Circuits: which endpoints fail for whom, what was counted, and until when callers keep away.

import { feeds, useFeed } from "../api/feeds.ts";
import type { Circuit, Observation } from "../api/types.ts";
import { ago, duration } from "../lib/format.ts";
import { Loaded, Mark, NodeLink, Title, toneOfState } from "../ui/bits.tsx";
import { Table, type Column } from "../ui/table.tsx";

interface Line {
  circuit: Circuit;
  seen: Observation;
}

const COLUMNS: Column<Line>[] = [
  { name: "Endpoint", by: ({ circuit }) => circuit.endpoint, cell: ({ circuit }) => <code>{circuit.endpoint}</code> },
  {
    name: "Here",
    by: ({ circuit }) => circuit.standing,
    cell: ({ circuit }) => <Mark tone={toneOfState(circuit.standing)}>{circuit.standing}</Mark>,
  },
  { name: "Seen by", by: ({ seen }) => seen.node, cell: ({ seen }) => <><NodeLink name={seen.node} />{seen.this_node && " (this one)"}</> },
  { name: "State", by: ({ seen }) => seen.state, cell: ({ seen }) => <Mark tone={toneOfState(seen.state)}>{seen.state}</Mark> },
  { name: "Cause", by: ({ seen }) => seen.cause, cell: ({ seen }) => seen.cause },
  { name: "Failures", number: true, by: ({ seen }) => seen.failures, cell: ({ seen }) => seen.failures },
  { name: "Since", number: true, by: ({ seen }) => -seen.since_unix_millis, cell: ({ seen }) => ago(seen.since_unix_millis) },
  {
    name: "Keeps away for",
    number: true,
    by: ({ seen }) => seen.left_millis,
    cell: ({ seen }) => (seen.left_millis > 0 ? duration(Math.ceil(seen.left_millis / 1_000)) : "–"),
  },
];

export function CircuitsPage() {
  const told = useFeed(feeds.circuits);
  const past = (useFeed(feeds.events).data ?? []).filter(({ kind }) => kind === "circuit");
  return (
    <>
      <Title>Circuits</Title>
      <Loaded told={told}>
        {(circuits) => (
          <Table
            label="Open circuits"
            rows={circuits.flatMap((circuit) => circuit.seen.map((seen) => ({ circuit, seen })))}
            columns={COLUMNS}
            id={({ circuit, seen }) => `${circuit.endpoint} ${seen.node}`}
            empty="No node complains of any endpoint."
          />
        )}
      </Loaded>
      <h2>What has happened</h2>
      <ul class="plain">
        {past.slice(0, 50).map(({ at, subject, what, nodes }) => (
          <li key={`${at}${subject}${what}`}>
            <span class="quiet">{ago(at)}</span> <code>{subject}</code> {what} <span class="quiet">({nodes.join(", ")})</span>
          </li>
        ))}
      </ul>
      {past.length === 0 && <p class="quiet">No circuit has opened in the last hour.</p>}
    </>
  );
}

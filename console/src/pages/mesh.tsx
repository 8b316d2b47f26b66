// The mesh itself: this node, all members with their builds, who holds which documents, what the doctor finds.

import { useState } from "preact/hooks";
import { inWords, post } from "../api/client.ts";
import { feeds, useFeed } from "../api/feeds.ts";
import type { Actor, Check, Comparison } from "../api/types.ts";
import { cells, type Cell } from "../lib/cells.ts";
import { documentName } from "../lib/documents.ts";
import { duration } from "../lib/format.ts";
import { Facts, ForOperators, Loaded, Mark, NodeLink, Title, toneOfState, Trouble } from "../ui/bits.tsx";
import { Left } from "../ui/certificate.tsx";
import { Table, type Column } from "../ui/table.tsx";
import { NODE_COLUMNS } from "./nodes.tsx";

const ACTORS: Column<Actor>[] = [
  { name: "Part", by: ({ name }) => name, cell: ({ name }) => name },
  { name: "State", by: ({ state }) => state, cell: ({ state }) => <Mark tone={toneOfState(state)}>{state}</Mark> },
  { name: "Restarts", number: true, by: ({ restarts }) => restarts, cell: ({ restarts }) => restarts },
  { name: "Queue", number: true, by: ({ queue_depth }) => queue_depth, cell: (actor) => `${actor.queue_depth}/${actor.queue_capacity}` },
  { name: "Dropped", number: true, by: ({ dropped }) => dropped, cell: ({ dropped }) => dropped },
  { name: "Last error", long: true, by: ({ last_error }) => last_error, cell: ({ last_error }) => last_error ?? "" },
];

const CELLS: Column<Cell>[] = [
  { name: "Cell", by: ({ name }) => name, cell: ({ name }) => name },
  { name: "Nodes", number: true, by: ({ nodes }) => nodes, cell: ({ nodes }) => nodes },
  { name: "Alive", number: true, by: ({ alive }) => alive, cell: ({ alive, nodes }) => <Mark tone={alive === nodes ? "good" : alive > 0 ? "poor" : "bad"}>{alive}</Mark> },
  { name: "Relays", by: ({ relays }) => relays.length, cell: ({ relays }) => relays.map((name) => <NodeLink key={name} name={name} />) },
];

export function MeshPage() {
  const status = useFeed(feeds.status);
  const members = useFeed(feeds.members);
  return (
    <>
      <Title>Mesh</Title>
      <Loaded told={status}>
        {(status) => (
          <>
            <Facts
              of={[
                ["Mesh", <code>{status.mesh.slice(0, 16)}…</code>],
                ["Trust domain", status.trust_domain],
                ["This node", `${status.name}, ${status.role}, weft ${status.version}`],
                ["Up for", duration(status.uptime_seconds)],
                ["Ready", status.ready ? <Mark tone="good">yes</Mark> : <Mark tone="bad">{status.not_ready.join("; ")}</Mark>],
                ["Node certificate", <Left seconds={status.certificate_seconds_left} of="node" />],
                ["Issuing certificate", status.issuer_seconds_left === null ? "held by CA nodes" : `${duration(status.issuer_seconds_left)} left`],
                ["Documents", `${status.documents}, digest ${status.documents_digest.slice(0, 12)}`],
                ["View", `number ${status.view_epoch}`],
              ]}
            />
            <h2>Members</h2>
            <Loaded told={members}>
              {(members) => (
                <>
                  <Table label="Members" rows={members} columns={NODE_COLUMNS} id={({ id }) => id} />
                  <h2>Cells</h2>
                  <Table label="Cells" rows={cells(members)} columns={CELLS} id={({ name }) => name} filter={false} />
                </>
              )}
            </Loaded>
            <h2>Documents on each node</h2>
            <ForOperators what="compare nodes and run the doctor">
              <Digests />
              <Doctor />
            </ForOperators>
            <h2>Parts of this node</h2>
            <Table label="Parts of this node" rows={status.actors} columns={ACTORS} id={({ name }) => name} filter={false} />
          </>
        )}
      </Loaded>
    </>
  );
}

/** Asks when a button is pressed. */
function useQuestion<T>(path: string): { answer: T | null; trouble: string | null; busy: boolean; ask: () => void } {
  const [state, set] = useState<{ answer: T | null; trouble: string | null; busy: boolean }>({ answer: null, trouble: null, busy: false });
  const ask = () => {
    set((was) => ({ ...was, busy: true }));
    post<T>(path, null)
      .then((answer) => set({ answer, trouble: null, busy: false }))
      .catch((error) => set({ answer: null, trouble: inWords(error), busy: false }));
  };
  return { ...state, ask };
}

function Digests() {
  const { answer, trouble, busy, ask } = useQuestion<Comparison>("/api/v1/documents/compare");
  return (
    <section>
      <button type="button" disabled={busy} onClick={ask}>
        {busy ? "Asking all nodes…" : "Compare all nodes"}
      </button>
      {trouble && <Trouble>{trouble}</Trouble>}
      {answer && (
        <ul class="plain" role="status">
          {answer.nodes.map(({ node, digest, differences }) => (
            <li key={node}>
              <Mark tone={differences.length === 0 ? "good" : "bad"}>{node}</Mark> <code>{digest.slice(0, 12)}</code>{" "}
              {differences.map(({ document, what }) => `${documentName(document)}: ${what}`).join("; ")}
            </li>
          ))}
          {answer.silent.map((node) => (
            <li key={node}>
              <Mark tone="poor">{node}</Mark> does not answer
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

function Doctor() {
  const { answer, trouble, busy, ask } = useQuestion<{ checks: Check[] }>("/api/v1/doctor");
  return (
    <section>
      <button type="button" disabled={busy} onClick={ask}>
        {busy ? "Looking…" : "Run the doctor"}
      </button>
      {trouble && <Trouble>{trouble}</Trouble>}
      {answer && (
        <ul class="plain" role="status">
          {answer.checks.map(({ about, verdict, what, why, fix }) => (
            <li key={about}>
              <Mark tone={verdict === "ok" ? "good" : verdict === "warning" ? "poor" : "bad"}>{about}</Mark>: {what}
              {why && ` ${why}`} {fix && <code>{fix}</code>}
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

// The mesh's timeline of the last hour, as it goes on.

import { feeds, useFeed } from "../api/feeds.ts";
import type { MeshEvent } from "../api/types.ts";
import { dateTime } from "../lib/format.ts";
import { setQuery, type PageProps } from "../lib/router.ts";
import { Choice, Loaded, Title } from "../ui/bits.tsx";
import { Table, type Column } from "../ui/table.tsx";

const KINDS = ["member", "document", "circuit", "certificate", "denial", "drain", "actor", "tap"];

const COLUMNS: Column<MeshEvent>[] = [
  { name: "When", by: ({ at }) => at, cell: ({ at }) => <time dateTime={new Date(at).toISOString()}>{dateTime(at)}</time> },
  { name: "Kind", by: ({ kind }) => kind, cell: ({ kind }) => kind },
  { name: "What", by: ({ subject }) => subject, cell: ({ subject }) => <code>{subject}</code> },
  { name: "Happened", long: true, by: ({ what }) => what, cell: ({ what }) => what },
  { name: "Seen by", long: true, by: ({ nodes }) => nodes.join(", "), cell: ({ nodes }) => nodes.join(", ") },
];

export function EventsPage({ query }: PageProps) {
  const told = useFeed(feeds.events);
  const kind = query.get("kind") ?? "";
  return (
    <>
      <Title>Events</Title>
      <p class="filter">
        <Choice
          label="Kind"
          value={kind}
          of={[["", "all"], ...KINDS.map((kind) => [kind, kind] as [string, string])]}
          choose={(kind) => setQuery({ kind })}
        />
      </p>
      <Loaded told={told}>
        {(events) => (
          <Table
            label="Events"
            rows={events.filter((event) => !kind || event.kind === kind)}
            columns={COLUMNS}
            id={({ at, subject, what }) => `${at} ${subject} ${what}`}
            sorted="When"
            descending
            empty="Nothing of that kind has happened in the last hour."
          />
        )}
      </Loaded>
    </>
  );
}

// Nodes: all of them, and one.

import { feeds, useFeed } from "../api/feeds.ts";
import type { Endpoint, Member, Row, Workload } from "../api/types.ts";
import { ago, duration } from "../lib/format.ts";
import { workloadName } from "../lib/names.ts";
import { href, type PageProps } from "../lib/router.ts";
import { Facts, Loaded, Mark, NodeLink, Title, toneOfState, Trouble } from "../ui/bits.tsx";
import { Table, type Column } from "../ui/table.tsx";
import { Left } from "../ui/certificate.tsx";
import { Charts } from "../ui/charts.tsx";
import { PLACE_COLUMNS, useEndpoints, WORKLOAD_COLUMN } from "../ui/endpoints.tsx";
import { Log } from "../ui/log.tsx";
import { Tap } from "../ui/tap.tsx";

export function NodesPage({ path }: PageProps) {
  return path[0] ? <OneNode name={path[0]} /> : <AllNodes />;
}

export const NODE_COLUMNS: Column<Member>[] = [
  { name: "Node", by: ({ name }) => name, cell: ({ name, this_node }) => <><NodeLink name={name} />{this_node && " (this one)"}</> },
  { name: "State", by: ({ state }) => state, cell: ({ state }) => <Mark tone={toneOfState(state)}>{state}</Mark> },
  { name: "Since", number: true, by: ({ since_seconds }) => since_seconds, cell: ({ since_seconds }) => duration(since_seconds) },
  { name: "Role", by: ({ role }) => role, cell: ({ role }) => role },
  { name: "Cell", by: ({ cell }) => cell ?? "", cell: ({ cell, relay }) => `${cell ?? ""}${relay ? " (relay)" : ""}` },
  { name: "Locality", by: ({ locality }) => locality, cell: ({ locality }) => locality },
  { name: "Endpoints", number: true, by: ({ endpoints }) => endpoints, cell: ({ endpoints }) => endpoints },
  {
    name: "Certificate",
    by: ({ certificate_seconds_left }) => certificate_seconds_left ?? null,
    cell: ({ certificate_seconds_left }) => <Left seconds={certificate_seconds_left} of="node" />,
  },
  { name: "Version", by: ({ version }) => version, cell: ({ version }) => version },
  { name: "Address", by: ({ address }) => address, cell: ({ address }) => <code>{address}</code> },
];

function AllNodes() {
  return (
    <>
      <Title>Nodes</Title>
      <Loaded told={useFeed(feeds.members)}>
        {(members) => <Table label="Nodes" rows={members} columns={NODE_COLUMNS} id={({ id }) => id} />}
      </Loaded>
    </>
  );
}

const ENDPOINTS: Column<Endpoint>[] = [
  WORKLOAD_COLUMN,
  { name: "Version", by: ({ version }) => version, cell: ({ version }) => version },
  ...PLACE_COLUMNS,
];

function OneNode({ name }: { name: string }) {
  const members = useFeed(feeds.members);
  const endpoints = useEndpoints(`node=${name}`);
  const key = (workload: Workload) => `${workload.service.namespace}/${workloadName(workload)}`;
  const workloads = useFeed(feeds.workloads).data ?? [];
  const hosted = new Set(workloads.filter(({ node }) => node === name).map(key));
  const elsewhere = workloads.some((workload) => workload.node !== name && hosted.has(key(workload)));
  const of = (row: Row) => hosted.has(`${row.destination_namespace}/${row.destination_workload}`);
  const events = (useFeed(feeds.events).data ?? []).filter(({ subject, nodes }) => subject.split(/[:/ ]/)[0] === name || (nodes.length === 1 && nodes[0] === name));
  const member = members.data?.find((member) => member.name === name);
  return (
    <>
      <Title>{`Node ${name}`}</Title>
      <Loaded told={members}>
        {() =>
          member ? (
            <Facts
              of={[
                ["State", <Mark tone={toneOfState(member.state)}>{member.state}</Mark>],
                ["Since", duration(member.since_seconds)],
                ["Role", member.role],
                ["Address", <code>{member.address}</code>],
                ["Cell", `${member.cell || "default"}${member.relay ? ", of which it is a relay" : ""}`],
                ["Locality", member.locality || "not given"],
                ["Labels", Object.entries(member.labels).map(([key, value]) => `${key}=${value}`).join(", ") || "none"],
                ["Certificate", <Left seconds={member.certificate_seconds_left} of="node" />],
                ["weft", member.version],
                ["Id", <code>{member.id}</code>],
              ]}
            />
          ) : (
            <p>
              The mesh knows no node {name}. <a href={href(["nodes"])}>All nodes</a>
            </p>
          )
        }
      </Loaded>
      {hosted.size > 0 && <Charts of={of} about={[...hosted].join(" ")} />}
      {elsewhere && <p class="quiet">The charts are of its workloads, some of which run on other nodes too.</p>}
      <h2>Endpoints</h2>
      {endpoints.trouble && <Trouble>{endpoints.trouble}</Trouble>}
      <Table
        label="Endpoints"
        rows={endpoints.data}
        columns={ENDPOINTS}
        id={({ identities, workload, port }) => `${identities[0]}/${workload}:${port}`}
        filter={endpoints.data.length > 8}
        empty="It hosts none."
      />
      <h2>Events</h2>
      <ul class="plain">
        {events.slice(0, 20).map(({ at, subject, what }) => (
          <li key={`${at}${subject}${what}`}>
            <span class="quiet">{ago(at)}</span> {subject}: {what}
          </li>
        ))}
      </ul>
      {events.length === 0 && <p class="quiet">None in the last hour.</p>}
      <Log of={{ node: name }} />
      <Tap of={`node/${name}`} />
    </>
  );
}

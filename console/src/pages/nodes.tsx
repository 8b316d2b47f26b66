// Nodes: all of them, and one.

import { feeds, useFeed } from "../api/feeds.ts";
import type { Member } from "../api/types.ts";
import { ago, duration } from "../lib/format.ts";
import { workloadName } from "../lib/names.ts";
import { href, type PageProps } from "../lib/router.ts";
import { Facts, Loaded, Mark, NodeLink, ServiceLink, Title, toneOfState } from "../ui/bits.tsx";
import { Table, type Column } from "../ui/table.tsx";
import { known, Left, leftOf } from "../ui/certificate.tsx";

export function NodesPage({ path }: PageProps) {
  return path[0] ? <OneNode name={path[0]} /> : <AllNodes />;
}

export const NODE_COLUMNS: Column<Member>[] = [
  { name: "Node", by: ({ name }) => name, cell: ({ name, this_node }) => <><NodeLink name={name} />{this_node && " (this one)"}</> },
  { name: "State", by: ({ state }) => state, cell: ({ state }) => <Mark tone={toneOfState(state)}>{state}</Mark> },
  { name: "Since", number: true, by: ({ since_seconds }) => since_seconds, cell: ({ since_seconds }) => duration(since_seconds) },
  { name: "Role", by: ({ role }) => role, cell: ({ role }) => role },
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

function OneNode({ name }: { name: string }) {
  const members = useFeed(feeds.members);
  const certificates = known(useFeed(feeds.certificates).data);
  const workloads = (useFeed(feeds.workloads).data ?? []).filter(({ node }) => node === name);
  const events = (useFeed(feeds.events).data ?? []).filter(({ subject, nodes }) => subject.split(/[:/ ]/)[0] === name || (nodes.length === 1 && nodes[0] === name));
  const circuits = (useFeed(feeds.circuits).data ?? []).filter(({ endpoint }) => endpoint.startsWith(`${name}/`));
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
      <h2>Workloads</h2>
      <ul class="plain">
        {workloads.map((workload) => (
          <li key={`${workloadName(workload)}${workload.port}`}>
            <a href={href(["workloads", workload.service.namespace, workloadName(workload)])}>{workloadName(workload)}</a> of{" "}
            <ServiceLink {...workload.service} />, port {workload.port}, certificate:{" "}
            <Left seconds={leftOf(certificates, workload.node, workload.service.namespace, workload.account)} of="workload" />
          </li>
        ))}
      </ul>
      {workloads.length === 0 && <p class="quiet">It hosts none.</p>}
      {circuits.length > 0 && (
        <>
          <h2>Circuits</h2>
          <ul class="plain">
            {circuits.map(({ endpoint }) => (
              <li key={endpoint}>
                <a href={href(["circuits"])}>{endpoint}</a>
              </li>
            ))}
          </ul>
        </>
      )}
      <h2>Events</h2>
      <ul class="plain">
        {events.slice(0, 20).map(({ at, subject, what }) => (
          <li key={`${at}${subject}${what}`}>
            <span class="quiet">{ago(at)}</span> {subject}: {what}
          </li>
        ))}
      </ul>
      {events.length === 0 && <p class="quiet">None in the last hour.</p>}
    </>
  );
}

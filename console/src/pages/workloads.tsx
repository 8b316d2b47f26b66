// Workloads: all of them, and one.

import { feeds, useFeed } from "../api/feeds.ts";
import type { Rates, Row, Workload } from "../api/types.ts";
import { milliseconds, percent, rate } from "../lib/format.ts";
import { health, none, quantile, success, sumOf } from "../lib/rates.ts";
import { href, type PageProps } from "../lib/router.ts";
import { Facts, Loaded, Mark, NodeLink, ServiceLink, Title } from "../ui/bits.tsx";
import { Calls } from "../ui/calls.tsx";
import { Charts } from "../ui/charts.tsx";
import { Table, type Column } from "../ui/table.tsx";

export function WorkloadsPage({ path }: PageProps) {
  const [namespace, name] = path;
  return namespace && name ? <OneWorkload namespace={namespace} name={name} /> : <AllWorkloads />;
}

/** As nodes name workloads that nobody has named. */
export function workloadName({ service, labels }: Workload): string {
  return labels.version ? `${service.name}-${labels.version}` : service.name;
}

interface Line {
  workload: Workload;
  name: string;
  rates: Rates;
}

const COLUMNS: Column<Line>[] = [
  {
    name: "Workload",
    by: ({ name }) => name,
    cell: ({ workload, name }) => <a href={href(["workloads", workload.service.namespace, name])}>{name}</a>,
  },
  { name: "Namespace", by: ({ workload }) => workload.service.namespace, cell: ({ workload }) => workload.service.namespace },
  { name: "Service", by: ({ workload }) => workload.service.name, cell: ({ workload }) => <ServiceLink {...workload.service} /> },
  { name: "Node", by: ({ workload }) => workload.node, cell: ({ workload }) => <NodeLink name={workload.node} /> },
  { name: "Port", number: true, by: ({ workload }) => workload.port, cell: ({ workload }) => `${workload.port}/${workload.protocol}` },
  { name: "Requests/s", number: true, by: ({ rates }) => rates.requests + rates.opened, cell: ({ rates }) => rate(rates.requests + rates.opened) },
  { name: "Success", number: true, by: ({ rates }) => success(rates), cell: ({ rates }) => <Mark tone={health(rates)}>{percent(success(rates))}</Mark> },
  { name: "p95", number: true, by: ({ rates }) => quantile(rates, 0.95), cell: ({ rates }) => milliseconds(quantile(rates, 0.95)) },
];

function AllWorkloads() {
  const told = useFeed(feeds.workloads);
  const rows = useFeed(feeds.traffic).data?.rows ?? [];
  const lines = (workloads: Workload[]) =>
    workloads.map((workload): Line => {
      const name = workloadName(workload);
      const own = rows.filter((row) => row.destination_workload === name && row.destination_namespace === workload.service.namespace);
      return { workload, name, rates: own.length ? sumOf(own) : none() };
    });
  return (
    <>
      <Title>Workloads</Title>
      <Loaded told={told}>
        {(data) => (
          <Table
            label="Workloads"
            rows={lines(data)}
            columns={COLUMNS}
            id={({ workload, name }) => `${workload.node}/${workload.service.namespace}/${name}:${workload.port}`}
            empty="No node announces a workload yet."
          />
        )}
      </Loaded>
    </>
  );
}

function OneWorkload({ namespace, name }: { namespace: string; name: string }) {
  const found = (useFeed(feeds.workloads).data ?? []).filter(
    (workload) => workload.service.namespace === namespace && workloadName(workload) === name,
  );
  const rows = useFeed(feeds.traffic).data?.rows ?? [];
  const of = (row: Row) => row.destination_workload === name && row.destination_namespace === namespace;
  const circuits = (useFeed(feeds.circuits).data ?? []).filter(({ endpoint }) => endpoint.includes(`/${namespace}/${name}:`));
  const first = found[0];
  return (
    <>
      <Title>{`${namespace}/${name}`}</Title>
      {!first && <p class="quiet">No node announces it now.</p>}
      {first && (
        <Facts
          of={[
            ["Service", <ServiceLink {...first.service} />],
            ["Nodes", [...new Set(found.map(({ node }) => node))].map((node) => <><NodeLink name={node} /> </>)],
            ["Labels", Object.entries(first.labels).map(([key, value]) => <code key={key}>{`${key}=${value} `}</code>)],
            [
              "Circuit",
              circuits.length === 0 ? (
                <Mark tone="good">closed</Mark>
              ) : (
                <a href={href(["circuits"])}>{circuits.flatMap(({ seen }) => seen.map(({ node, state }) => `${state} at ${node}`)).join(", ")}</a>
              ),
            ],
          ]}
        />
      )}
      <Charts of={of} about={`${namespace}/${name}`} />
      <h2>Callers</h2>
      <Calls label="Callers" rows={rows.filter(of)} />
      <h2>What it calls</h2>
      <Calls label="What it calls" rows={rows.filter((row) => row.source_workload === name && row.source_namespace === namespace)} />
    </>
  );
}

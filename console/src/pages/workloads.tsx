// Workloads: all of them, and one.

import { feeds, useFeed } from "../api/feeds.ts";
import type { Endpoint, Rates, Row, Workload } from "../api/types.ts";
import { DASH, milliseconds, percent, rate } from "../lib/format.ts";
import { workloadName } from "../lib/names.ts";
import { health, none, quantile, success, sumOf } from "../lib/rates.ts";
import { href, type PageProps } from "../lib/router.ts";
import { Facts, Loaded, Mark, NodeLink, ServiceLink, Title, Trouble } from "../ui/bits.tsx";
import { Calls } from "../ui/calls.tsx";
import { known, Left, leftOf } from "../ui/certificate.tsx";
import { Charts } from "../ui/charts.tsx";
import { PLACE_COLUMNS, useEndpoints } from "../ui/endpoints.tsx";
import { Log } from "../ui/log.tsx";
import { Tap } from "../ui/tap.tsx";
import { Table, type Column } from "../ui/table.tsx";

export function WorkloadsPage({ path }: PageProps) {
  const [namespace, name] = path;
  return namespace && name ? <OneWorkload namespace={namespace} name={name} /> : <AllWorkloads />;
}

interface Line {
  workload: Workload;
  name: string;
  rates: Rates;
  /** Seconds that its certificate is still good. */
  left: number | null;
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
  { name: "Certificate", by: ({ left }) => left, cell: ({ left }) => <Left seconds={left} of="workload" /> },
];

function AllWorkloads() {
  const told = useFeed(feeds.workloads);
  const rows = useFeed(feeds.traffic).data?.rows ?? [];
  const certificates = known(useFeed(feeds.certificates).data);
  const lines = (workloads: Workload[]) =>
    workloads.map((workload): Line => {
      const name = workloadName(workload);
      const own = rows.filter((row) => row.destination_workload === name && row.destination_namespace === workload.service.namespace);
      const left = leftOf(certificates, workload.node, workload.service.namespace, workload.account);
      return { workload, name, rates: own.length ? sumOf(own) : none(), left };
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

const ENDPOINTS: Column<Endpoint>[] = [
  { name: "Node", by: ({ node }) => node, cell: ({ node }) => <NodeLink name={node} /> },
  ...PLACE_COLUMNS,
];

function OneWorkload({ namespace, name }: { namespace: string; name: string }) {
  const found = (useFeed(feeds.workloads).data ?? []).filter(
    (workload) => workload.service.namespace === namespace && workloadName(workload) === name,
  );
  const rows = useFeed(feeds.traffic).data?.rows ?? [];
  const of = (row: Row) => row.destination_workload === name && row.destination_namespace === namespace;
  const circuits = (useFeed(feeds.circuits).data ?? []).filter(({ endpoint }) => endpoint.includes(`/${namespace}/${name}:`));
  const first = found[0];
  const endpoints = useEndpoints(first ? `service=${first.service.name}.${first.service.namespace}` : null);
  const own = endpoints.data.filter(({ workload }) => workload === name);
  return (
    <>
      <Title
        beside={
          first && (
            <p class="links">
              <a href={href(["graph"], { ns: namespace, box: `service:${namespace}/${first.service.name}` })}>Graph</a>
              <a href={href(["traces"], { service: `${first.service.name}.${namespace}` })}>Traces</a>
            </p>
          )
        }
      >
        {`${namespace}/${name}`}
      </Title>
      {!first && <p class="quiet">No node announces it now.</p>}
      {first && (
        <Facts
          of={[
            ["Service", <ServiceLink {...first.service} />],
            ["Nodes", [...new Set(found.map(({ node }) => node))].map((node) => <><NodeLink name={node} /> </>)],
            ["Service account", first.account ? `${namespace}/${first.account}` : DASH],
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
      <h2>Endpoints</h2>
      {endpoints.trouble && <Trouble>{endpoints.trouble}</Trouble>}
      <Table label="Endpoints" rows={own} columns={ENDPOINTS} id={({ node, port }) => `${node}:${port}`} filter={own.length > 8} />
      <h2>Callers</h2>
      <Calls label="Callers" rows={rows.filter(of)} />
      <h2>What it calls</h2>
      <Calls label="What it calls" rows={rows.filter((row) => row.source_workload === name && row.source_namespace === namespace)} />
      <Log of={{ namespace, workload: name }} />
      <Tap of={`workload/${name}.${namespace}`} />
    </>
  );
}

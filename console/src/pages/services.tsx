// Services: all of them, and one.

import { feeds, useFeed } from "../api/feeds.ts";
import type { Endpoint, Rates, Row, Service } from "../api/types.ts";
import { documentHref, documentName, documentsOf, verdict } from "../lib/documents.ts";
import { milliseconds, percent, rate } from "../lib/format.ts";
import { health, none, quantile, success, sumOf } from "../lib/rates.ts";
import { href, type PageProps } from "../lib/router.ts";
import { Facts, Loaded, Mark, NodeLink, ServiceLink, Title, toneOfState, Trouble } from "../ui/bits.tsx";
import { Calls } from "../ui/calls.tsx";
import { Charts } from "../ui/charts.tsx";
import { PLACE_COLUMNS, useEndpoints, WORKLOAD_COLUMN } from "../ui/endpoints.tsx";
import { Log } from "../ui/log.tsx";
import { Tap } from "../ui/tap.tsx";
import { Table, type Column } from "../ui/table.tsx";

export function ServicesPage({ path }: PageProps) {
  const [namespace, name] = path;
  return namespace && name ? <OneService namespace={namespace} name={name} key={path.join("/")} /> : <AllServices />;
}

interface Line extends Service {
  rates: Rates;
}

const COLUMNS: Column<Line>[] = [
  { name: "Service", by: ({ name }) => name, cell: (service) => <ServiceLink {...service} /> },
  { name: "Namespace", by: ({ namespace }) => namespace, cell: ({ namespace }) => namespace },
  {
    name: "Health",
    by: ({ healthy, endpoints }) => (endpoints ? healthy / endpoints : -1),
    cell: ({ healthy, endpoints }) => (
      <Mark tone={endpoints === 0 ? "idle" : healthy === 0 ? "bad" : healthy < endpoints ? "poor" : "good"}>
        {healthy}/{endpoints}
      </Mark>
    ),
  },
  { name: "Versions", by: ({ versions }) => versions.join(", "), cell: ({ versions }) => versions.join(", ") },
  { name: "Requests/s", number: true, by: ({ rates }) => rates.requests + rates.opened, cell: ({ rates }) => rate(rates.requests + rates.opened) },
  { name: "Success", number: true, by: ({ rates }) => success(rates), cell: ({ rates }) => <Mark tone={health(rates)}>{percent(success(rates))}</Mark> },
  { name: "p95", number: true, by: ({ rates }) => quantile(rates, 0.95), cell: ({ rates }) => milliseconds(quantile(rates, 0.95)) },
  {
    name: "Ports",
    by: ({ ports }) => ports.map(({ port }) => port).join(", "),
    cell: ({ ports }) => ports.map(({ port, protocol }) => `${port}/${protocol}`).join(", "),
  },
];

function AllServices() {
  const services = useFeed(feeds.services);
  const rows = useFeed(feeds.traffic).data?.rows ?? [];
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const key = `${row.service_namespace}/${row.service}`;
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  const lines = (of: Service[]): Line[] =>
    of.map((service) => {
      const own = groups.get(`${service.namespace}/${service.name}`) ?? groups.get(`unknown/${service.host}`);
      return { ...service, rates: own ? sumOf(own) : none() };
    });
  return (
    <>
      <Title>Services</Title>
      <Loaded told={services}>
        {(data) => (
          <Table
            label="Services"
            rows={lines(data)}
            columns={COLUMNS}
            id={({ host }) => host}
            empty="No service yet: a Service document, or `services` in node.yaml, makes one."
          />
        )}
      </Loaded>
    </>
  );
}

const ENDPOINTS: Column<Endpoint>[] = [
  WORKLOAD_COLUMN,
  { name: "Version", by: ({ version }) => version, cell: ({ version }) => version },
  { name: "Node", by: ({ node }) => node, cell: ({ node }) => <NodeLink name={node} /> },
  ...PLACE_COLUMNS,
];

function OneService({ namespace, name }: { namespace: string; name: string }) {
  const service = useFeed(feeds.services).data?.find((one) => one.namespace === namespace && one.name === name);
  const rows = useFeed(feeds.traffic).data?.rows ?? [];
  const documents = documentsOf(useFeed(feeds.documents).data ?? [], namespace, name);
  const endpoints = useEndpoints(`service=${service && name.includes(".") ? service.host : `${name}.${namespace}`}`);
  const of = (row: Row) => row.service === name && (row.service_namespace === namespace || row.service_namespace === "unknown");
  const own = rows.filter(of);
  const workloads = new Set(own.map((row) => `${row.destination_namespace}/${row.destination_workload}`));
  const calls = rows.filter((row) => !of(row) && workloads.has(`${row.source_namespace}/${row.source_workload}`));
  const sum = sumOf(own);
  return (
    <>
      <Title
        beside={
          <p class="links">
            <a href={href(["graph"], { ns: namespace, box: `service:${namespace}/${name}` })}>Graph</a>
            <a href={href(["traces"], { service: `${name}.${namespace}` })}>Traces</a>
            <a href={href(["explain"], { to: `${name}.${namespace}` })}>Explain</a>
          </p>
        }
      >
        {`${namespace}/${name}`}
      </Title>
      <Facts
        of={[
          ["Host", <code>{service?.host ?? "…"}</code>],
          ["Ports", service?.ports.map(({ port, protocol }) => `${port}/${protocol}`).join(", ")],
          ["Requests", `${rate(sum.requests + sum.opened)}/s`],
          ["Success", <Mark tone={health(sum)}>{percent(success(sum))}</Mark>],
          ["p95", milliseconds(quantile(sum, 0.95))],
        ]}
      />
      <Charts of={of} about={`${namespace}/${name}`} />
      <h2>Endpoints</h2>
      {endpoints.trouble && <Trouble>{endpoints.trouble}</Trouble>}
      <Table label="Endpoints" rows={endpoints.data} columns={ENDPOINTS} id={({ workload, node, port }) => `${node}/${workload}:${port}`} filter={endpoints.data.length > 8} />
      <h2>Callers</h2>
      <Calls label="Callers" rows={own} />
      <h2>What it calls</h2>
      <Calls label="What it calls" rows={calls} />
      <h2>Routes and policies</h2>
      <ul class="plain">
        {documents.map((document) => {
          const { word, why } = verdict(document);
          return (
            <li key={documentName(document.key)}>
              <a href={documentHref(document.key)}>{documentName(document.key)}</a> <Mark tone={toneOfState(word)}>{word}</Mark> {why}
            </li>
          );
        })}
      </ul>
      {documents.length === 0 && <p class="quiet">No document names it.</p>}
      <Log of={{ namespace, service: name }} />
      <Tap of={`svc/${service && name.includes(".") ? name : `${name}.${namespace}`}`} />
    </>
  );
}

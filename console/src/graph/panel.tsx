// What is told of a box or an edge that was chosen.

import { feeds, useFeed } from "../api/feeds.ts";
import { frames } from "../api/history.ts";
import type { MeshDocument, Rates, Row } from "../api/types.ts";
import { bytes, milliseconds, percent, rate, share } from "../lib/format.ts";
import { bytesPerSecond, health, quantile, success, sumOf } from "../lib/rates.ts";
import { documentHref, documentName, documentsOf } from "../lib/documents.ts";
import { href } from "../lib/router.ts";
import { useValue } from "../lib/value.ts";
import { Facts, Mark } from "../ui/bits.tsx";
import { Spark } from "../ui/chart.tsx";
import type { Box, Edge, Graph } from "./model.ts";
import type { Target } from "./scene.ts";

interface Props {
  graph: Graph;
  chosen: Target;
  choose: (target: Target | null) => void;
}

export function Panel({ graph, chosen, choose }: Props) {
  const box = chosen.kind === "box" ? graph.boxes.get(chosen.id) : undefined;
  const edge = chosen.kind === "edge" ? graph.edges.get(chosen.id) : undefined;
  return (
    <aside class="panel" aria-label="Details">
      <button type="button" class="close" aria-label="Close the details" onClick={() => choose(null)}>
        ✕
      </button>
      {box && <OfBox box={box} graph={graph} choose={choose} />}
      {edge && <OfEdge edge={edge} choose={choose} />}
      {!box && !edge && <p class="quiet">It has had no traffic for a while.</p>}
    </aside>
  );
}

const TONES = { good: "fine", poor: "some fail", bad: "many fail", idle: "no traffic" } as const;

export function Numbers({ rates }: { rates: Rates }) {
  const tone = health(rates);
  const isHttp = rates.requests > 0 || rates.opened + rates.open === 0;
  return (
    <Facts
      of={[
        ["Health", <Mark tone={tone}>{TONES[tone]}</Mark>],
        ["Success", percent(success(rates))],
        ...(isHttp
          ? ([
              ["Requests", `${rate(rates.requests)}/s`],
              ["p50", milliseconds(quantile(rates, 0.5))],
              ["p95", milliseconds(quantile(rates, 0.95))],
              ["p99", milliseconds(quantile(rates, 0.99))],
              ["Retries", `${rate(rates.retries)}/s`],
            ] as [string, string][])
          : ([
              ["Connections", `${rate(rates.opened)}/s, ${rates.open} open`],
            ] as [string, string][])),
        ["Bytes", `${bytes(bytesPerSecond(rates))}/s`],
      ]}
    />
  );
}

function Past({ of, what }: { of: (row: Row) => boolean; what: string }) {
  const past = useValue(frames);
  if (past.length < 2) return null;
  const values = past.map(({ rows }) => {
    const rates = sumOf(rows.filter(of));
    return rates.requests + rates.opened;
  });
  return <Spark values={values} label={`${what} over the last minutes, now ${rate(values.at(-1) ?? 0)} per second`} />;
}

function OfBox({ box, graph, choose }: { box: Box; graph: Graph; choose: (target: Target) => void }) {
  const documents = useFeed(feeds.documents).data ?? [];
  const circuits = useFeed(feeds.circuits).data ?? [];
  const isService = box.id.startsWith("service:");
  const edges = [...graph.edges.values()];
  const inbound = edges.filter(({ to }) => to === box.id);
  const outbound = edges.filter(({ from }) => from === box.id);
  const of = (row: Row) => row.service === box.name && row.service_namespace === box.namespace;
  const open = circuits.filter(({ endpoint }) =>
    box.slots.some((slot) => endpoint.includes(`/${slot.id}:`)) || endpoint.includes(`/${box.namespace}/${box.name}:`),
  );
  return (
    <>
      <h2>{box.name}</h2>
      <p class="quiet">
        {{ service: "service", workload: "workload", gateway: "gateway", outside: "outside of the mesh", unknown: "callers that are not known" }[box.kind]}
        {box.namespace && ` in ${box.namespace}`}
      </p>
      {isService && <Past of={of} what="Requests" />}
      <Numbers rates={box.inbound.requests + box.inbound.opened + box.inbound.open > 0 ? box.inbound : box.outbound} />
      {isService && (
        <p class="links">
          <a href={href(["services", box.namespace, box.name])}>Details</a>
          <a href={href(["traces"], { service: `${box.name}.${box.namespace}` })}>Traces</a>
          <a href={href(["explain"], { to: `${box.name}.${box.namespace}` })}>Explain</a>
        </p>
      )}
      {open.length > 0 && (
        <>
          <h3>Circuits</h3>
          <ul>
            {open.map(({ endpoint, seen }) => (
              <li key={endpoint}>
                <a href={href(["circuits"])}>{endpoint}</a>: {seen.map(({ node, state, cause }) => `${state} at ${node} (${cause})`).join(", ")}
              </li>
            ))}
          </ul>
        </>
      )}
      <Edges title="Called by" edges={inbound} name={(edge) => (edge.toSlot ? `${edge.fromName} → ${edge.toName.split("/").pop()}` : edge.fromName)} choose={choose} />
      <Edges title="Calls" edges={outbound} name={(edge) => edge.toName} choose={choose} />
      {isService && <Documents of={documentsOf(documents, box.namespace, box.name)} />}
    </>
  );
}

function Edges(props: { title: string; edges: Edge[]; name: (edge: Edge) => string; choose: (target: Target) => void }) {
  if (props.edges.length === 0) return null;
  return (
    <>
      <h3>{props.title}</h3>
      <ul class="edges">
        {props.edges.map((edge) => (
          <li key={edge.id}>
            <button type="button" class="link" onClick={() => props.choose({ kind: "edge", id: edge.id })}>
              {props.name(edge)}
            </button>{" "}
            <span class="quiet">
              {rate(edge.rates.requests + edge.rates.opened)}/s{edge.share !== null && `, ${share(edge.share)}`}, {percent(success(edge.rates))}
            </span>
          </li>
        ))}
      </ul>
    </>
  );
}

function Documents({ of }: { of: MeshDocument[] }) {
  if (of.length === 0) return null;
  return (
    <>
      <h3>Routes and policies</h3>
      <ul>
        {of.map(({ key }) => (
          <li key={documentName(key)}>
            <a href={documentHref(key)}>{documentName(key)}</a>
          </li>
        ))}
      </ul>
    </>
  );
}

function OfEdge({ edge, choose }: { edge: Edge; choose: (target: Target) => void }) {
  const documents = useFeed(feeds.documents).data ?? [];
  const names = (id: string) => id.replace(/^[a-z]+:/, "");
  const [namespace = "", service = ""] = names(edge.to).split("/");
  const [callerNamespace = "", caller = ""] = names(edge.from).split("/");
  const isEnd = (slot: string | null, namespaceOf: string, workload: string) => slot === null || slot === `${namespaceOf}/${workload}`;
  const of = (row: Row) =>
    row.service === service &&
    row.protocol === edge.protocol &&
    isEnd(edge.fromSlot, row.source_namespace, row.source_workload) &&
    isEnd(edge.toSlot, row.destination_namespace, row.destination_workload);
  return (
    <>
      <h2>
        {edge.fromName} <span aria-label="to">→</span> {edge.toName}
      </h2>
      <p class="quiet">
        {edge.protocol}
        {edge.mtls !== null && (edge.mtls ? ", mutual TLS" : ", in the clear")}
        {edge.circuit && `, circuit ${edge.circuit}`}
      </p>
      <Past of={of} what="Requests" />
      <Numbers rates={edge.rates} />
      {edge.share !== null && (
        <p>
          {share(edge.share)} of what {edge.fromName} sends to {service}
          {edge.weights.length > 0 && `; documents set ${edge.weights.map(share).join(" or ")}`}.
        </p>
      )}
      <p class="links">
        <button type="button" class="link" onClick={() => choose({ kind: "box", id: edge.to })}>
          {service || "Destination"}
        </button>
        {service && <a href={href(["traces"], { service: `${service}.${namespace}` })}>Traces</a>}
        {service && caller && (
          <a href={href(["explain"], { from: `${caller}.${callerNamespace}`, to: `${service}.${namespace}` })}>Explain</a>
        )}
      </p>
      <Documents of={documentsOf(documents, namespace, service)} />
    </>
  );
}

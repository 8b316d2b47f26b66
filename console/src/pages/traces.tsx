// Traces: search, and the waterfall of one.

import { useEffect, useState } from "preact/hooks";
import { inWords, post } from "../api/client.ts";
import { feeds, useFeed } from "../api/feeds.ts";
import type { Span } from "../api/types.ts";
import { dateTime, milliseconds, plural } from "../lib/format.ts";
import { go, href, setQuery, type PageProps } from "../lib/router.ts";
import { tracesOf, treeOf, type Trace } from "../lib/spans.ts";
import { Check, ForOperators, Mark, NodeLink, Title, Trouble } from "../ui/bits.tsx";
import { Table, type Column } from "../ui/table.tsx";

interface Answer {
  spans: Span[];
  silent: string[];
}

export function TracesPage({ path, query }: PageProps) {
  return (
    <>
      <Title>{path[0] ? "Trace" : "Traces"}</Title>
      <ForOperators what="see traces">
        {path[0] ? <OneTrace id={path[0]} /> : <Search query={query} />}
      </ForOperators>
    </>
  );
}

const COLUMNS: Column<Trace>[] = [
  { name: "When", by: ({ start }) => start, cell: ({ start }) => dateTime(start / 1_000) },
  {
    name: "Request",
    by: ({ first }) => `${first.method} ${first.path} ${first.name}`,
    cell: ({ id, first }) => (
      <a href={href(["traces", id])}>
        {first.method} {first.path}
      </a>
    ),
  },
  { name: "Of", by: ({ first }) => first.service, cell: ({ first }) => first.service ?? first.peer },
  { name: "Took", number: true, by: ({ length }) => length, cell: ({ length }) => milliseconds(length / 1_000) },
  { name: "Result", by: ({ error }) => (error ? "failed" : "fine"), cell: ({ error }) => <Mark tone={error ? "bad" : "good"}>{error ? "failed" : "fine"}</Mark> },
  { name: "Spans", number: true, by: ({ spans }) => spans.length, cell: ({ spans }) => spans.length },
  { name: "Services", by: ({ services }) => services.join(", "), cell: ({ services }) => services.join(", ") },
];

function Search({ query }: { query: URLSearchParams }) {
  const services = useFeed(feeds.services).data ?? [];
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const [turn, setTurn] = useState(0);
  const [service, least, failed] = [query.get("service") ?? "", query.get("min") ?? "", query.get("failed") === "1"];
  useEffect(() => {
    const end = new AbortController();
    const timer = setTimeout(async () => {
      const question = { ask: "search", service: service || null, error: failed, min_us: Math.round(Number(least || 0) * 1_000) };
      try {
        setAnswer(await post<Answer>("/api/v1/traces", question, end.signal));
        setTrouble(null);
      } catch (error) {
        if (!end.signal.aborted) setTrouble(inWords(error));
      }
    }, 200);
    return () => {
      clearTimeout(timer);
      end.abort();
    };
  }, [service, least, failed, turn]);
  const open = (event: SubmitEvent) => {
    event.preventDefault();
    const id = new FormData(event.currentTarget as HTMLFormElement).get("id");
    if (typeof id === "string" && id.trim()) go(["traces", id.trim()]);
  };
  return (
    <>
      <div class="filter">
        <label class="field">
          <span>Service</span>
          <input list="services" type="search" value={service} onInput={(event) => setQuery({ service: event.currentTarget.value })} />
          <datalist id="services">
            {services.map(({ name, namespace }) => (
              <option key={`${name}.${namespace}`} value={`${name}.${namespace}`} />
            ))}
          </datalist>
        </label>
        <label class="field">
          <span>At least (ms)</span>
          <input type="number" min="0" value={least} onInput={(event) => setQuery({ min: event.currentTarget.value })} />
        </label>
        <Check label="Failed only" value={failed} set={(failed) => setQuery({ failed: failed ? "1" : null })} />
        <button type="button" onClick={() => setTurn(turn + 1)}>
          Search again
        </button>
        <form onSubmit={open}>
          <label class="field">
            <span>Trace or request id</span>
            <input name="id" />
          </label>
          <button type="submit">Open</button>
        </form>
      </div>
      {trouble && <Trouble>{trouble}</Trouble>}
      {answer && answer.silent.length > 0 && <p class="quiet">No answer from {answer.silent.join(", ")}.</p>}
      {answer && (
        <Table
          label="Traces"
          rows={tracesOf(answer.spans)}
          columns={COLUMNS}
          id={({ id }) => id}
          sorted="When"
          descending
          empty="No node remembers such a request. Nodes keep what was sampled, slow or failed."
        />
      )}
    </>
  );
}

function OneTrace({ id }: { id: string }) {
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const [chosen, setChosen] = useState<string | null>(null);
  useEffect(() => {
    const end = new AbortController();
    setAnswer(null);
    post<Answer>("/api/v1/traces", { ask: "trace", id }, end.signal)
      .then(setAnswer)
      .catch((error) => end.signal.aborted || setTrouble(inWords(error)));
    return () => end.abort();
  }, [id]);
  if (trouble) return <Trouble>{trouble}</Trouble>;
  if (!answer) return <p class="quiet">Asking all nodes…</p>;
  const trace = tracesOf(answer.spans)[0];
  if (!trace) {
    return (
      <p>
        No node knows {id}: nodes keep the latest few thousand spans that were sampled, slow or failed.{" "}
        <a href={href(["traces"])}>All traces</a>
      </p>
    );
  }
  const rows = treeOf(trace.spans);
  const length = Math.max(1, trace.length);
  const span = trace.spans.find(({ span }) => span === chosen);
  return (
    <>
      <p>
        <code>{trace.id}</code>: {plural(trace.spans.length, "span")} of {plural(trace.services.length, "service")},{" "}
        {milliseconds(trace.length / 1_000)}, {dateTime(trace.start / 1_000)}
      </p>
      <ol class="waterfall" aria-label="Spans, in order">
        {rows.map(({ span, depth }) => {
          const left = ((span.start_us - trace.start) / length) * 100;
          const width = Math.max(0.4, (span.duration_us / length) * 100);
          return (
            <li key={`${span.span}${span.kind}${span.node}`}>
              <button
                type="button"
                class={span.error ? "bad" : span.kind}
                aria-expanded={chosen === span.span}
                onClick={() => setChosen(chosen === span.span ? null : span.span)}
              >
                <span class="name" style={{ paddingLeft: `${Math.min(depth, 12) * 12}px` }}>
                  {span.service ?? span.peer ?? "unknown"} <small>{span.kind}</small>
                  <span class="unseen">
                    {span.method} {span.path}, {span.status || "no response"}
                    {span.error && ", failed"}
                  </span>
                </span>
                <span class="lane">
                  <span class="bar" style={{ left: `${left}%`, width: `${Math.min(width, 100 - left)}%` }} />
                </span>
                <span class="took">{milliseconds(span.duration_us / 1_000)}</span>
              </button>
              {chosen === span.span && <SpanFacts span={span} />}
            </li>
          );
        })}
      </ol>
      {!span && <p class="quiet">Choose a span for more.</p>}
    </>
  );
}

function SpanFacts({ span }: { span: Span }) {
  const [name = "", namespace = ""] = (span.service ?? "").split(".");
  return (
    <dl class="facts">
      {(
        [
          ["Request", `${span.method} ${span.path}`],
          ["Route", span.name],
          ["Status", `${span.status}${span.flags && span.flags !== "-" ? ` (${span.flags})` : ""}`],
          ["Workload", span.workload ?? "unknown"],
          ["Other side", span.peer ?? "unknown"],
          ["Node", <NodeLink name={span.node} />],
          ["Request id", span.request_id ?? "none"],
          ["Graph", name ? <a href={href(["graph"], { box: `service:${namespace}/${name}` })}>{name}</a> : "–"],
        ] as const
      ).map(([word, value]) => (
        <div key={word}>
          <dt>{word}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

// The graph: who calls whom, how fast, what fails.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { feeds, longMinutes, trafficWindow, useFeed } from "../api/feeds.ts";
import { frames, meanOf } from "../api/history.ts";
import { bytes, clock, milliseconds, percent, plural, rate } from "../lib/format.ts";
import { bytesPerSecond, quantile, success } from "../lib/rates.ts";
import { place as where, setQuery, type PageProps } from "../lib/router.ts";
import { remembered, useValue } from "../lib/value.ts";
import { weightsOf } from "../lib/weights.ts";
import { Check, Choice, Title, Trouble } from "../ui/bits.tsx";
import { Table, type Column } from "../ui/table.tsx";
import { Canvas } from "./canvas.tsx";
import { FIELDS, fieldsOfBox, fieldsOfEdge, parse, type Test } from "./expression.ts";
import { arrange, place, type Places, type Way } from "./layout.ts";
import { makeGraph, type Edge, type Graph } from "./model.ts";
import { Panel } from "./panel.tsx";
import { compose, shareOf, type Labels, type Target } from "./scene.ts";

const labels = remembered<Labels>("labels", {
  rate: true, success: false, latency: false, bytes: false, share: true, lock: true, protocol: true,
});
const shown = remembered("graph", { versions: true, idle: true, animation: true, table: false });
// Kept while one looks at other pages: things stay where they were.
const places: Places = new Map();
const narrow = matchMedia("(max-width: 700px)");
/** How they were arranged. */
let arrangedFor: Way | null = null;

function useWay(): Way {
  const [is, set] = useState(narrow.matches);
  useEffect(() => {
    const look = () => set(narrow.matches);
    narrow.addEventListener("change", look);
    return () => narrow.removeEventListener("change", look);
  }, []);
  return is ? "down" : "right";
}

function tested(text: string): { test: Test | null; wrong: string | null } {
  try {
    return { test: parse(text), wrong: null };
  } catch (error) {
    return { test: null, wrong: (error as Error).message };
  }
}

/** Without what is hidden, and edges that would hang in the air. */
function without(graph: Graph, test: Test | null, namespace: string): Graph {
  const boxes = new Map(
    [...graph.boxes].filter(
      ([, box]) => !(test?.(fieldsOfBox(box)) ?? false) && (!namespace || !box.namespace || box.namespace === namespace),
    ),
  );
  const edges = new Map(
    [...graph.edges].filter(
      ([, edge]) => boxes.has(edge.from) && boxes.has(edge.to) && !(test?.(fieldsOfEdge(edge)) ?? false),
    ),
  );
  return { boxes, edges };
}

export function GraphPage({ query }: PageProps) {
  const told = useFeed(feeds.traffic);
  const workloads = useFeed(feeds.workloads).data ?? [];
  const circuits = useFeed(feeds.circuits).data ?? [];
  const documents = useFeed(feeds.documents).data;
  const weights = useMemo(() => weightsOf(documents ?? []), [documents]);
  const past = useValue(frames);
  const options = useValue(shown);
  const label = useValue(labels);
  const [replayAt, setReplayAt] = useState<number | null>(null);
  const [chosen, setChosen] = useState<Target | null>(null);
  const [arranged, setArranged] = useState(0);
  const way = useWay();
  const [find, hide, namespace] = ["find", "hide", "ns"].map((name) => query.get(name) ?? "") as [string, string, string];

  const replayed = replayAt === null ? null : (past.find(({ at }) => at >= replayAt) ?? past.at(-1) ?? null);
  const window = useValue(trafficWindow);
  const minutes = longMinutes(window);
  const mean = useMemo(() => {
    if (minutes === 0) return null;
    const end = replayed?.at ?? Infinity;
    const begin = (replayed?.at ?? past.at(-1)?.at ?? 0) - minutes * 60_000;
    const within = past.filter(({ at }) => at > begin && at <= end);
    return within.length > 0 ? meanOf(within) : null;
  }, [past, minutes, replayed]);
  const rows = mean ?? replayed?.rows ?? told.data?.rows ?? [];
  const [finding, hiding] = [useMemo(() => tested(find), [find]), useMemo(() => tested(hide), [hide])];
  const whole = useMemo(
    () => makeGraph(rows, { workloads, circuits: replayed ? [] : circuits, weights: replayed ? [] : weights }, options),
    [rows, workloads, circuits, weights, options.versions, options.idle],
  );
  const graph = useMemo(() => without(whole, hiding.test, namespace), [whole, hiding, namespace]);
  const scene = useMemo(() => {
    if (arrangedFor !== way) places.clear();
    arrangedFor = way;
    place(graph, places, way);
    const { test } = finding;
    const found = test && {
      box: (box: Parameters<typeof fieldsOfBox>[0]) => test(fieldsOfBox(box)),
      edge: (edge: Edge) => test(fieldsOfEdge(edge)),
    };
    return compose(graph, places, label, found, way);
  }, [graph, finding, label, arranged, way]);
  const namespaces = [...new Set([...whole.boxes.values()].map((box) => box.namespace).filter(Boolean))].sort();
  const found = finding.test ? [...scene.boxes.values()].filter(({ faded }) => !faded) : [];
  const set = (changes: Partial<typeof options>) => shown.set({ ...options, ...changes });
  const requests = rows.reduce((sum, row) => sum + row.requests, 0);

  useEffect(() => {
    const wanted = where.get().query.get("box");
    if (wanted && whole.boxes.has(wanted)) setChosen({ kind: "box", id: wanted });
  }, [whole.boxes.size > 0]);

  return (
    <div class="graph-page">
      <Title
        beside={
          <p class="quiet" role="status">
            {plural(graph.boxes.size, "place")}, {plural(graph.edges.size, "edge")}, {rate(requests)} requests/s
            {told.data && told.data.silent.length > 0 && `; no answer from ${told.data.silent.join(", ")}`}
            {told.data && told.data.left_out > 0 && `; ${told.data.left_out} rows left out`}
          </p>
        }
      >
        Graph
      </Title>
      {told.trouble && <Trouble>{told.trouble}</Trouble>}
      <div class="tools" role="group" aria-label="What the graph shows">
        <Choice
          label="Namespace"
          value={namespace}
          of={[["", "all"], ...namespaces.map((name) => [name, name] as [string, string])]}
          choose={(ns) => setQuery({ ns })}
        />
        <Choice
          label="Show"
          value={options.versions ? "versions" : "services"}
          of={[["versions", "versions"], ["services", "services"]]}
          choose={(value) => set({ versions: value === "versions" })}
        />
        <Choice
          label="Rates of"
          value={window}
          of={[["3s", "3 s"], ["10s", "10 s"], ["30s", "30 s"], ["1m", "1 min"], ["5m", "5 min"], ["10m", "10 min"], ["30m", "30 min"]]}
          choose={(window) => trafficWindow.set(window)}
        />
        <Expression label="Find" value={find} wrong={finding.wrong} set={(find) => setQuery({ find })} />
        <Expression label="Hide" value={hide} wrong={hiding.wrong} set={(hide) => setQuery({ hide })} />
        <details class="menu">
          <summary>Display</summary>
          <div>
            <Check label="Requests per second" value={label.rate} set={(rate) => labels.set({ ...label, rate })} />
            <Check label="Share of a canary" value={label.share} set={(share) => labels.set({ ...label, share })} />
            <Check label="Success" value={label.success} set={(success) => labels.set({ ...label, success })} />
            <Check label="Latency (p95)" value={label.latency} set={(latency) => labels.set({ ...label, latency })} />
            <Check label="Bytes per second" value={label.bytes} set={(bytes) => labels.set({ ...label, bytes })} />
            <Check label="Protocol, if not HTTP" value={label.protocol} set={(protocol) => labels.set({ ...label, protocol })} />
            <Check label="What has no mutual TLS" value={label.lock} set={(lock) => labels.set({ ...label, lock })} />
            <Check label="Services without traffic" value={options.idle} set={(idle) => set({ idle })} />
            <Check label="Moving traffic" value={options.animation} set={(animation) => set({ animation })} />
          </div>
        </details>
        <button
          type="button"
          onClick={() => {
            arrange(graph, places, way);
            setArranged(arranged + 1);
          }}
        >
          Arrange
        </button>
        <button type="button" aria-pressed={options.table} onClick={() => set({ table: !options.table })}>
          As a table
        </button>
        <Replay past={past} at={replayAt} set={setReplayAt} />
      </div>
      {found.length > 0 && found.length < 20 && (
        <p class="found" role="status">
          Found:{" "}
          {found.map(({ box }) => (
            <button type="button" class="link" key={box.id} onClick={() => setChosen({ kind: "box", id: box.id })}>
              {box.name}
            </button>
          ))}
        </p>
      )}
      <div class="stage">
        {options.table ? (
          <EdgeTable edges={[...graph.edges.values()]} choose={setChosen} />
        ) : (
          <Canvas
            scene={scene}
            places={places}
            animate={options.animation && !(told.trouble && !replayed)}
            chosen={chosen}
            choose={setChosen}
            moved={() => setArranged((was) => was + 1)}
            fit={`${namespace}|${arranged === 0}|${way}`}
          />
        )}
        {chosen && <Panel graph={whole} chosen={chosen} choose={setChosen} />}
        {graph.boxes.size === 0 && told.data && (
          <p class="empty quiet">
            Nothing to see yet: no service is announced, and nobody calls. `weft run` or `services` in node.yaml make one.
          </p>
        )}
      </div>
    </div>
  );
}

function Expression(props: { label: string; value: string; wrong: string | null; set: (text: string) => void }) {
  const [text, setText] = useState(props.value);
  useEffect(() => setText(props.value), [props.value]);
  const id = `wrong-${props.label}`;
  return (
    <label class="field expression">
      <span>{props.label}</span>
      <input
        type="search"
        value={text}
        placeholder={props.label === "Find" ? "reviews, error > 1" : "ns = kube-system"}
        title={`Parts of names, or comparisons with and, or, not: ${FIELDS}`}
        aria-invalid={props.wrong !== null}
        aria-describedby={props.wrong === null ? undefined : id}
        onInput={(event) => {
          setText(event.currentTarget.value);
          props.set(event.currentTarget.value);
        }}
      />
      {props.wrong !== null && (
        <span class="wrong" id={id}>
          {props.wrong}
        </span>
      )}
    </label>
  );
}

function Replay({ past, at, set }: { past: { at: number }[]; at: number | null; set: (at: number | null) => void }) {
  const [playing, setPlaying] = useState(false);
  const [first, last] = [past[0]?.at ?? 0, past.at(-1)?.at ?? 0];
  const now = useRef(at);
  now.current = at;
  useEffect(() => {
    if (!playing) return;
    const timer = setInterval(() => {
      const next = past.find((frame) => frame.at > (now.current ?? 0));
      if (next) return set(next.at);
      setPlaying(false);
      set(null);
    }, 500);
    return () => clearInterval(timer);
  }, [playing, past]);
  if (past.length < 2) return <span class="quiet">live</span>;
  return (
    <div class="replay" role="group" aria-label="Replay">
      <button
        type="button"
        aria-pressed={playing}
        onClick={() => {
          if (!playing && at === null) set(first);
          setPlaying(!playing);
        }}
      >
        {playing ? "Pause" : "Replay"}
      </button>
      <input
        type="range"
        aria-label="Time"
        aria-valuetext={at === null ? "live" : clock(at)}
        min={first}
        max={last}
        step={1_000}
        value={at ?? last}
        onInput={(event) => set(Number(event.currentTarget.value))}
      />
      {at === null ? (
        <span class="quiet">live</span>
      ) : (
        <button
          type="button"
          onClick={() => {
            setPlaying(false);
            set(null);
          }}
        >
          {clock(at)}: back to live
        </button>
      )}
    </div>
  );
}

function EdgeTable({ edges, choose }: { edges: Edge[]; choose: (target: Target) => void }) {
  const columns: Column<Edge>[] = [
    {
      name: "From",
      by: (edge) => edge.fromName,
      cell: (edge) => (
        <button type="button" class="link" onClick={() => choose({ kind: "edge", id: edge.id })}>
          {edge.fromName}
        </button>
      ),
    },
    { name: "To", by: (edge) => edge.toName, cell: (edge) => edge.toName },
    { name: "Protocol", by: (edge) => edge.protocol, cell: (edge) => edge.protocol },
    { name: "Requests/s", number: true, by: (edge) => edge.rates.requests, cell: (edge) => rate(edge.rates.requests) },
    { name: "Share", number: true, by: (edge) => edge.share, cell: (edge) => shareOf(edge) },
    { name: "Success", number: true, by: (edge) => success(edge.rates), cell: (edge) => percent(success(edge.rates)) },
    { name: "p95", number: true, by: (edge) => quantile(edge.rates, 0.95), cell: (edge) => milliseconds(quantile(edge.rates, 0.95)) },
    { name: "Bytes/s", number: true, by: (edge) => bytesPerSecond(edge.rates), cell: (edge) => bytes(bytesPerSecond(edge.rates)) },
    { name: "mTLS", by: (edge) => String(edge.mtls), cell: (edge) => (edge.mtls === null ? "" : edge.mtls ? "yes" : "no") },
    { name: "Circuit", by: (edge) => edge.circuit, cell: (edge) => edge.circuit ?? "" },
  ];
  return (
    <div class="as-table">
      <Table label="Who calls whom" rows={edges} columns={columns} id={({ id }) => id} sorted="Requests/s" descending />
    </div>
  );
}

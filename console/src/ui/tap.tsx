// A tap on an item's page: requests as they go by, as `weft tap` shows them.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { follow } from "../api/stream.ts";
import type { Tapped, TapState } from "../api/types.ts";
import { milliseconds, plural } from "../lib/format.ts";
import { href } from "../lib/router.ts";
import { Choice, Facts, ForOperators, Mark, NodeLink, Trouble, type Tone } from "./bits.tsx";

/** Requests that are shown; older ones make room. */
const SHOWN = 200;
/** How often what has come is drawn: nobody reads faster. */
const DRAWN_EVERY = 200;
/** Nodes end a tap then by themselves, however long its page is open. */
const LASTS = 5 * 60_000;

/** What is asked for, as it is typed. */
interface Filter {
  other: string;
  method: string;
  path: string;
  status: string;
  header: string;
}

const NO_FILTER: Filter = { other: "", method: "", path: "", status: "", header: "" };
const STATUS = "([1-5]xx|\\d{1,3}(-\\d{1,3})?)";
/** Field, name, example, and what it must look like: the browser says so, and nothing is sent. */
const FIELDS: [keyof Filter, string, string, string?][] = [
  ["path", "Path", "/api or */reviews/*"],
  ["status", "Status", "5xx, 404, 400-499", `\\s*${STATUS}(\\s*,\\s*${STATUS})*\\s*`],
  ["method", "Method", "GET", "\\s*[A-Za-z]+\\s*"],
  ["header", "Header", "end-user: jason"],
];

/** The body of `POST /api/v1/tap`; `of` is what the page is about, such as `svc/reviews.default` or `node/host-1`. */
export function question(of: string, isCalled: boolean, filter: Filter) {
  const given = (text: string) => text.trim() || null;
  const header = filter.header.split(",").map((one) => one.trim()).filter(Boolean);
  const { method, path, status } = filter;
  const node = /^node\/(.*)/.exec(of)?.[1];
  const own = node === undefined ? of : null;
  const [to, from] = isCalled ? [own, given(filter.other)] : [given(filter.other), own];
  // A node tells of both sides: of what its workloads are called, and of what they call.
  const side = node !== undefined && isCalled ? "destination" : "source";
  return { query: { to, from, ...(node && { node, side }), method: given(method), path: given(path), status: given(status), header }, for_ms: LASTS, signed: null };
}

type Heard = { seen: Tapped } | { state: TapState };
type Line = Tapped & { number: number };

export function Tap({ of }: { of: string }) {
  return (
    <section aria-label="Tap">
      <h2>Tap</h2>
      <ForOperators what="watch requests as they go by">
        <Requests of={of} />
      </ForOperators>
    </section>
  );
}

function Requests({ of }: { of: string }) {
  const [filter, setFilter] = useState(NO_FILTER);
  const [side, setSide] = useState<"to" | "from">("to");
  const [lines, setLines] = useState<Line[]>([]);
  const [state, setState] = useState<TapState | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const [on, setOn] = useState(false);
  const [paused, setPaused] = useState(false);
  const [count, setCount] = useState(0);
  const [open, setOpen] = useState<number | null>(null);
  const stop = useRef<() => void>(() => {});
  const holds = useRef(false);
  holds.current = paused;
  // Services do not call: their workloads do, and those have pages too.
  const calls = !of.startsWith("svc/");

  const end = () => {
    stop.current();
    stop.current = () => {};
    setOn(false);
  };
  useEffect(() => end, [of]);

  const begin = (event: SubmitEvent) => {
    event.preventDefault();
    end();
    setLines([]);
    setState(null);
    setTrouble(null);
    setPaused(false);
    setCount(0);
    setOn(true);
    let kept: Line[] = [];
    let number = 0;
    const draw = () => {
      if (holds.current) return;
      setLines(kept);
      setCount(number);
    };
    const timer = setInterval(draw, DRAWN_EVERY);
    const over = () => {
      clearInterval(timer);
      draw();
      setOn(false);
    };
    const leave = follow<Heard>("/api/v1/tap", question(of, side === "to", filter), {
      message(heard) {
        if ("state" in heard) return setState(heard.state);
        number += 1;
        kept = [{ ...heard.seen, number }, ...kept].slice(0, SHOWN);
      },
      lost(why) {
        over();
        setTrouble(why);
      },
      ended: over,
    });
    stop.current = () => {
      clearInterval(timer);
      leave();
    };
  };

  return (
    <>
      <form class="filter" onSubmit={begin}>
        {calls && <Choice label="Requests" value={side} of={[["to", "to it"], ["from", "from it"]]} choose={setSide} />}
        <label class="field">
          <span>{side === "to" ? "From" : "To"}</span>
          <input value={filter.other} placeholder="web.prod, ns/prod" onInput={(event) => setFilter({ ...filter, other: event.currentTarget.value })} />
        </label>
        {FIELDS.map(([field, name, example, pattern]) => (
          <label class="field" key={field}>
            <span>{name}</span>
            <input value={filter[field]} placeholder={example} pattern={pattern} title={pattern && `Such as ${example}`} onInput={(event) => setFilter({ ...filter, [field]: event.currentTarget.value })} />
          </label>
        ))}
        <button type="submit">{on ? "Start anew" : "Start"}</button>
        {on && (
          <>
            <button type="button" onClick={end}>
              Stop
            </button>
            <button type="button" aria-pressed={paused} onClick={() => setPaused(!paused)}>
              {paused ? "Go on" : "Pause"}
            </button>
          </>
        )}
      </form>
      {trouble && <Trouble>{trouble}</Trouble>}
      <p class="quiet">
        {(on || state) && `${plural(count, "request")}; `}
        <span role="status">
          {on || state
            ? [
                state ? `${plural(state.nodes, "node")} watch${state.nodes === 1 ? "es" : ""}` : "asking the nodes…",
                ...(state?.missed ? [`${state.missed} more than a node tells`] : []),
                ...(state?.silent.length ? [`no answer from ${state.silent.join(", ")}`] : []),
                ...Object.entries(state?.refused ?? {}).map(([node, why]) => `${node} does not: ${why}`),
                ...(state?.ended ? ["its time is up"] : on ? [] : ["stopped"]),
              ].join("; ")
            : "Credentials are hidden. The mesh's timeline tells who taps what."}
        </span>
      </p>
      {lines.length > 0 && (
        <div class="scroll live" tabIndex={0} role="region" aria-label="Requests, the latest first">
          <table>
            <caption class="unseen">Requests, the latest first</caption>
            <thead>
              <tr>
                {["When", "From", "To", "Request", "Status", "Took"].map((name) => (
                  <th scope="col" key={name} class={name === "Took" ? "number" : ""}>
                    {name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {lines.map((line) => (
                <OneRequest key={line.number} line={line} open={open === line.number} turn={() => setOpen(open === line.number ? null : line.number)} />
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}

function toneOfStatus({ status, failure }: Tapped): Tone {
  if (failure || status === 0 || status >= 500) return "bad";
  return status >= 400 ? "poor" : "good";
}

const called = (line: Tapped) =>
  line.destination_workload === "unknown" ? `${line.service}` : line.destination_workload;

function OneRequest({ line, open, turn }: { line: Line; open: boolean; turn: () => void }) {
  return (
    <>
      <tr>
        <td>{line.at.slice(11, 23)}</td>
        <td>{line.source_workload}</td>
        <td>{called(line)}</td>
        <td class="long">
          <button type="button" class="link" aria-expanded={open} onClick={turn}>
            {line.method} {line.path}
          </button>
        </td>
        <td>
          <Mark tone={toneOfStatus(line)}>
            {line.status || "none"}
            {line.grpc_status !== undefined && ` grpc ${line.grpc_status}`}
            {line.flag !== "-" && ` ${line.flag}`}
          </Mark>
        </td>
        <td class="number">{milliseconds(line.duration_ms)}</td>
      </tr>
      {open && (
        <tr>
          <td colSpan={6}>
            <Facts
              of={[
                ["Host", line.authority],
                ["Endpoint", line.endpoint ?? "none"],
                ["Told by", <NodeLink name={line.node} />],
                ["Attempts", line.attempts],
                ["Mutual TLS", line.mutual_tls ? "yes" : "no"],
                ["Bytes", `${line.request_bytes} there, ${line.response_bytes} back`],
                ...(line.failure ? [["Failure", line.failure] as [string, string]] : []),
                ...(line.trace ? [["Trace", <a href={href(["traces", line.trace])}>{line.trace.slice(0, 16)}…</a>] as [string, ComponentChildren]] : []),
              ]}
            />
            <Headers name="Request" of={line.request_headers} />
            <Headers name="Response" of={line.response_headers} />
          </td>
        </tr>
      )}
    </>
  );
}

function Headers({ name, of }: { name: string; of: [string, string][] }) {
  if (of.length === 0) return null;
  return (
    <>
      <h3>{name}</h3>
      <pre>{of.map(([name, value]) => `${name}: ${value}`).join("\n")}</pre>
    </>
  );
}

// The latest lines of access logs about a service or a workload, or of a node, from the nodes that wrote them.

import { useEffect, useState } from "preact/hooks";
import { inWords, post } from "../api/client.ts";
import type { Lines } from "../api/types.ts";
import { clock } from "../lib/format.ts";
import { ForOperators, Trouble } from "./bits.tsx";

const ASKED_EVERY = 3_000;

/** What the page is about: see LogQuery in node/src/admin/log.rs. */
export interface Item {
  namespace?: string;
  service?: string;
  workload?: string;
  node?: string;
}

export function Log({ of }: { of: Item }) {
  return (
    <section aria-label="Logs">
      <h2>Logs</h2>
      <ForOperators what="read access logs">
        <Latest of={of} />
      </ForOperators>
    </section>
  );
}

function Latest({ of }: { of: Item }) {
  const [told, setTold] = useState<Lines | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const [held, setHeld] = useState(false);
  const [word, setWord] = useState("");
  const asked = JSON.stringify(of);
  useEffect(() => {
    if (held) return;
    const end = new AbortController();
    void (async () => {
      while (!end.signal.aborted) {
        if (!document.hidden) {
          try {
            setTold(await post<Lines>("/api/v1/log", of, end.signal));
            setTrouble(null);
          } catch (error) {
            if (!end.signal.aborted) setTrouble(inWords(error));
          }
        }
        await new Promise((resolve) => setTimeout(resolve, ASKED_EVERY));
      }
    })();
    return () => end.abort();
  }, [asked, held]);
  const wanted = word.trim().toLowerCase();
  const lines = (told?.lines ?? []).filter(({ text, node }) => `${node} ${text}`.toLowerCase().includes(wanted));
  return (
    <>
      <p class="filter">
        <label class="field">
          <span>Lines with</span>
          <input type="search" value={word} onInput={(event) => setWord(event.currentTarget.value)} />
        </label>
        <button type="button" aria-pressed={held} onClick={() => setHeld(!held)}>
          {held ? "Go on" : "Hold"}
        </button>
      </p>
      {trouble && <Trouble>{trouble}</Trouble>}
      {told && (
        <p class="quiet">
          {[
            "Each node remembers the latest 512 lines of its access logs",
            ...(told.off.length ? [`none are written on ${told.off.join(", ")} unless a Telemetry document says so`] : []),
            ...(told.silent.length ? [`no answer from ${told.silent.join(", ")}`] : []),
            ...Object.entries(told.refused).map(([node, why]) => `${node} does not tell: ${why}`),
          ].join("; ")}
          .
        </p>
      )}
      {told && lines.length === 0 && <p class="quiet">{wanted ? "No line has that." : "No line is about it."}</p>}
      {lines.length > 0 && (
        <div class="scroll live log" tabIndex={0} role="log" aria-live="off" aria-label="Lines of access logs, the latest first">
          <ol class="plain">
            {[...lines].reverse().map(({ at_ms, node, side, text }, i) => (
              <li key={`${at_ms}${node}${i}`}>
                <span class="quiet">
                  {clock(at_ms)} {node} {side}
                </span>{" "}
                <code>{text}</code>
              </li>
            ))}
          </ol>
        </div>
      )}
    </>
  );
}

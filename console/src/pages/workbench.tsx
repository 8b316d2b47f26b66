// Where a document is changed: the editor, what is wrong with the text, what it changes, and applying it.

import { useEffect, useRef, useState } from "preact/hooks";
import { inWords, post } from "../api/client.ts";
import type { DocumentKey, Edited } from "../api/types.ts";
import { documentName } from "../lib/documents.ts";
import { plural } from "../lib/format.ts";
import { Mark, Trouble } from "../ui/bits.tsx";

interface Props {
  text: string;
  /** Of documents that name none. */
  namespace: string;
  /** The version that the text is a change of; null of a new document. */
  version: string | null;
  /** What the button Delete deletes. */
  deletes?: DocumentKey;
  /** It was written: these documents; none if it was deleted. */
  done: (keys: DocumentKey[]) => void;
}

/** Somebody who types is not checked at each key. */
const PAUSE = 250;

export function Workbench({ text, namespace, version, deletes, done }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const typed = useRef(text);
  const [checked, setChecked] = useState<Edited | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const [sure, setSure] = useState(false);

  useEffect(() => {
    let end = new AbortController();
    let timer = 0;
    let editor: { problems: (found: Edited["problems"]) => void; destroy: () => void } | null = null;
    let gone = false;
    const check = async () => {
      end.abort();
      end = new AbortController();
      try {
        const question = { text: typed.current, namespace, dry_run: true };
        const found = await post<Edited>("/api/v1/documents/text", question, end.signal);
        setChecked(found);
        setTrouble(null);
        editor?.problems(found.problems);
      } catch (error) {
        if (!end.signal.aborted) setTrouble(inWords(error));
      }
    };
    const changed = (now: string) => {
      typed.current = now;
      setChecked(null);
      clearTimeout(timer);
      timer = window.setTimeout(() => void check(), PAUSE);
    };
    // The editor is the largest part of the console: it comes when it is wanted.
    void import("../ui/editor.ts").then(({ makeEditor }) => {
      // Cleaning up comes a little after the page is gone.
      if (gone || !place.current) return;
      editor = makeEditor(place.current, text, changed);
      void check();
    });
    return () => {
      gone = true;
      end.abort();
      clearTimeout(timer);
      editor?.destroy();
    };
  }, []);

  const act = async (write: () => Promise<DocumentKey[]>) => {
    setBusy(true);
    try {
      done(await write());
    } catch (error) {
      setTrouble(inWords(error));
    }
    setBusy(false);
  };
  const apply = async () => {
    const one = { if_version: checked?.documents.length === 1 ? version : null };
    const question = { text: typed.current, namespace, dry_run: false, ...one };
    const { documents } = await post<Edited>("/api/v1/documents/text", question);
    return documents.map(({ key }) => key);
  };
  const remove = async () => {
    await post("/api/v1/documents", { drafts: [{ key: deletes, body: null, if_version: version }] });
    return [];
  };

  const errors = checked?.problems.filter(({ severity }) => severity === "error") ?? [];
  const changes = checked?.documents.filter(({ outcome }) => outcome !== "unchanged") ?? [];
  return (
    <section class="workbench" aria-label="Editor">
      <div ref={place} class="editor" />
      <div class="outcome" role="status">
        {!checked && !trouble && <p class="quiet">Checking…</p>}
        {checked && errors.length > 0 && <Mark tone="bad">{plural(errors.length, "mistake")}</Mark>}
        {checked && errors.length === 0 && (
          <Mark tone="good">{changes.length === 0 ? "nothing changes" : changes.map(({ key, outcome }) => `${documentName(key)}: ${outcome}`).join(", ")}</Mark>
        )}
        <ul class="problems">
          {checked?.problems.map(({ line, column, severity, message }) => (
            <li key={`${line}:${column}${message}`}>
              <Mark tone={severity === "error" ? "bad" : "poor"}>
                line {line}: {message}
              </Mark>
            </li>
          ))}
        </ul>
        {trouble && <Trouble>{trouble}</Trouble>}
      </div>
      <p class="actions">
        <button
          type="button"
          class="primary"
          disabled={busy || !checked || errors.length > 0 || changes.length === 0}
          onClick={() => void act(apply)}
        >
          Apply
        </button>
        {deletes &&
          (sure ? (
            <>
              <button type="button" class="danger" disabled={busy} onClick={() => void act(remove)}>
                Yes, delete {deletes.name}
              </button>
              <button type="button" onClick={() => setSure(false)}>
                Keep it
              </button>
            </>
          ) : (
            <button type="button" onClick={() => setSure(true)}>
              Delete…
            </button>
          ))}
      </p>
      {changes.map(({ key, diff }) => (
        <Diff key={documentName(key)} title={documentName(key)} text={diff} />
      ))}
    </section>
  );
}

function Diff({ title, text }: { title: string; text: string }) {
  const tone = (line: string) => (line.startsWith("+") ? "added" : line.startsWith("-") ? "removed" : "");
  return (
    <pre class="diff" tabIndex={0} aria-label={`What changes in ${title}`}>
      {text.split("\n").map((line, i) => (
        <span key={i} class={tone(line)}>
          {line}
          {"\n"}
        </span>
      ))}
    </pre>
  );
}

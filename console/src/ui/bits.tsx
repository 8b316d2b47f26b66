// Small parts that all pages use.

import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { signedIn } from "../api/client.ts";
import type { Told } from "../api/feeds.ts";
import { DASH } from "../lib/format.ts";
import { href } from "../lib/router.ts";
import { useValue } from "../lib/value.ts";

/** A page's heading, which also names the window. */
export function Title({ children, beside }: { children: string; beside?: ComponentChildren }) {
  useEffect(() => {
    document.title = `${children} · weft`;
  }, [children]);
  return (
    <header class="title">
      <h1 tabIndex={-1}>{children}</h1>
      {beside}
    </header>
  );
}

/** What a feed has told, or why it has not. */
export function Loaded<T>({ told, children }: { told: Told<T>; children: (data: T) => ComponentChildren }) {
  return (
    <>
      {told.trouble && <Trouble>{told.trouble}</Trouble>}
      {told.data === null ? told.trouble ? null : <p class="quiet">Asking the node…</p> : children(told.data)}
    </>
  );
}

export function Trouble({ children }: { children: ComponentChildren }) {
  return (
    <p class="trouble" role="alert">
      {children}
    </p>
  );
}

export type Tone = "good" | "poor" | "bad" | "idle";

/** A word with a mark that says how good it is, by shape as well as by colour. */
export function Mark({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  const sign = { good: "●", poor: "▲", bad: "■", idle: "○" }[tone];
  return (
    <span class={`mark ${tone}`}>
      <span aria-hidden="true">{sign}</span>{"\u00a0"}{children}
    </span>
  );
}

export function toneOfState(state: string): Tone {
  if (["alive", "healthy", "preferred", "running", "ok", "ready", "Programmed"].includes(state)) return "good";
  if (["suspect", "demoted", "draining", "probing", "failing", "warning", "restarting"].includes(state)) return "poor";
  return state === "left" ? "idle" : "bad";
}

export function ServiceLink({ namespace, name }: { namespace: string; name: string }) {
  return <a href={href(["services", namespace, name])}>{name}</a>;
}

export function NodeLink({ name }: { name: string }) {
  return name ? <a href={href(["nodes", name])}>{name}</a> : <>{DASH}</>;
}

/** Pairs of a word and what it is. */
export function Facts({ of }: { of: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {of.map(([word, value]) => (
        <div key={word}>
          <dt>{word}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** What only operators may see or do. */
export function ForOperators({ what, children }: { what: string; children: ComponentChildren }) {
  if (useValue(signedIn)) return <>{children}</>;
  return (
    <section class="card">
      <h2>Sign in to {what}</h2>
      <p>
        Run this on the host of the node, as the user who owns its data directory, and open the address that it prints:
      </p>
      <pre>weft console</pre>
    </section>
  );
}

export function Choice<T extends string>(props: {
  label: string;
  value: T;
  of: [T, string][];
  choose: (value: T) => void;
}) {
  return (
    <label class="field">
      <span>{props.label}</span>
      <select value={props.value} onChange={(event) => props.choose(event.currentTarget.value as T)}>
        {props.of.map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
}

export function Check(props: { label: string; value: boolean; set: (value: boolean) => void }) {
  return (
    <label class="check">
      <input type="checkbox" checked={props.value} onChange={(event) => props.set(event.currentTarget.checked)} />
      {props.label}
    </label>
  );
}

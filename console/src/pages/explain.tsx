// What would come of a request that nobody sends: its route, and whether it is let in.

import { useState } from "preact/hooks";
import { inWords, post } from "../api/client.ts";
import { feeds, useFeed } from "../api/feeds.ts";
import type { Explanation } from "../api/types.ts";
import type { PageProps } from "../lib/router.ts";
import { Mark, Title, Trouble } from "../ui/bits.tsx";

/** `name: value` lines. */
export function headersIn(text: string): [string, string][] {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return lines.map((line) => {
    const at = line.indexOf(":");
    if (at < 1) throw new Error(`“${line.trim()}” is not a header: write NAME: VALUE, one a line`);
    return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  });
}

export function ExplainPage({ query }: PageProps) {
  const services = useFeed(feeds.services).data ?? [];
  const [told, setTold] = useState<{ route: Explanation; access: Explanation } | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const ask = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const field = (name: string) => String(form.get(name) ?? "").trim();
    try {
      const question = {
        from: field("from"), to: field("to"), namespace: field("namespace") || "default", method: field("method"),
        path: field("path"), headers: headersIn(field("headers")),
      };
      const [route, access] = await Promise.all([
        post<Explanation>("/api/v1/explain/route", { ...question, scheme: "http" }),
        post<Explanation>("/api/v1/explain/access", { ...question, claims: null, source_ip: null }),
      ]);
      setTold({ route, access });
      setTrouble(null);
    } catch (error) {
      setTold(null);
      setTrouble(inWords(error));
    }
  };
  return (
    <>
      <Title>Explain</Title>
      <p class="quiet">How this node would route a request, and whether it would be let in. Nothing is sent.</p>
      <form class="form" onSubmit={(event) => void ask(event)}>
        <label class="field">
          <span>From (workload or service)</span>
          <input name="from" list="known" required defaultValue={query.get("from") ?? ""} placeholder="productpage" />
        </label>
        <label class="field">
          <span>To (service or host, with :PORT if it has several)</span>
          <input name="to" list="known" required defaultValue={query.get("to") ?? ""} placeholder="reviews:9080" />
        </label>
        <label class="field">
          <span>Namespace</span>
          <input name="namespace" defaultValue="default" />
        </label>
        <label class="field">
          <span>Method</span>
          <select name="method">
            {["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"].map((method) => (
              <option key={method}>{method}</option>
            ))}
          </select>
        </label>
        <label class="field">
          <span>Path and query</span>
          <input name="path" defaultValue="/" required />
        </label>
        <label class="field wide">
          <span>Headers, one a line</span>
          <textarea name="headers" rows={3} placeholder="end-user: jason" />
        </label>
        <button type="submit" class="primary">
          Explain
        </button>
        <datalist id="known">
          {services.map(({ name, namespace }) => (
            <option key={`${name}.${namespace}`} value={`${name}.${namespace}`} />
          ))}
        </datalist>
      </form>
      {trouble && <Trouble>{trouble}</Trouble>}
      {told && (
        <div class="answers" role="status">
          <section class="card">
            <h2>Route</h2>
            <pre tabIndex={0}>{told.route.text}</pre>
          </section>
          <section class="card">
            <h2>
              Access <Mark tone={told.access.allowed ? "good" : "bad"}>{told.access.allowed ? "allowed" : "denied"}</Mark>
            </h2>
            <pre tabIndex={0}>{told.access.text}</pre>
          </section>
        </div>
      )}
    </>
  );
}

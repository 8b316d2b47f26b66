// What is wrong first, then how each namespace does.

import { feeds, useFeed } from "../api/feeds.ts";
import type { Circuit, Member, MeshDocument, Rates, Service, Status, Traffic } from "../api/types.ts";
import { documentHref, documentName, verdict } from "../lib/documents.ts";
import { ago, duration, milliseconds, percent, plural, rate } from "../lib/format.ts";
import { add, health, none, quantile, success } from "../lib/rates.ts";
import { href } from "../lib/router.ts";
import { Loaded, Mark, Title, type Tone } from "../ui/bits.tsx";
import { Charts } from "../ui/charts.tsx";

interface Wrong {
  tone: Tone;
  what: string;
  where: string;
}

const CERTIFICATE_LOW = 6 * 3_600;

/** All that somebody should look at, the worst first. */
export function findWrong(now: {
  status: Status | null;
  members: Member[];
  services: Service[];
  circuits: Circuit[];
  documents: MeshDocument[];
  traffic: Traffic | null;
}): Wrong[] {
  const wrong: Wrong[] = [];
  const say = (tone: Tone, what: string, where: string) => wrong.push({ tone, what, where });
  for (const { name, state, since_seconds } of now.members) {
    if (state === "failed") say("bad", `Node ${name} has failed, ${duration(since_seconds)} ago`, href(["nodes", name]));
    if (state === "suspect") say("poor", `Node ${name} is not heard of, since ${duration(since_seconds)}`, href(["nodes", name]));
  }
  for (const { name, namespace, endpoints, healthy } of now.services) {
    const where = href(["services", namespace, name]);
    if (endpoints > 0 && healthy === 0) say("bad", `${namespace}/${name} has no healthy endpoint`, where);
    else if (healthy < endpoints) say("poor", `${namespace}/${name}: ${healthy} of ${plural(endpoints, "endpoint")} healthy`, where);
  }
  const services = servicesIn(now.traffic);
  for (const [name, rates] of services) {
    const tone = health(rates);
    if (tone !== "bad" && tone !== "poor") continue;
    const [namespace = "", service = ""] = name.split("/");
    say(tone, `${name} answers ${percent(success(rates))} of ${rate(rates.requests + rates.opened)}/s well`, href(["services", namespace, service]));
  }
  for (const { endpoint, standing, seen } of now.circuits) {
    const who = seen.map(({ node, state, cause }) => `${state} at ${node} by ${cause}`).join(", ");
    say(standing === "excluded" ? "bad" : "poor", `Circuit of ${endpoint}: ${who}`, href(["circuits"]));
  }
  for (const document of now.documents) {
    const { word, why } = verdict(document);
    if (word !== "Programmed") say("poor", `${documentName(document.key)} is not in force: ${why || word}`, documentHref(document.key));
  }
  if (now.status) {
    const { ready, not_ready, certificate_seconds_left, actors } = now.status;
    if (!ready) say("bad", `This node is not ready: ${not_ready.join("; ")}`, href(["mesh"]));
    if (certificate_seconds_left < CERTIFICATE_LOW) {
      say("bad", `This node's certificate: ${duration(certificate_seconds_left)} left`, href(["mesh"]));
    }
    for (const { name, state } of actors) {
      if (state !== "running") say("bad", `This node's part ${name} is ${state}`, href(["mesh"]));
    }
  }
  for (const name of now.traffic?.silent ?? []) say("poor", `${name} does not tell of its traffic`, href(["nodes", name]));
  return wrong.sort((a, b) => Number(b.tone === "bad") - Number(a.tone === "bad"));
}

/** What services get, by NAMESPACE/NAME. */
function servicesIn(traffic: Traffic | null): Map<string, Rates> {
  const services = new Map<string, Rates>();
  for (const row of traffic?.rows ?? []) {
    const name = `${row.service_namespace}/${row.service}`;
    const sum = services.get(name) ?? none();
    add(sum, row);
    services.set(name, sum);
  }
  return services;
}

export function OverviewPage() {
  const told = useFeed(feeds.traffic);
  const status = useFeed(feeds.status).data;
  const members = useFeed(feeds.members).data ?? [];
  const services = useFeed(feeds.services).data ?? [];
  const circuits = useFeed(feeds.circuits).data ?? [];
  const documents = useFeed(feeds.documents).data ?? [];
  const events = (useFeed(feeds.events).data ?? []).slice(0, 8);
  const wrong = findWrong({ status, members, services, circuits, documents, traffic: told.data });
  const namespaces = new Map<string, { services: Service[]; rates: Rates }>();
  for (const service of services) {
    const known = namespaces.get(service.namespace) ?? { services: [], rates: none() };
    known.services.push(service);
    namespaces.set(service.namespace, known);
  }
  for (const [name, rates] of servicesIn(told.data)) {
    const found = namespaces.get(name.split("/")[0]!);
    if (found) add(found.rates, rates);
  }
  return (
    <>
      <Title>Overview</Title>
      <section class="card" aria-labelledby="wrong">
        <h2 id="wrong">{wrong.length === 0 ? "Nothing is wrong" : `What is wrong (${wrong.length})`}</h2>
        {wrong.length === 0 ? (
          <p>
            <Mark tone="good">
              {plural(members.filter(({ state }) => state === "alive").length, "node")} and {plural(services.length, "service")} do well.
            </Mark>
          </p>
        ) : (
          <ul class="wrongs">
            {wrong.slice(0, 50).map(({ tone, what, where }) => (
              <li key={what}>
                <Mark tone={tone}>
                  <a href={where}>{what}</a>
                </Mark>
              </li>
            ))}
          </ul>
        )}
      </section>
      <Loaded told={told}>
        {() => (
          <div class="cards">
            {[...namespaces].sort(([a], [b]) => a.localeCompare(b)).map(([name, { services, rates }]) => (
              <section class="card" key={name}>
                <h2>
                  <a href={href(["graph"], { ns: name })}>{name}</a>
                </h2>
                <p>
                  <Mark tone={services.some(({ healthy, endpoints }) => endpoints > 0 && healthy === 0) ? "bad" : health(rates)}>
                    {percent(success(rates))} success
                  </Mark>
                </p>
                <p>
                  {plural(services.length, "service")}, {rate(rates.requests + rates.opened)}/s, p95 {milliseconds(quantile(rates, 0.95))}
                </p>
              </section>
            ))}
          </div>
        )}
      </Loaded>
      <Charts of={() => true} about="mesh" />
      <section class="card" aria-labelledby="latest">
        <h2 id="latest">
          <a href={href(["events"])}>Latest events</a>
        </h2>
        <ul class="plain">
          {events.map(({ at, subject, what }) => (
            <li key={`${at}${subject}${what}`}>
              <span class="quiet">{ago(at)}</span> {subject}: {what}
            </li>
          ))}
        </ul>
        {events.length === 0 && <p class="quiet">Nothing has happened in the last hour.</p>}
      </section>
    </>
  );
}

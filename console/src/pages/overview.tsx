// What is wrong first, then how each namespace does.

import { feeds, useFeed } from "../api/feeds.ts";
import type { Rates, Service } from "../api/types.ts";
import { ago, milliseconds, percent, plural, rate } from "../lib/format.ts";
import { add, health, none, quantile, success } from "../lib/rates.ts";
import { href } from "../lib/router.ts";
import { findWrong, servicesIn } from "../lib/wrong.ts";
import { Loaded, Mark, Title } from "../ui/bits.tsx";
import { Charts } from "../ui/charts.tsx";

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

// What somebody should look at.

import type { Circuit, Member, MeshDocument, Rates, Service, Status, Traffic } from "../api/types.ts";
import { documentHref, documentName, verdict } from "./documents.ts";
import { duration, percent, plural, rate } from "./format.ts";
import { add, health, none, success, type Health } from "./rates.ts";
import { href } from "./router.ts";

export interface Wrong {
  tone: Health;
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
  const say = (tone: Health, what: string, where: string) => wrong.push({ tone, what, where });
  for (const { name, state, since_seconds, this_node, certificate_seconds_left: left } of now.members) {
    if (state === "failed") say("bad", `Node ${name} has failed, ${duration(since_seconds)} ago`, href(["nodes", name]));
    if (state === "suspect") say("poor", `Node ${name} is not heard of, since ${duration(since_seconds)}`, href(["nodes", name]));
    if (state === "alive" && !this_node && typeof left === "number" && left < CERTIFICATE_LOW) {
      say("bad", `The certificate of node ${name}: ${left > 0 ? `${duration(left)} left` : duration(left)}`, href(["nodes", name]));
    }
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
export function servicesIn(traffic: Traffic | null): Map<string, Rates> {
  const services = new Map<string, Rates>();
  for (const row of traffic?.rows ?? []) {
    const name = `${row.service_namespace}/${row.service}`;
    const sum = services.get(name) ?? none();
    add(sum, row);
    services.set(name, sum);
  }
  return services;
}

// Endpoints of a service, a workload or a node, as tables show them.

import { useEffect, useState } from "preact/hooks";
import { get, inWords } from "../api/client.ts";
import { feeds, useFeed } from "../api/feeds.ts";
import type { Endpoint } from "../api/types.ts";
import { DASH } from "../lib/format.ts";
import { href } from "../lib/router.ts";
import { Mark, toneOfState } from "./bits.tsx";
import { accountOf, known, Left, leftOf } from "./certificate.tsx";
import type { Column } from "./table.tsx";

/** Whose an endpoint is. */
export const WORKLOAD_COLUMN: Column<Endpoint> = {
  name: "Workload",
  by: ({ workload }) => workload,
  cell: ({ workload, identities, node }) => {
    const namespace = accountOf(identities[0])?.namespace;
    return node && namespace ? <a href={href(["workloads", namespace, workload])}>{workload}</a> : workload;
  },
};

/** What endpoints are and how they stand, beside whose they are and on which node. */
export const PLACE_COLUMNS: Column<Endpoint>[] = [
  { name: "Locality", by: ({ locality }) => locality ?? "", cell: ({ locality }) => locality || DASH },
  { name: "Port", number: true, by: ({ port }) => port, cell: ({ port, target_port }) => (port === target_port ? port : `${port} → ${target_port}`) },
  { name: "Weight", number: true, by: ({ weight }) => weight ?? null, cell: ({ weight }) => weight ?? DASH },
  { name: "Health", by: ({ health }) => health, cell: ({ health }) => <Mark tone={toneOfState(health)}>{health}</Mark> },
  {
    name: "Circuit",
    by: ({ standing, held_back }) => `${standing} ${held_back}`,
    cell: ({ standing, held_back }) => <Mark tone={toneOfState(standing)}>{held_back ? `${standing}: ${held_back}` : standing}</Mark>,
  },
  { name: "Active", number: true, by: ({ active_requests }) => active_requests, cell: ({ active_requests }) => active_requests },
  { name: "Certificate", by: ({ node, identities }) => `${node} ${identities.join(" ")}`, cell: (endpoint) => <Certificate of={endpoint} /> },
  { name: "Identity", by: ({ identities }) => identities.join(", "), cell: ({ identities }) => <code>{identities.join(", ")}</code> },
];

function Certificate({ of: { node, identities } }: { of: Endpoint }) {
  const certificates = known(useFeed(feeds.certificates).data);
  const account = accountOf(identities[0]);
  return <Left seconds={account && leftOf(certificates, node, account.namespace, account.account)} of="workload" />;
}

/** The endpoints of a service or on a node, asked for each second; none of null. */
export function useEndpoints(of: `service=${string}` | `node=${string}` | null): { data: Endpoint[]; trouble: string | null } {
  const [told, setTold] = useState<{ data: Endpoint[]; trouble: string | null }>({ data: [], trouble: null });
  useEffect(() => {
    if (of === null) return;
    const end = new AbortController();
    void (async () => {
      while (!end.signal.aborted) {
        try {
          setTold({ data: await get(`/api/v1/endpoints?${of}`, end.signal), trouble: null });
        } catch (error) {
          if (!end.signal.aborted) setTold((was) => ({ ...was, trouble: inWords(error) }));
        }
        await new Promise((resolve) => setTimeout(resolve, 1_000));
      }
    })();
    return () => end.abort();
  }, [of]);
  return told;
}

// What nodes call things.

import type { Workload } from "../api/types.ts";

/** A workload's name; of what an older version tells, as nodes name workloads that nobody has named. */
export function workloadName({ service, workload, labels }: Pick<Workload, "service" | "workload" | "labels">): string {
  return workload || (labels.version ? `${service.name}-${labels.version}` : service.name);
}

// Documents: their names and addresses, which are about a service, and how they look as YAML.

import type { DocumentKey, Json, MeshDocument } from "../api/types.ts";
import { href } from "./router.ts";

export function documentName({ kind, namespace, name }: DocumentKey): string {
  return `${kind} ${namespace ? `${namespace}/` : ""}${name}`;
}

export function documentHref({ group, kind, namespace, name }: DocumentKey): string {
  return href(["policy", group || "core", kind, namespace ?? "-", name]);
}

export function keyOf([group = "", kind = "", namespace = "", name = ""]: string[]): DocumentKey {
  return { group: group === "core" ? "" : group, kind, namespace: namespace === "-" ? null : namespace, name };
}

export function sameKey(a: DocumentKey, b: DocumentKey): boolean {
  return a.group === b.group && a.kind === b.kind && a.namespace === b.namespace && a.name === b.name;
}

/** Whether it is in force, in one word, and why not. */
export function verdict({ status }: MeshDocument): { word: string; why: string } {
  const wrong = status.conditions.find((condition) => condition.status === "False");
  if (wrong) return { word: wrong.type === "Programmed" ? "NotProgrammed" : wrong.reason, why: wrong.message };
  return { word: "Programmed", why: "" };
}

/** Documents that name a service as a host, target, backend or by its labels, and the Service itself. */
export function documentsOf(documents: MeshDocument[], namespace: string, service: string): MeshDocument[] {
  return documents.filter(({ key, body }) => {
    if (key.kind === "ServiceAccount") return false;
    if (key.kind === "Service") return key.namespace === namespace && key.name === service;
    const local = key.namespace === namespace;
    const isHost = (text: string) =>
      (local && text === service) || text === `${service}.${namespace}` || text.startsWith(`${service}.${namespace}.svc`);
    const names = (value: Json, field: string): boolean => {
      if (typeof value === "string") {
        return ["host", "hosts", "name", "app"].includes(field) && isHost(value);
      }
      if (Array.isArray(value)) return value.some((item) => names(item, field));
      if (value === null || typeof value !== "object") return false;
      return Object.entries(value).some(([name, inner]) => names(inner, name));
    };
    const spec = body !== null && typeof body === "object" && !Array.isArray(body) ? (body.spec ?? null) : null;
    if (local && spec && typeof spec === "object" && !("selector" in spec) && !("targetRefs" in spec)) {
      // Without a selector it holds for the whole namespace.
      if (["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"].includes(key.kind)) return true;
    }
    return names(spec, "");
  });
}

// What YAML 1.1 and 1.2 read as text without quotes, whoever reads it.
const PLAIN = /^[A-Za-z_/][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*$/;
const WORDS = /^(true|false|yes|no|on|off|null|y|n|~)$/i;

function scalar(value: null | boolean | number | string): string {
  if (typeof value !== "string") return JSON.stringify(value);
  return PLAIN.test(value) && !WORDS.test(value) ? value : JSON.stringify(value);
}

/** JSON as YAML in block style. */
export function toYaml(value: Json, indent = ""): string {
  if (value === null || typeof value !== "object") return `${scalar(value)}\n`;
  if (Array.isArray(value)) {
    if (value.length === 0) return "[]\n";
    // The first field of an object stands beside the dash.
    return value.map((item) => `${indent}- ${toYaml(item, `${indent}  `).replace(/^ +/, "")}`).join("");
  }
  const fields = Object.entries(value);
  if (fields.length === 0) return "{}\n";
  const first = ["apiVersion", "kind", "metadata"];
  const place = (name: string) => (first.indexOf(name) + 1 || 9) as number;
  if ("apiVersion" in value) fields.sort(([a], [b]) => place(a) - place(b));
  const lines = fields.map(([name, inner]) => {
    const key = `${indent}${scalar(name)}:`;
    const isEmpty = inner !== null && typeof inner === "object" && Object.keys(inner).length === 0;
    if (inner === null || typeof inner !== "object" || isEmpty) return `${key} ${toYaml(inner)}`;
    return `${key}\n${toYaml(inner, Array.isArray(inner) ? indent : `${indent}  `)}`;
  });
  return lines.join("");
}

// Where one is: the part of the address behind #, such as #/services/default/reviews?tab=routes.

import { Value } from "./value.ts";

export interface Place {
  /** Decoded, such as ["services", "default", "reviews"]. */
  path: string[];
  query: URLSearchParams;
}

/** What each page is told: the rest of the path, and the query. */
export interface PageProps {
  path: string[];
  query: URLSearchParams;
}

export function parse(hash: string): Place {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  const decode = (part: string) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  };
  return { path: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(query) };
}

export function href(path: (string | number)[], query: Record<string, string> = {}): string {
  const text = path.map((part) => encodeURIComponent(part)).join("/");
  const search = new URLSearchParams(query).toString();
  return `#/${text}${search && `?${search}`}`;
}

export const place = new Value(parse(location.hash));
addEventListener("hashchange", () => place.set(parse(location.hash)));

export function go(path: (string | number)[], query: Record<string, string> = {}): void {
  location.hash = href(path, query);
}

/** Changes the query of the present page, without a step in the browser's history. */
export function setQuery(changes: Record<string, string | null>): void {
  const { path, query } = place.get();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") query.delete(name);
    else query.set(name, value);
  }
  history.replaceState(null, "", href(path, Object.fromEntries(query)));
  place.set({ path, query });
}

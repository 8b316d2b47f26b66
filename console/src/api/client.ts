// Asks the node. What goes wrong is told in words that people can act on.

import { Value } from "../lib/value.ts";

/** Why something was not done. */
export class ApiError extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** Whether somebody is signed in, as far as is known. */
export const signedIn = new Value(false);

// The cookie proves nothing without it; other origins of this host cannot read it.
const TOKEN = "weft.session";

export function sessionToken(): string | null {
  return localStorage.getItem(TOKEN);
}

export function keepSessionToken(token: string | null): void {
  if (token === null) localStorage.removeItem(TOKEN);
  else localStorage.setItem(TOKEN, token);
}

/** Sends a request; an answer other than 2xx is an ApiError. */
export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const token = sessionToken();
  if (token) headers.set("x-weft-session", token);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, "The node does not answer: it is down, or the connection to it is.");
  }
  if (response.ok) return response;
  // The session has ended, or the node was restarted, which ends all.
  if (response.status === 401) signedIn.set(false);
  const body = await response.json().catch(() => null);
  const why = body && typeof body.error === "string" ? body.error : `The node answered ${response.status}.`;
  throw new ApiError(response.status, why);
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await send(path, { signal })).json();
}

export async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const headers = { "content-type": "application/json" };
  return (await send(path, { method: "POST", headers, body: JSON.stringify(body), signal })).json();
}

export function inWords(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

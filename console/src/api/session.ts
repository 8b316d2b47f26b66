// Who is signed in: see node/src/admin/sessions.rs.

import { get, inWords, keepSessionToken, post, sessionToken, signedIn } from "./client.ts";

interface SessionState {
  signed_in: boolean;
  token?: string;
}

/** Finds out whether the session that this browser remembers still holds. */
export async function lookUpSession(): Promise<void> {
  if (sessionToken() === null) return;
  try {
    const { signed_in } = await get<SessionState>("/api/v1/session");
    if (!signed_in) keepSessionToken(null);
    signedIn.set(signed_in);
  } catch {
    // The feeds say that the node does not answer.
  }
}

/** Trades the code of `weft console` for a session; gives what is wrong, or null. */
export async function signIn(code: string): Promise<string | null> {
  try {
    const { token } = await post<SessionState>("/api/v1/session", { code });
    keepSessionToken(token ?? null);
    signedIn.set(true);
    return null;
  } catch (error) {
    return inWords(error);
  }
}

export async function signOut(): Promise<void> {
  await post("/api/v1/session/end", null).catch(() => null);
  keepSessionToken(null);
  signedIn.set(false);
}

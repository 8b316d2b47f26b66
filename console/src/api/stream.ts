// Server-sent events over fetch: unlike EventSource it can send the session's header, and says why it failed.
// See https://html.spec.whatwg.org/multipage/server-sent-events.html.

import { inWords, send } from "./client.ts";

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8_000;
/** A page that nobody has looked at for so long listens no more: browsers have six connections to a host, for all tabs. */
const UNSEEN = 20_000;
/** The node says something each second: one that is silent for so long is gone. */
const SILENCE = 10_000;

export interface Listener<T> {
  message(data: T): void;
  /** The stream is not there, and why; it is tried again. */
  lost(why: string): void;
}

/** Cuts a stream's text into the data of its events. What is not complete yet stays. */
export class Splitter {
  private rest = "";

  push(text: string): string[] {
    this.rest += text;
    const events = this.rest.split("\n\n");
    this.rest = events.pop() ?? "";
    const data = events.flatMap((event) => event.split("\n").filter((line) => line.startsWith("data:")));
    return data.map((line) => line.slice(5).trimStart());
  }
}

/** The data of a stream's events, as they come. */
async function* textOf(response: Response): AsyncGenerator<string[]> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  const splitter = new Splitter();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield splitter.push(value);
  }
}

function visible(): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
  });
}

/** Calls back when the page has not been seen for a while, unless the returned function is called before. */
function whenUnseen(leave: () => void): () => void {
  let timer = 0;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = window.setTimeout(leave, UNSEEN);
  };
  look();
  document.addEventListener("visibilitychange", look);
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", look);
  };
}

/** Listens until the returned function is called. */
export function listen<T>(path: string, listener: Listener<T>): () => void {
  const end = new AbortController();
  void (async () => {
    let pause = FIRST_PAUSE;
    while (!end.signal.aborted) {
      await visible();
      if (end.signal.aborted) return;
      const quiet = new AbortController();
      const give = () => quiet.abort();
      end.signal.addEventListener("abort", give, { once: true });
      let timer = setTimeout(give, SILENCE);
      const look = whenUnseen(give);
      try {
        const headers = { accept: "text/event-stream" };
        const response = await send(path, { headers, signal: quiet.signal });
        for await (const text of textOf(response)) {
          clearTimeout(timer);
          timer = setTimeout(give, SILENCE);
          pause = FIRST_PAUSE;
          for (const data of text) listener.message(JSON.parse(data) as T);
        }
        throw new Error("The node ended the stream.");
      } catch (error) {
        if (!end.signal.aborted && !document.hidden) listener.lost(quiet.signal.aborted ? "The node has gone silent." : inWords(error));
      } finally {
        clearTimeout(timer);
        look();
        end.signal.removeEventListener("abort", give);
        quiet.abort();
      }
      if (end.signal.aborted) return;
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  })();
  return () => end.abort();
}

/** Asks once for a stream that ends by itself, and reads it; gives how to end it before. */
export function follow<T>(path: string, body: unknown, listener: Listener<T> & { ended(): void }): () => void {
  const end = new AbortController();
  void (async () => {
    try {
      const headers = { "content-type": "application/json", accept: "text/event-stream" };
      const response = await send(path, { method: "POST", headers, body: JSON.stringify(body), signal: end.signal });
      for await (const text of textOf(response)) {
        for (const data of text) listener.message(JSON.parse(data) as T);
      }
      listener.ended();
    } catch (error) {
      if (!end.signal.aborted) listener.lost(inWords(error));
    }
  })();
  return () => end.abort();
}

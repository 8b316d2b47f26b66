// What the node tells again and again: asked for while somebody looks, and shared by all that look.

import { useEffect } from "preact/hooks";
import { remembered, Value, useValue } from "../lib/value.ts";
import { get, inWords } from "./client.ts";
import { listen } from "./stream.ts";
import type { Certificates, Circuit, Member, MeshDocument, MeshEvent, Service, Status, Traffic, Workload } from "./types.ts";

export interface Told<T> {
  /** The last answer, also while there is trouble. */
  data: T | null;
  /** Why there is no newer one. */
  trouble: string | null;
  /** When it came, milliseconds since 1970. */
  at: number;
}

/** A source that runs while it is followed, and a little longer, so that changing pages does not start it anew. */
export class Feed<T> {
  readonly told = new Value<Told<T>>({ data: null, trouble: null, at: 0 });
  private stop: (() => void) | null = null;
  private users = 0;
  private readonly start: (feed: Feed<T>) => () => void;

  constructor(start: (feed: Feed<T>) => () => void) {
    this.start = start;
  }

  use(): () => void {
    this.users += 1;
    this.stop ??= this.start(this);
    return () => {
      this.users -= 1;
      setTimeout(() => {
        if (this.users > 0) return;
        this.stop?.();
        this.stop = null;
      }, 2_000);
    };
  }

  message(data: T): void {
    this.told.set({ data, trouble: null, at: Date.now() });
  }

  lost(why: string): void {
    this.told.set({ ...this.told.get(), trouble: why });
  }

  /** Asks anew, now: something was changed. */
  restart(): void {
    if (!this.stop) return;
    this.stop();
    this.stop = this.start(this);
  }
}

function polled<T>(path: string, every: number): Feed<T> {
  return new Feed<T>((feed) => {
    const end = new AbortController();
    void (async () => {
      while (!end.signal.aborted) {
        if (!document.hidden) {
          try {
            feed.message(await get<T>(path, end.signal));
          } catch (error) {
            if (end.signal.aborted) return;
            feed.lost(inWords(error));
          }
        }
        await new Promise((resolve) => setTimeout(resolve, every));
      }
    })();
    return () => end.abort();
  });
}

const KEPT_EVENTS = 2_000;

function timeline(): Feed<MeshEvent[]> {
  return new Feed<MeshEvent[]>((feed) => {
    let events: MeshEvent[] = [];
    let waiting = false;
    const message = (event: MeshEvent) => {
      events.push(event);
      if (waiting) return;
      waiting = true;
      // Many come at once at first.
      requestAnimationFrame(() => {
        waiting = false;
        events.sort((a, b) => b.at - a.at);
        events = events.slice(0, KEPT_EVENTS);
        feed.message([...events]);
      });
    };
    // The stream begins anew with all of the last hour.
    const lost = (why: string) => {
      events = [];
      feed.lost(why);
    };
    return listen<MeshEvent>("/api/v1/events?since=1h", { message, lost });
  });
}

/** What rates are of: the last seconds, or minutes, of which nodes tell the latest and history.ts has the rest. */
export const trafficWindow = remembered("window", "10s");

/** Minutes of a window that is longer than what nodes tell as they go; 0 of others. */
export function longMinutes(window: string): number {
  const minutes = Number(/^(\d+)m$/.exec(window)?.[1] ?? 0);
  return minutes > 1 ? minutes : 0;
}
trafficWindow.follow(() => feeds.traffic.restart());

export const feeds = {
  status: polled<Status>("/api/v1/status", 2_000),
  members: polled<Member[]>("/api/v1/members", 2_000),
  services: polled<Service[]>("/api/v1/services", 3_000),
  workloads: polled<Workload[]>("/api/v1/workloads", 5_000),
  certificates: polled<Certificates>("/api/v1/certificates", 30_000),
  circuits: polled<Circuit[]>("/api/v1/circuits", 1_000),
  documents: polled<MeshDocument[]>("/api/v1/documents", 3_000),
  events: timeline(),
  traffic: new Feed<Traffic>((feed) =>
    listen<Traffic>(`/api/v1/traffic?window=${longMinutes(trafficWindow.get()) ? "10s" : trafficWindow.get()}`, {
      message: (data) => feed.message(data),
      lost: (why) => feed.lost(why),
    }),
  ),
};

/** Follows a feed for as long as the component is there. */
export function useFeed<T>(feed: Feed<T>): Told<T> {
  useEffect(() => feed.use(), [feed]);
  return useValue(feed.told);
}

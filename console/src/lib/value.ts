// A value that components follow.

import { useEffect, useState } from "preact/hooks";

export class Value<T> {
  private current: T;
  private readonly followers = new Set<() => void>();

  constructor(initial: T) {
    this.current = initial;
  }

  get(): T {
    return this.current;
  }

  set(value: T): void {
    this.current = value;
    for (const follower of [...this.followers]) follower();
  }

  follow(follower: () => void): () => void {
    this.followers.add(follower);
    return () => this.followers.delete(follower);
  }

  get followed(): boolean {
    return this.followers.size > 0;
  }
}

/** The value, and a new rendering whenever it changes. */
export function useValue<T>(value: Value<T>): T {
  const [, render] = useState({});
  useEffect(() => {
    // It may have changed between rendering and now.
    render({});
    return value.follow(() => render({}));
  }, [value]);
  return value.get();
}

/** A value that this browser remembers. */
export function remembered<T>(key: string, initial: T): Value<T> {
  const kept = localStorage.getItem(`weft.${key}`);
  const value = new Value<T>(initial);
  if (kept !== null) {
    try {
      const known = JSON.parse(kept) as T;
      // What a newer version of the console added is as it begins.
      value.set(known && typeof known === "object" ? { ...initial, ...known } : known);
    } catch {
      // Of another version of the console.
    }
  }
  value.follow(() => localStorage.setItem(`weft.${key}`, JSON.stringify(value.get())));
  return value;
}

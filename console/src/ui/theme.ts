// Light, dark, or as the system has it.

import { remembered } from "../lib/value.ts";

export type Theme = "system" | "light" | "dark";
export const theme = remembered<Theme>("theme", "system");
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function apply(): void {
  const dark = theme.get() === "system" ? systemIsDark.matches : theme.get() === "dark";
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  // What is drawn on canvases takes its colours from the page.
  for (const follower of repainters) follower();
}

const repainters = new Set<() => void>();

/** Calls back when colours change. */
export function onRepaint(follower: () => void): () => void {
  repainters.add(follower);
  return () => repainters.delete(follower);
}

export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

theme.follow(apply);
systemIsDark.addEventListener("change", apply);
apply();

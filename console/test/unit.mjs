// Runs the unit tests, test/unit/*.test.ts, by Node's own runner: compiled first, as it reads no TypeScript.

import { spawnSync } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const folder = fileURLToPath(new URL("unit/", import.meta.url));
const out = await mkdtemp(join(tmpdir(), "weft-console-"));
try {
  const tests = (await readdir(folder)).filter((name) => name.endsWith(".test.ts"));
  await build({
    entryPoints: tests.map((name) => join(folder, name)),
    outdir: out,
    bundle: true,
    platform: "node",
    format: "esm",
    outExtension: { ".js": ".mjs" },
    logLevel: "warning",
    jsx: "automatic",
    jsxImportSource: "preact",
    // What modules of pages look at when they are loaded.
    banner: {
      js: "Object.assign(globalThis, { location: { hash: '' }, addEventListener() {}, localStorage: { getItem: () => null } });",
    },
  });
  const files = tests.map((name) => join(out, name.replace(/ts$/, "mjs")));
  process.exitCode = spawnSync(process.execPath, ["--test", ...files], { stdio: "inherit" }).status ?? 1;
} finally {
  await rm(out, { recursive: true });
}

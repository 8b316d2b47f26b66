// Builds the console: src/ to dist/, each file compressed, as the node serves it. `npm run build` checks types first.
import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

process.chdir(fileURLToPath(new URL(".", import.meta.url)));
/** What the whole console may take, in bytes as it is sent. */
const BUDGET = 400 * 1024;

const files = new Map();
const { outputFiles, metafile } = await build({
  entryPoints: ["src/main.tsx", "src/style.css"],
  outdir: "dist",
  bundle: true,
  splitting: true,
  format: "esm",
  target: ["es2022"],
  minify: true,
  legalComments: "none",
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  metafile: true,
  write: false,
  // Preact's types are checked by tsc; here it is only told where `jsx` is.
  jsx: "automatic",
  jsxImportSource: "preact",
});
for (const { path, contents } of outputFiles) files.set(basename(path), contents);

const named = (start, end) => [...files.keys()].find((name) => name.startsWith(start) && name.endsWith(end));
const page = await readFile("src/index.html", "utf8");
const html = page.replace("main.js", named("main-", ".js")).replace("style.css", named("style-", ".css"));
files.set("index.html", Buffer.from(html));
files.set("licenses.txt", Buffer.from(await licenses(Object.keys(metafile.inputs))));

for (const name of await readdir("dist").catch(() => [])) {
  if (name !== ".gitignore") await rm(`dist/${name}`);
}
await mkdir("dist", { recursive: true });
let total = 0;
for (const [name, contents] of files) {
  const compressed = gzipSync(contents, { level: 9 });
  total += compressed.length;
  await writeFile(`dist/${name}.gz`, compressed);
}
// The node tells browsers by this whether they have the page already.
const version = createHash("sha256").update([...files.keys()].sort().join()).update(files.get("index.html"));
await writeFile("dist/version", version.digest("hex").slice(0, 16));
console.log(`console: ${files.size} files, ${(total / 1024).toFixed(1)} KiB of ${BUDGET / 1024} KiB compressed`);
if (total > BUDGET) {
  console.error("console: larger than its budget; see BUDGET in console/build.mjs");
  process.exit(1);
}

/** The licences of all packages that are in the bundle. */
async function licenses(inputs) {
  const packages = new Set();
  for (const input of inputs) {
    const found = input.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/);
    if (found) packages.add(found[1]);
  }
  let text = "The console of weft holds these packages, whose licences follow.\n";
  for (const name of [...packages].sort()) {
    const folder = `node_modules/${name}`;
    const { version, license } = JSON.parse(await readFile(`${folder}/package.json`, "utf8"));
    const file = (await readdir(folder)).find((file) => /^licen[cs]e/i.test(file));
    const licence = file ? await readFile(`${folder}/${file}`, "utf8") : `${license}\n`;
    text += `\n=== ${name} ${version} (${license})\n\n${licence.trim()}\n`;
  }
  return text;
}

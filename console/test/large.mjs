// The graph of 200 services and 600 edges, from a server that plays the admin API: how many frames a second it draws, and
// that places stay as traffic changes. Served with the console as it is built.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { check, open, start, until } from "./chromium.mjs";

const SERVICES = 200;
const EDGES = 600;
/** What any machine should reach; what this one does is printed. The goal is 30. */
const FEWEST = 5;
const NAMESPACES = 10;

let seed = 1;
const random = () => (seed = (seed * 48_271) % 2_147_483_647) / 2_147_483_647;
const name = (i) => ({ namespace: `team-${i % NAMESPACES}`, service: `service-${i}`, workload: `service-${i}-v1` });
const pairs = new Set();
while (pairs.size < EDGES) {
  // Mostly within a namespace, and mostly onwards, as meshes are.
  const from = Math.floor(random() * (SERVICES - 1));
  const within = random() < 0.8;
  const to = within ? from + NAMESPACES * (1 + Math.floor(random() * 5)) : from + 1 + Math.floor(random() * (SERVICES - from - 1));
  if (to < SERVICES) pairs.add(`${from}>${to}`);
}
const rows = () =>
  [...pairs].map((pair) => {
    const [from, to] = pair.split(">").map((i) => name(Number(i)));
    const requests = 1 + random() * 100;
    return {
      source_namespace: from.namespace, source_workload: from.workload, service_namespace: to.namespace, service: to.service,
      destination_namespace: to.namespace, destination_workload: to.workload, protocol: "http", reporter: "source", requests,
      failures: random() < 0.05 ? requests / 10 : 0, retries: 0, durations: [0, 0, requests], opened: 0, refused: 0, open: 0,
      received_bytes: 100, sent_bytes: 10_000,
    };
  });

const dist = new URL("../dist/", import.meta.url);
const types = { html: "text/html", js: "text/javascript", css: "text/css", txt: "text/plain" };
const server = createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://x");
  if (pathname === "/api/v1/traffic") {
    response.writeHead(200, { "content-type": "text/event-stream" });
    const tell = () => response.write(`data: ${JSON.stringify({ window_seconds: 10, rows: rows(), nodes: 1, silent: [], left_out: 0 })}\n\n`);
    tell();
    const timer = setInterval(tell, 1_000);
    response.on("close", () => clearInterval(timer));
  } else if (pathname === "/api/v1/status") {
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify({ name: "large", members_alive: 1, members_known: 1, actors: [], not_ready: [], ready: true }));
  } else if (pathname.startsWith("/api/")) {
    response.writeHead(200, { "content-type": "application/json" });
    response.end("[]");
  } else {
    const file = pathname === "/" ? "index.html" : pathname.slice(1);
    try {
      const content = await readFile(new URL(`${file}.gz`, dist));
      response.writeHead(200, { "content-type": types[file.split(".").pop()], "content-encoding": "gzip" });
      response.end(content);
    } catch {
      response.writeHead(404).end();
    }
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const origin = `http://127.0.0.1:${server.address().port}`;

const browser = await start();
try {
  const opened = await open(browser);
  const { page, complaints } = opened;
  const began = Date.now();
  await page.goto(`${origin}/#/graph`);
  await until("all of it is there", () => page.evaluate((edges) => (window.weftGraph?.labels().length ?? 0) >= edges, EDGES));
  const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? 0);
  console.log(`first paint after ${paint.toFixed(0)} ms, ${EDGES} edges after ${Date.now() - began} ms`);
  const places = () => page.evaluate(() => JSON.stringify(window.weftGraph.boxes()));
  const before = await places();
  const count = () => page.evaluate(() => [window.weftGraph.frames, performance.now()]);
  const [frames, since] = await count();
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  const [more, now] = await count();
  const perSecond = ((more - frames) * 1_000) / (now - since);
  console.log(`${SERVICES} services and ${EDGES} edges: ${perSecond.toFixed(1)} frames/s`);
  check((await places()) === before, "boxes stay where they are while traffic changes");
  const zoomed = async () => {
    const [frames, since] = await count();
    for (let i = 0; i < 60; i += 1) {
      await page.mouse.move(640, 500);
      await page.mouse.wheel(0, i % 20 < 10 ? -60 : 60);
    }
    const [more, now] = await count();
    return ((more - frames) * 1_000) / (now - since);
  };
  console.log(`while it is zoomed: ${(await zoomed()).toFixed(1)} frames/s`);
  if (process.env.CONSOLE_SHOTS) await page.screenshot({ path: `${process.env.CONSOLE_SHOTS}/console-large.png` });
  check(perSecond >= FEWEST, `only ${perSecond.toFixed(1)} frames/s`);
  check(complaints.length === 0, complaints.join("\n"));
} finally {
  await browser.close();
  server.closeAllConnections();
  server.close();
}

// The page of the mesh, on a real mesh of two cells: cells and relays, and that a relay that was killed is one no more.

import { check, faults, open, start, until } from "./chromium.mjs";

const { CONSOLE_URL, CELLS } = process.env;
const browser = await start();
try {
  const { page, complaints } = await open(browser);
  await page.goto(CONSOLE_URL);
  await until("it is signed in", () => !page.url().includes("sign-in"));
  await page.goto(new URL("#/mesh", page.url()).href);
  const table = page.getByRole("table", { name: "Cells" });
  const rows = async () => {
    const texts = await table.locator("tbody tr").evaluateAll((rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent.replace(/[^\w\s-]/g, "").trim()).join(" ")));
    return texts.join("; ");
  };
  await until(`the page says: ${CELLS}`, async () => (await rows()) === CELLS || Promise.reject(await rows()));
  const serious = await faults(page);
  check(serious.length === 0, serious.join("\n"));
  check(complaints.length === 0, complaints.join("\n"));
} finally {
  await browser.close();
}

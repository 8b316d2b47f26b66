// The console's frame: navigation, theme, session, and the page that the address names.

import { render, type ComponentType } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { signedIn } from "./api/client.ts";
import { feeds, useFeed } from "./api/feeds.ts";
import { record } from "./api/history.ts";
import { lookUpSession, signIn, signOut } from "./api/session.ts";
import { GraphPage } from "./graph/page.tsx";
import { go, href, place, type PageProps } from "./lib/router.ts";
import { useValue } from "./lib/value.ts";
import { CircuitsPage } from "./pages/circuits.tsx";
import { EventsPage } from "./pages/events.tsx";
import { ExplainPage } from "./pages/explain.tsx";
import { MeshPage } from "./pages/mesh.tsx";
import { NodesPage } from "./pages/nodes.tsx";
import { OverviewPage } from "./pages/overview.tsx";
import { PolicyPage } from "./pages/policy.tsx";
import { ServicesPage } from "./pages/services.tsx";
import { TracesPage } from "./pages/traces.tsx";
import { WorkloadsPage } from "./pages/workloads.tsx";
import { Title, Trouble } from "./ui/bits.tsx";
import { theme, type Theme } from "./ui/theme.ts";

type Page = ComponentType<PageProps>;

const PAGES: [string, string, Page][] = [
  ["graph", "Graph", GraphPage],
  ["overview", "Overview", OverviewPage],
  ["services", "Services", ServicesPage],
  ["workloads", "Workloads", WorkloadsPage],
  ["nodes", "Nodes", NodesPage],
  ["circuits", "Circuits", CircuitsPage],
  ["traces", "Traces", TracesPage],
  ["events", "Events", EventsPage],
  ["policy", "Policy", PolicyPage],
  ["explain", "Explain", ExplainPage],
  ["mesh", "Mesh", MeshPage],
];

function SignInPage({ path }: { path: string[] }) {
  const [why, setWhy] = useState<string | null>(null);
  const code = path[0] ?? "";
  useEffect(() => {
    // The code is of no use a second time: it does not stay in the browser's history.
    history.replaceState(null, "", "#/sign-in");
    void signIn(code).then((wrong) => (wrong === null ? go(["graph"]) : setWhy(wrong)));
  }, [code]);
  return (
    <>
      <Title>Sign in</Title>
      {why === null ? <p class="quiet">Signing in…</p> : <Trouble>{why}</Trouble>}
    </>
  );
}

function Menu({ here }: { here: string }) {
  const menu = useRef<HTMLElement>(null);
  useEffect(() => {
    // On a small screen only a part of the menu is in sight.
    const [bar, item] = [menu.current!, menu.current!.querySelector<HTMLElement>("[aria-current]")];
    if (item) bar.scrollLeft = item.offsetLeft - bar.offsetLeft - (bar.clientWidth - item.clientWidth) / 2;
  }, [here]);
  return (
    <nav aria-label="Pages" ref={menu}>
      <ul>
        {PAGES.map(([name, text]) => (
          <li key={name}>
            <a href={href([name])} aria-current={here === name ? "page" : undefined}>
              {text}
            </a>
          </li>
        ))}
      </ul>
    </nav>
  );
}

function Session() {
  if (useValue(signedIn)) {
    return (
      <button type="button" onClick={() => void signOut()}>
        Sign out
      </button>
    );
  }
  return (
    <span class="quiet" title="`weft console` on this host prints the address that signs in">
      read-only
    </span>
  );
}

function Frame() {
  const { path, query } = useValue(place);
  const main = useRef<HTMLElement>(null);
  const chosen = useValue(theme);
  const status = useFeed(feeds.status);
  const here = path[0] ?? "graph";
  const PageHere = PAGES.find(([name]) => name === here)?.[2];
  const focusMain = () => main.current?.querySelector<HTMLElement>("h1")?.focus();
  const turns = useRef(0);
  useEffect(() => {
    // Whoever hears the page is told of the new one; at first nothing is taken from the browser.
    if (turns.current > 0) focusMain();
    turns.current += 1;
  }, [path.join("/")]);
  return (
    <>
      <button type="button" class="skip" onClick={focusMain}>
        Skip to the page
      </button>
      <header class="top">
        <a class="brand" href={href(["graph"])}>
          weft
        </a>
        <Menu here={here} />
        <div class="beside">
          <span class={`node ${status.trouble ? "bad" : ""}`} title={status.trouble ?? "the node that tells this"}>
            {status.data ? `${status.data.name} · ${status.data.members_alive}/${status.data.members_known}` : "…"}
            {status.trouble && " · no answer"}
          </span>
          <Session />
          <label>
            <span class="unseen">Theme</span>
            <select value={chosen} onChange={(event) => theme.set(event.currentTarget.value as Theme)}>
              <option value="system">System</option>
              <option value="light">Light</option>
              <option value="dark">Dark</option>
            </select>
          </label>
        </div>
      </header>
      <main ref={main}>
        {here === "sign-in" ? (
          <SignInPage path={path.slice(1)} />
        ) : PageHere ? (
          <PageHere path={path.slice(1)} query={query} />
        ) : (
          <>
            <Title>No such page</Title>
            <p>
              The console has no page “{here}”. <a href={href(["graph"])}>See the graph</a>
            </p>
          </>
        )}
      </main>
    </>
  );
}

void lookUpSession();
record();
render(<Frame />, document.getElementById("app")!);

// Policy: all documents, and one with its status, history and editor.

import { useEffect, useState } from "preact/hooks";
import { inWords, post, signedIn } from "../api/client.ts";
import { feeds, useFeed } from "../api/feeds.ts";
import type { DocumentKey, DocumentVersion, MeshDocument } from "../api/types.ts";
import { documentHref, documentName, keyOf, sameKey, toYaml, verdict } from "../lib/documents.ts";
import { ago, dateTime } from "../lib/format.ts";
import { go, href, type PageProps } from "../lib/router.ts";
import { useValue } from "../lib/value.ts";
import { Facts, ForOperators, Loaded, Mark, Title, toneOfState, Trouble } from "../ui/bits.tsx";
import { Table, type Column } from "../ui/table.tsx";
import { Workbench } from "./workbench.tsx";

export function PolicyPage({ path }: PageProps) {
  if (path[0] === "new") return <NewDocument />;
  return path.length >= 4 ? <OneDocument key={path.join("/")} of={keyOf(path)} /> : <AllDocuments />;
}

const COLUMNS: Column<MeshDocument>[] = [
  { name: "Kind", by: ({ key }) => key.kind, cell: ({ key }) => key.kind },
  { name: "Name", by: ({ key }) => key.name, cell: ({ key }) => <a href={documentHref(key)}>{key.name}</a> },
  { name: "Namespace", by: ({ key }) => key.namespace, cell: ({ key }) => key.namespace ?? "" },
  {
    name: "Status",
    long: true,
    by: (document) => verdict(document).word,
    cell: (document) => {
      const { word, why } = verdict(document);
      return <Mark tone={toneOfState(word)}>{why ? `${word}: ${why}` : word}</Mark>;
    },
  },
  {
    name: "Nodes",
    number: true,
    by: ({ status }) => status.nodes.current / Math.max(1, status.nodes.total),
    cell: ({ status }) => `${status.nodes.current}/${status.nodes.total}`,
  },
  { name: "Changed", number: true, by: ({ updated_millis }) => updated_millis, cell: ({ updated_millis }) => ago(updated_millis) },
  { name: "By", by: ({ author }) => author, cell: ({ author }) => author.replace(/^spiffe:\/\/[^/]+\//, "") },
];

function AllDocuments() {
  return (
    <>
      <Title beside={<a class="button" href={href(["policy", "new"])}>New document</a>}>Policy</Title>
      <Loaded told={useFeed(feeds.documents)}>
        {(documents) => (
          <Table
            label="Documents"
            rows={documents}
            columns={COLUMNS}
            id={({ key }) => documentName(key) + key.group}
            empty="The mesh has no documents yet."
          />
        )}
      </Loaded>
    </>
  );
}

const EXAMPLE = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: my-service
  namespace: default
spec:
  hosts:
    - my-service
  http:
    - route:
        - destination:
            host: my-service
`;

function NewDocument() {
  return (
    <>
      <Title>New document</Title>
      <ForOperators what="change documents">
        <Workbench
          text={EXAMPLE}
          namespace="default"
          version={null}
          done={(keys) => (keys.length === 1 ? (location.hash = documentHref(keys[0]!)) : go(["policy"]))}
        />
      </ForOperators>
    </>
  );
}

/** What is in the editor. */
interface Editing {
  text: string;
  /** The version that it is a change of. */
  version: string;
  /** Grows when another text is loaded, so that the editor begins anew. */
  turn: number;
}

function OneDocument({ of }: { of: DocumentKey }) {
  const told = useFeed(feeds.documents);
  const document = told.data?.find(({ key }) => sameKey(key, of));
  // What is being edited stays as it is when others change the document meanwhile: then applying it is refused.
  const [edited, setEdited] = useState<Editing | null>(null);
  const load = (text: string) =>
    document && setEdited((was) => ({ text, version: document.version, turn: (was?.turn ?? 0) + 1 }));
  useEffect(() => {
    if (document && !edited) load(toYaml(document.body));
    // Not when it has just been applied: what the node tells is of before then.
  }, [document?.version]);
  return (
    <>
      <Title beside={<a href={href(["policy"])}>All documents</a>}>{documentName(of)}</Title>
      <Loaded told={told}>
        {() =>
          document ? (
            <Facts
              of={[
                ["Status", <Verdict of={document} />],
                ["On nodes", `${document.status.nodes.current} of ${document.status.nodes.total}${document.status.nodes.lagging.length ? `, not yet on ${document.status.nodes.lagging.join(", ")}` : ""}`],
                ["Changed", `${dateTime(document.updated_millis)} by ${document.author}`],
                ["Version", <code>{document.version}</code>],
              ]}
            />
          ) : (
            <p>The mesh has no such document now. Its history may still be known.</p>
          )
        }
      </Loaded>
      {document && edited && edited.version !== document.version && (
        <Trouble>
          It was changed meanwhile, so what is below is of an earlier version.{" "}
          <button type="button" onClick={() => load(toYaml(document.body))}>
            Load the present one
          </button>
        </Trouble>
      )}
      {edited && document && <Body edited={edited} document={document} reload={() => setEdited(null)} />}
      <h2>History</h2>
      <ForOperators what="see earlier versions and go back to them">
        <History of={of} version={document?.version ?? ""} load={load} />
      </ForOperators>
    </>
  );
}

function Verdict({ of }: { of: MeshDocument }) {
  const { word, why } = verdict(of);
  return (
    <>
      <Mark tone={toneOfState(word)}>{word}</Mark> {why}
    </>
  );
}

function Body(props: { edited: Editing; document: MeshDocument; reload: () => void }) {
  const { edited, document } = props;
  const isSecret = document.key.kind === "Secret" || document.key.kind === "ConfigMap";
  if (!useValue(signedIn) || isSecret) {
    return (
      <>
        <pre tabIndex={0} aria-label="The document">{edited.text}</pre>
        {isSecret ? (
          <p class="quiet">Its content is not told to anybody. `weft apply` changes it.</p>
        ) : (
          <ForOperators what="change it">{null}</ForOperators>
        )}
      </>
    );
  }
  return (
    <Workbench
      key={edited.turn}
      text={edited.text}
      namespace={document.key.namespace ?? "default"}
      version={edited.version}
      deletes={document.key}
      done={(keys) => {
        props.reload();
        feeds.documents.restart();
        if (keys.length === 0) go(["policy"]);
      }}
    />
  );
}

function History({ of, version, load }: { of: DocumentKey; version: string; load: (text: string) => void }) {
  const [told, setTold] = useState<{ versions: DocumentVersion[]; silent: string[] } | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  useEffect(() => {
    const end = new AbortController();
    post<{ versions: DocumentVersion[]; silent: string[] }>("/api/v1/documents/history", of, end.signal)
      .then(setTold)
      .catch((error) => end.signal.aborted || setTrouble(inWords(error)));
    return () => end.abort();
  }, [version, documentName(of)]);
  if (trouble) return <Trouble>{trouble}</Trouble>;
  if (!told) return <p class="quiet">Asking all nodes…</p>;
  return (
    <ol class="plain">
      {told.versions.map((one, i) => (
        <li key={one.version}>
          {dateTime(Date.parse(one.time))}: {one.event} by {one.author.replace(/^spiffe:\/\/[^/]+\//, "")}
          {one.node && ` at ${one.node}`} <code>{one.version}</code>{" "}
          {i === 0 && <span class="quiet">the present one</span>}
          {i > 0 && one.body !== null && (
            <button type="button" onClick={() => load(toYaml(one.body!))}>
              Load into the editor
            </button>
          )}
        </li>
      ))}
      {told.silent.length > 0 && <li class="quiet">No answer from {told.silent.join(", ")}.</li>}
    </ol>
  );
}

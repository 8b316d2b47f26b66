// The editor for documents, by CodeMirror. It is a chunk of its own, loaded when a document is opened.

import { autocompletion, closeBrackets, completionKeymap, type CompletionContext, type CompletionResult } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { yaml } from "@codemirror/lang-yaml";
import { bracketMatching, HighlightStyle, indentOnInput, syntaxHighlighting } from "@codemirror/language";
import { lintGutter, setDiagnostics } from "@codemirror/lint";
import { EditorState } from "@codemirror/state";
import { EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { get } from "../api/client.ts";
import type { Edited, Kind } from "../api/types.ts";
import { fieldsAt, spotIn, valuesAt, type Option, type Schema } from "./complete.ts";

const kinds = get<Kind[]>("/api/v1/schemas").catch((): Kind[] => []);
const schemas = new Map<string, Promise<Schema | null>>();

function schemaOf(kind: string): Promise<Schema | null> {
  const known = schemas.get(kind) ?? get<Schema>(`/api/v1/schemas/${kind}`).catch(() => null);
  schemas.set(kind, known);
  return known;
}

async function complete(context: CompletionContext): Promise<CompletionResult | null> {
  const text = context.state.doc.toString();
  const spot = spotIn(text.slice(0, context.pos), text.slice(context.pos));
  if (!spot.typed && !context.explicit && spot.field === null) return null;
  const from = context.pos - spot.typed.length;
  const here = spot.path.length === 0;
  if (here && (spot.field === "kind" || spot.field === "apiVersion")) {
    const known = await kinds;
    const names = known.flatMap(({ kind, group, versions }) =>
      spot.field === "kind" ? [kind] : versions.map((version) => (group ? `${group}/${version}` : version)),
    );
    return { from, options: [...new Set(names)].map((label) => ({ label, type: "enum" })) };
  }
  if (spot.kind === null) {
    const labels = ["apiVersion", "kind", "metadata", "spec"];
    return here && !spot.field ? { from, options: labels.map((label) => ({ label, apply: `${label}: `, type: "property" })) } : null;
  }
  const schema = await schemaOf(spot.kind);
  if (!schema) return null;
  if (spot.field !== null) {
    const values = valuesAt(schema, [...spot.path, spot.field]);
    return values.length ? { from, options: values.map(({ label, info }) => ({ label, info, type: "enum" })) } : null;
  }
  const line = context.state.doc.lineAt(context.pos);
  const indent = " ".repeat(/^\s*(?:- )*/.exec(line.text)![0].length);
  const apply = ({ label, opens }: Option) =>
    opens === "value" ? `${label}: ` : `${label}:\n${indent}  ${opens === "list" ? "- " : ""}`;
  const options = fieldsAt(schema, spot.path);
  return { from, options: options.map((option) => ({ label: option.label, info: option.info, apply: apply(option), type: "property" })) };
}

const colours = HighlightStyle.define([
  { tag: [tags.propertyName, tags.definition(tags.propertyName)], color: "var(--accent)" },
  { tag: [tags.string, tags.content], color: "var(--text)" },
  { tag: [tags.number, tags.bool, tags.null, tags.keyword], color: "var(--poor-text)" },
  { tag: tags.comment, color: "var(--quiet)" },
]);

const theme = EditorView.theme({
  "&": { color: "var(--text)", backgroundColor: "var(--card)", fontSize: "13px", maxHeight: "60vh" },
  "&.cm-focused": { outline: "2px solid var(--accent)" },
  ".cm-content": { caretColor: "var(--text)", fontFamily: "ui-monospace, monospace" },
  ".cm-scroller": { overflow: "auto" },
  ".cm-gutters": { backgroundColor: "var(--bg)", color: "var(--quiet)", border: "none" },
  ".cm-activeLine": { backgroundColor: "transparent" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "var(--select)" },
  ".cm-tooltip": { backgroundColor: "var(--card)", color: "var(--text)", border: "1px solid var(--line)" },
  ".cm-tooltip-autocomplete ul li[aria-selected]": { backgroundColor: "var(--accent)", color: "var(--card)" },
  ".cm-completionInfo": { maxWidth: "320px", whiteSpace: "normal" },
});

/**
 * Types over a selection itself. Chromium would give what is typed the style of what was selected, inline, which the content
 * security policy refuses with an error on the console. Handlers of typing, such as the one that closes brackets, are asked
 * first, as CodeMirror asks them.
 */
const typesOver = EditorView.domEventHandlers({
  beforeinput(event, view) {
    const { state } = view;
    const { from, to, empty } = state.selection.main;
    if (event.inputType !== "insertText" || event.data === null || empty || event.isComposing || state.readOnly) return false;
    const text = event.data;
    const insert = () => state.update(state.replaceSelection(text), { userEvent: "input.type", scrollIntoView: true });
    if (!state.facet(EditorView.inputHandler).some((handler) => handler(view, from, to, text, insert))) view.dispatch(insert());
    event.preventDefault();
    return true;
  },
  // What is composed, in Japanese say, cannot be typed for the browser: what was selected goes before.
  compositionstart(_, view) {
    const { state } = view;
    if (!state.selection.main.empty && !state.readOnly) view.dispatch(state.replaceSelection(""), { userEvent: "delete.selection" });
    return false;
  },
});

/** Puts an editor into the page; `changed` hears of each new text. */
export function makeEditor(place: HTMLElement, text: string, changed: (text: string) => void) {
  // In a shadow tree CodeMirror's styles are sheets that scripts construct, which the content security policy allows; in
  // the page itself they would be inline.
  const root = place.shadowRoot ?? place.attachShadow({ mode: "open" });
  const view = new EditorView({
    root,
    parent: root as unknown as HTMLElement,
    state: EditorState.create({
      doc: text,
      extensions: [
        lineNumbers(),
        history(),
        indentOnInput(),
        bracketMatching(),
        closeBrackets(),
        highlightActiveLine(),
        yaml(),
        syntaxHighlighting(colours),
        lintGutter(),
        autocompletion({ override: [complete] }),
        // Tab indents; after Escape it leaves the editor, which CodeMirror sees to.
        keymap.of([...completionKeymap, ...defaultKeymap, ...historyKeymap, indentWithTab]),
        typesOver,
        EditorView.contentAttributes.of({ tabindex: "0", "aria-label": "Documents as YAML. Escape, then Tab, leaves the editor." }),
        EditorView.updateListener.of((update) => {
          if (update.docChanged) changed(update.state.doc.toString());
        }),
        theme,
      ],
    }),
  });
  return {
    problems(found: Edited["problems"]): void {
      const { doc } = view.state;
      const diagnostics = found.map(({ line, column, severity, message }) => {
        const at = doc.line(Math.min(Math.max(1, line), doc.lines));
        const from = Math.min(at.from + Math.max(0, column - 1), at.to);
        return { from, to: Math.max(from, at.to), severity, message };
      });
      view.dispatch(setDiagnostics(view.state, diagnostics));
    },
    destroy: () => view.destroy(),
  };
}

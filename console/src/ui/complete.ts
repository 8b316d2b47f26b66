// What may stand where the cursor is in a document, by the JSON Schema of its kind.

export interface Schema {
  $ref?: string;
  $defs?: Record<string, Schema>;
  type?: string | string[];
  description?: string;
  properties?: Record<string, Schema>;
  items?: Schema;
  additionalProperties?: boolean | Schema;
  enum?: unknown[];
  const?: unknown;
  oneOf?: Schema[];
  anyOf?: Schema[];
  allOf?: Schema[];
}

export interface Spot {
  /** The document's kind, if it says one. */
  kind: string | null;
  /** Fields that lead to where the cursor is; items of lists count as "[]". */
  path: string[];
  /** The field whose value is being written, or null where a field's name is. */
  field: string | null;
  /** What has been typed of it. */
  typed: string;
}

const FIELD = /^((?:- )*)\s*([A-Za-z0-9_.$/-]+):(?:\s|$)/;

/** Where the cursor is, at the end of `before`; `after` is the rest of the text. */
export function spotIn(before: string, after = ""): Spot {
  const start = before.lastIndexOf("\n---") + 1;
  const lines = before.slice(start).split("\n");
  const line = lines.pop() ?? "";
  const rest = after.split(/\n---/)[0] ?? "";
  const kind = /^kind:\s*["']?([A-Za-z]+)/m.exec([...lines, line].join("\n") + rest)?.[1] ?? null;

  const value = /^(\s*(?:- )*)([A-Za-z0-9_.$/-]+):\s+(\S*)$/.exec(line);
  const name = value ? value[2]! : null;
  const typed = value ? value[3]! : (/([A-Za-z0-9_.$/-]*)$/.exec(line)?.[1] ?? "");
  // A dash counts as indentation: what follows it is inside of an item.
  const lead = /^\s*(?:- )*/.exec(line)![0];
  let indent = lead.length;
  const path: string[] = [];
  // An item in the present line is an item of what stands above, even at the same depth.
  let dashes = (lead.match(/- /g) ?? []).length;
  let item = dashes > 0 ? lead.indexOf("-") : -1;
  for (const above of lines.reverse()) {
    if (above.trim() === "" || above.trimStart().startsWith("#")) continue;
    const depth = /^\s*/.exec(above)![0].length;
    const inner = depth + (/^(?:- )*/.exec(above.slice(depth))![0].length);
    const found = FIELD.exec(above.slice(depth));
    const hasDash = inner > depth;
    if (item >= 0) {
      // Looking for the list that the item is in.
      if (found && inner <= item && !(hasDash && depth === item)) {
        path.unshift(found[2]!, "[]");
        indent = inner;
        item = hasDash ? depth : -1;
      }
      continue;
    }
    if (inner === indent && hasDash) item = depth;
    else if (found && inner < indent) {
      path.unshift(found[2]!);
      indent = inner;
      if (hasDash) item = depth;
    }
    dashes = 0;
  }
  return { kind, path, field: name, typed };
}

/** All schemas that a schema stands for. */
function alternatives(schema: Schema | undefined, root: Schema, depth = 0): Schema[] {
  if (!schema || depth > 12) return [];
  if (schema.$ref) return alternatives(root.$defs?.[schema.$ref.replace("#/$defs/", "")], root, depth + 1);
  const inner = [...(schema.oneOf ?? []), ...(schema.anyOf ?? []), ...(schema.allOf ?? [])];
  return [schema, ...inner.flatMap((one) => alternatives(one, root, depth + 1))];
}

/** The schemas at the end of a path. */
export function schemasAt(root: Schema, path: string[]): Schema[] {
  let here = alternatives(root, root);
  for (const step of path) {
    here = here.flatMap((schema) => {
      const next = step === "[]" ? schema.items : (schema.properties?.[step] ?? (typeof schema.additionalProperties === "object" ? schema.additionalProperties : undefined));
      return alternatives(next, root);
    });
  }
  return here;
}

export interface Option {
  label: string;
  info: string;
  /** Whether more fields, or a list, stand below it. */
  opens: "fields" | "list" | "value";
}

/** The fields that may stand there. */
export function fieldsAt(root: Schema, path: string[]): Option[] {
  const found = new Map<string, Option>();
  for (const schema of schemasAt(root, path)) {
    for (const [label, inner] of Object.entries(schema.properties ?? {})) {
      const all = alternatives(inner, root);
      const is = (type: string) => all.some((one) => one.type === type || (Array.isArray(one.type) && one.type.includes(type)));
      const opens = is("array") ? "list" : is("object") || all.some(({ properties }) => properties) ? "fields" : "value";
      const info = inner.description ?? all.find(({ description }) => description)?.description ?? "";
      found.set(label, { label, info, opens });
    }
  }
  return [...found.values()];
}

/** The values that may stand there, where they are few. */
export function valuesAt(root: Schema, path: string[]): Option[] {
  const schemas = schemasAt(root, path);
  const all = schemas.flatMap(({ enum: values, const: one, description = "" }) =>
    [...(values ?? []), ...(one === undefined ? [] : [one])].map((value) => ({ label: String(value), info: description, opens: "value" as const })),
  );
  const isBoolean = schemas.some(({ type }) => type === "boolean" || (Array.isArray(type) && type.includes("boolean")));
  return isBoolean ? [...all, ...["true", "false"].map((label) => ({ label, info: "", opens: "value" as const }))] : all;
}

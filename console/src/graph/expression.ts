// What `find` and `hide` understand: such as `ns = prod and (error > 1 or circuit)`, or a part of a name.

import { bytesPerSecond, quantile, success } from "../lib/rates.ts";
import type { Box, Edge } from "./model.ts";

type Field = string | number | boolean | null;
type Fields = Record<string, Field>;
export type Test = (fields: Fields) => boolean;

export const FIELDS =
  "name, ns, kind, version, from, to, protocol, rps, error (%), success (%), p95 (ms), bps, share (%), circuit, mtls, idle";

function numbers(rates: Box["inbound"]): Fields {
  const ok = success(rates);
  return {
    rps: rates.requests,
    error: ok === null ? null : (1 - ok) * 100,
    success: ok === null ? null : ok * 100,
    p95: quantile(rates, 0.95),
    bps: bytesPerSecond(rates),
    idle: rates.requests + rates.opened + rates.open === 0,
  };
}

export function fieldsOfBox(box: Box): Fields {
  return {
    ...numbers(box.inbound),
    name: box.name,
    ns: box.namespace,
    kind: box.kind,
    version: box.slots.map(({ version }) => version).join(" "),
    circuit: box.circuit,
    idle: [box.inbound, box.outbound].every((rates) => rates.requests + rates.opened + rates.open === 0),
  };
}

export function fieldsOfEdge(edge: Edge): Fields {
  return {
    ...numbers(edge.rates),
    from: edge.fromName,
    to: edge.toName,
    protocol: edge.protocol,
    share: edge.share === null ? null : edge.share * 100,
    circuit: edge.circuit,
    mtls: edge.mtls,
  };
}

const TOKEN = /\s*(?:(\(|\)|!=|>=|<=|=|>|<|~|!)|"([^"]*)"|([^\s()=<>~!"]+))/y;

interface Token {
  text: string;
  /** Operators and brackets. */
  sign: boolean;
}

function tokens(text: string): Token[] {
  const found: Token[] = [];
  TOKEN.lastIndex = 0;
  while (text.slice(TOKEN.lastIndex).trim() !== "") {
    const at = TOKEN.lastIndex;
    const match = TOKEN.exec(text);
    if (!match) throw new Error(`cannot read ${JSON.stringify(text.slice(at).trim())}`);
    found.push({ text: match[1] ?? match[2] ?? match[3] ?? "", sign: match[1] !== undefined });
  }
  return found;
}

/** Reads an expression; null if there is none. What is wrong with it is thrown as an Error for people. */
export function parse(text: string): Test | null {
  const left = tokens(text);
  if (left.length === 0) return null;
  const next = () => left[0];
  const isWord = (word: string) => next() && !next()!.sign && next()!.text.toLowerCase() === word;

  const either = (): Test => {
    let test = both();
    while (isWord("or")) {
      left.shift();
      const [one, other] = [test, both()];
      test = (fields) => one(fields) || other(fields);
    }
    return test;
  };
  const both = (): Test => {
    let test = single();
    while (next() && next()!.text !== ")" && !isWord("or")) {
      // "and" may be left out.
      if (isWord("and")) left.shift();
      const [one, other] = [test, single()];
      test = (fields) => one(fields) && other(fields);
    }
    return test;
  };
  const single = (): Test => {
    const token = left.shift();
    if (!token) throw new Error("something is missing at the end");
    if (token.text === "!" || (!token.sign && token.text.toLowerCase() === "not")) {
      const test = single();
      return (fields) => !test(fields);
    }
    if (token.sign && token.text === "(") {
      const test = either();
      if (left.shift()?.text !== ")") throw new Error("a ) is missing");
      return test;
    }
    if (token.sign) throw new Error(`a field's name is missing before ${token.text}`);
    const sign = next()?.sign ? next()!.text : "";
    if (!["=", "!=", ">", "<", ">=", "<=", "~"].includes(sign)) return word(token.text);
    left.shift();
    const value = left.shift();
    if (!value || value.sign) throw new Error(`a value is missing after ${token.text} ${sign}`);
    return comparison(token.text.toLowerCase(), sign, value.text);
  };

  const test = either();
  if (left.length > 0) throw new Error(`${left[0]!.text} is too much`);
  return test;
}

/** A field that is true or there, or else a part of a name. */
function word(text: string): Test {
  const wanted = text.toLowerCase();
  if (["circuit", "mtls", "idle"].includes(wanted)) return (fields) => Boolean(fields[wanted]);
  const has = (value: Field | undefined) => typeof value === "string" && value.toLowerCase().includes(wanted);
  return (fields) => has(fields.name) || has(fields.from) || has(fields.to);
}

function comparison(name: string, sign: string, value: string): Test {
  const known = FIELDS.replace(/ \([^)]*\)/g, "").split(", ");
  if (!known.includes(name)) throw new Error(`there is no field ${name}: there are ${FIELDS}`);
  const text = value.toLowerCase();
  const number = Number.parseFloat(value);
  if ([">", "<", ">=", "<="].includes(sign) && Number.isNaN(number)) throw new Error(`${value} is not a number`);
  return (fields) => {
    const field = fields[name];
    if (field === undefined || field === null) return sign === "!=" && field === null;
    if (typeof field === "number") {
      if (sign === "=") return Math.abs(field - number) < 1e-9;
      if (sign === "!=") return Math.abs(field - number) >= 1e-9;
      if (sign === "~") return false;
      return sign === ">" ? field > number : sign === "<" ? field < number : sign === ">=" ? field >= number : field <= number;
    }
    const held = String(field).toLowerCase();
    return sign === "=" ? held === text : sign === "!=" ? held !== text : sign === "~" ? held.includes(text) : false;
  };
}

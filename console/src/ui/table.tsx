// A table that is sorted by its headings and filtered by a word.

import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";
import { plural } from "../lib/format.ts";

export interface Column<T> {
  name: string;
  cell: (row: T) => ComponentChildren;
  /** What it is sorted by; the filter looks at texts. */
  by: (row: T) => string | number | null;
  number?: boolean;
  /** Sentences: it is wide also where there is little room. */
  long?: boolean;
}

interface Props<T> {
  label: string;
  rows: T[];
  columns: Column<T>[];
  id: (row: T) => string;
  /** The column that it is sorted by at first, and whether the largest come first. */
  sorted?: string;
  descending?: boolean;
  filter?: boolean;
  empty?: string;
}

/** Rows that are drawn at most; the filter finds the others. */
const SHOWN = 500;

export function compare(a: string | number | null, b: string | number | null): number {
  if (a === null || b === null) return Number(b === null) - Number(a === null);
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

export function Table<T>(props: Props<T>) {
  const { columns, rows, label } = props;
  const [sort, setSort] = useState({ name: props.sorted ?? columns[0]!.name, down: props.descending ?? false });
  const [word, setWord] = useState("");
  const shown = useMemo(() => {
    const wanted = word.trim().toLowerCase();
    const fits = (row: T) => columns.some(({ by }) => String(by(row) ?? "").toLowerCase().includes(wanted));
    const column = columns.find(({ name }) => name === sort.name) ?? columns[0]!;
    const order = (a: T, b: T) => compare(column.by(a), column.by(b)) * (sort.down ? -1 : 1);
    return (wanted ? rows.filter(fits) : [...rows]).sort(order);
  }, [rows, columns, sort, word]);
  const turn = ({ name, number }: Column<T>) =>
    setSort((was) => ({ name, down: was.name === name ? !was.down : number === true }));
  return (
    <>
      {(props.filter ?? true) && (
        <p class="filter">
          <label class="field">
            <span>Filter</span>
            <input type="search" value={word} onInput={(event) => setWord(event.currentTarget.value)} />
          </label>
          <span class="quiet" role="status">
            {word ? `${shown.length} of ${plural(rows.length, "row")}` : plural(rows.length, "row")}
          </span>
        </p>
      )}
      <div class="scroll" tabIndex={0} role="region" aria-label={label}>
        <table>
          <caption class="unseen">{label}</caption>
          <thead>
            <tr>
              {columns.map((column) => {
                const { name, number } = column;
                const here = sort.name === name;
                return (
                  <th
                    key={name}
                    scope="col"
                    class={number ? "number" : ""}
                    aria-sort={here ? (sort.down ? "descending" : "ascending") : "none"}
                  >
                    <button type="button" onClick={() => turn(column)}>
                      {name}
                      <span aria-hidden="true">{here ? (sort.down ? " ↓" : " ↑") : ""}</span>
                    </button>
                  </th>
                );
              })}
            </tr>
          </thead>
          <tbody>
            {shown.slice(0, SHOWN).map((row) => (
              <tr key={props.id(row)}>
                {columns.map(({ name, cell, number, long }) => (
                  <td key={name} class={number ? "number" : long ? "long" : ""}>
                    {cell(row)}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {shown.length === 0 && <p class="quiet">{props.empty ?? "There is nothing here."}</p>}
      {shown.length > SHOWN && <p class="quiet">The first {SHOWN} are shown: the filter finds the others.</p>}
    </>
  );
}

// A table of who calls, or is called, with numbers.

import type { Row } from "../api/types.ts";
import { bytes, milliseconds, percent, rate } from "../lib/format.ts";
import { bytesPerSecond, quantile, success } from "../lib/rates.ts";
import { Table, type Column } from "./table.tsx";

const caller = (row: Row) => `${row.source_namespace}/${row.source_workload}`;
const called = (row: Row) =>
  row.destination_workload === "unknown"
    ? `${row.service_namespace}/${row.service}`
    : `${row.destination_namespace}/${row.destination_workload}`;

const COLUMNS: Column<Row>[] = [
  { name: "From", by: caller, cell: caller },
  { name: "To", by: called, cell: called },
  { name: "Protocol", by: (row) => row.protocol, cell: (row) => row.protocol },
  { name: "Requests/s", number: true, by: (row) => row.requests, cell: (row) => rate(row.requests) },
  { name: "Success", number: true, by: success, cell: (row) => percent(success(row)) },
  { name: "p95", number: true, by: (row) => quantile(row, 0.95), cell: (row) => milliseconds(quantile(row, 0.95)) },
  { name: "Open", number: true, by: (row) => row.open, cell: (row) => row.open },
  { name: "Bytes/s", number: true, by: bytesPerSecond, cell: (row) => `${bytes(bytesPerSecond(row))}` },
  { name: "Circuit", by: (row) => row.circuit ?? null, cell: (row) => row.circuit ?? "" },
];

export function Calls({ label, rows }: { label: string; rows: Row[] }) {
  const id = (row: Row) => `${caller(row)}>${row.service}>${called(row)}:${row.protocol}`;
  return <Table label={label} rows={rows} columns={COLUMNS} id={id} sorted="Requests/s" descending filter={rows.length > 8} />;
}

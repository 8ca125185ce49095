// A table of a list that the server pages, sorts and filters. Its state lives in the URL.
import { Fragment, useEffect, useRef, useState, type ReactNode } from "react";
import { ActionIcon, CloseButton, Skeleton, TextInput } from "@mantine/core";
import { useSearchParams } from "react-router";

import { count } from "../format";
import { Icon } from "./Icon";
import { ErrorPanel } from "./Panels";

export const PAGE_ROWS = 25;
const TYPING_MS = 250;

export interface ListState {
  q: string | undefined;
  sort: string | undefined;
  offset: number;
  /** A filter by name; undefined when it is not set. */
  get: (name: string) => string | undefined;
  /** Change some; null removes. Back to the first page. */
  set: (changes: Record<string, string | null>) => void;
  turn: (offset: number) => void;
}

export function useListState(): ListState {
  const [parameters, setParameters] = useSearchParams();
  const change = (changes: Record<string, string | null>) =>
    setParameters(
      (before) => {
        for (const [name, value] of Object.entries(changes)) {
          if (value) before.set(name, value);
          else before.delete(name);
        }
        return new URLSearchParams(before);
      },
      { replace: true },
    );
  const offset = Number.parseInt(parameters.get("offset") ?? "0", 10);
  return {
    q: parameters.get("q") || undefined,
    sort: parameters.get("sort") || undefined,
    offset: Number.isFinite(offset) && offset > 0 ? offset : 0,
    get: (name) => parameters.get(name) || undefined,
    set: (changes) => change({ ...changes, offset: null }),
    turn: (to) => change({ offset: to > 0 ? String(to) : null }),
  };
}

export interface Column<Row> {
  key: string;
  header: string;
  cell: (row: Row) => ReactNode;
  /** The name by which the server sorts. */
  sort?: string;
  align?: "right";
  className?: string;
}

interface DataTableProps<Row> {
  label: string;
  columns: Column<Row>[];
  rowKey: (row: Row) => string;
  /** What is written under a row over its whole width, such as the reason of a failure. */
  detail?: (row: Row) => ReactNode;
  query: {
    data: { items: Row[]; total: number } | undefined;
    error: unknown;
    isPlaceholderData?: boolean;
    refetch: () => unknown;
  };
  list?: ListState;
  defaultSort?: string;
  empty: ReactNode;
}

export function DataTable<Row>(props: DataTableProps<Row>) {
  const { label, columns, rowKey, detail, query, list, defaultSort, empty } = props;
  const { error } = query;
  // Another page or order that fails leaves what was shown before.
  const shown = useRef(query.data);
  useEffect(() => {
    if (query.data) shown.current = query.data;
  }, [query.data]);
  const data = query.data ?? (error ? shown.current : undefined);
  const grey = Boolean(data && (error || query.isPlaceholderData));
  return (
    <>
      {error != null && (
        <div style={{ padding: "0 14px 14px" }}>
          <ErrorPanel error={error} retry={() => void query.refetch()} stale={Boolean(data)} />
        </div>
      )}
      {data?.items.length === 0 && empty}
      {(data ? data.items.length > 0 : !error) && (
        <div className={grey ? "table-scroll stale" : "table-scroll"} tabIndex={0} role="region" aria-label={label}>
          <table className="table">
            <thead>
              <tr>
                {columns.map((column) => (
                  <HeaderCell key={column.key} column={column} list={list} defaultSort={defaultSort} />
                ))}
              </tr>
            </thead>
            <tbody aria-busy={!data}>
              {data
                ? data.items.map((row) => (
                    <Fragment key={rowKey(row)}>
                      <tr>
                        {columns.map((column) => (
                          <td key={column.key} data-align={column.align} className={column.className}>
                            {column.cell(row)}
                          </td>
                        ))}
                      </tr>
                      <Detail columns={columns.length}>{detail?.(row)}</Detail>
                    </Fragment>
                  ))
                : Array.from({ length: 6 }, (_, number) => (
                    <tr key={number}>
                      {columns.map((column) => (
                        <td key={column.key} className={column.className}>
                          <Skeleton height={12} my={4} />
                        </td>
                      ))}
                    </tr>
                  ))}
            </tbody>
          </table>
        </div>
      )}
      {list && data && data.total > 0 && <Pager list={list} shown={data.items.length} total={data.total} />}
    </>
  );
}

export function Detail({ columns, children }: { columns: number; children: ReactNode }) {
  if (!children) return null;
  return (
    <tr className="detail">
      <td colSpan={columns}>
        <div className="detail-text">{children}</div>
      </td>
    </tr>
  );
}

interface HeaderCellProps<Row> {
  column: Column<Row>;
  list: ListState | undefined;
  defaultSort: string | undefined;
}

function HeaderCell<Row>({ column, list, defaultSort }: HeaderCellProps<Row>) {
  if (!list || !column.sort) {
    return (
      <th scope="col" data-align={column.align} className={column.className}>
        {column.header}
      </th>
    );
  }
  const current = list.sort ?? defaultSort;
  const direction =
    current === column.sort ? "ascending" : current === `-${column.sort}` ? "descending" : "none";
  const next = direction === "ascending" ? `-${column.sort}` : column.sort;
  return (
    <th scope="col" aria-sort={direction} data-align={column.align} className={column.className}>
      <button type="button" className="sort" onClick={() => list.set({ sort: next })}>
        {column.header}
        <Icon
          name={direction === "ascending" ? "up" : direction === "descending" ? "down" : "updown"}
          size={13}
        />
      </button>
    </th>
  );
}

function Pager({ list, shown, total }: { list: ListState; shown: number; total: number }) {
  const last = list.offset + shown;
  return (
    <div className="pager">
      <span className="number" role="status">
        {shown ? `${count(list.offset + 1)}–${count(last)} of ${count(total)}` : `none here, ${count(total)} in all`}
      </span>
      {total > PAGE_ROWS && (
        <span className="row" style={{ gap: 2 }}>
          <ActionIcon
            aria-label="Previous page"
            disabled={list.offset === 0}
            onClick={() => list.turn(list.offset - PAGE_ROWS)}
          >
            <Icon name="left" />
          </ActionIcon>
          <ActionIcon aria-label="Next page" disabled={last >= total} onClick={() => list.turn(list.offset + PAGE_ROWS)}>
            <Icon name="right" />
          </ActionIcon>
        </span>
      )}
    </div>
  );
}

/** Search while typing; the address follows a moment later. */
export function Search({ list, label }: { list: ListState; label: string }) {
  const [text, setText] = useState(list.q ?? "");
  const sent = useRef(list.q ?? "");
  useEffect(() => {
    // The address was changed by something else, such as "clear filters".
    if ((list.q ?? "") !== sent.current) {
      sent.current = list.q ?? "";
      setText(sent.current);
    }
  }, [list.q]);
  useEffect(() => {
    if (text === sent.current) return undefined;
    const timer = setTimeout(() => {
      sent.current = text;
      list.set({ q: text || null });
    }, TYPING_MS);
    return () => clearTimeout(timer);
  });
  return (
    <TextInput
      type="search"
      size="sm"
      w={230}
      maw="100%"
      aria-label={label}
      placeholder={label}
      leftSection={<Icon name="search" size={15} />}
      rightSection={text && <CloseButton size={24} aria-label="Clear search" onClick={() => setText("")} />}
      value={text}
      onChange={(event) => setText(event.currentTarget.value)}
    />
  );
}

/** A filter that is on, with a way to take it off. */
export function FilterChip({ list, names, label }: { list: ListState; names: string[]; label: string }) {
  return (
    <button
      type="button"
      className="chip"
      aria-label={`${label}, remove filter`}
      onClick={() => list.set(Object.fromEntries(names.map((name) => [name, null])))}
    >
      {label}
      <Icon name="cross" size={13} />
    </button>
  );
}

// A table of a list that the server pages, sorts and filters. Its state lives in the URL.
import { Fragment, useEffect, useRef, useState, type ReactNode } from "react";
import { ActionIcon, Checkbox, CloseButton, Skeleton, TextInput } from "@mantine/core";
import { useSearchParams } from "react-router";

import { count } from "../format";
import { Icon } from "./Icon";
import { ErrorPanel, useFailure } from "./Panels";

export const PAGE_ROWS = 25;
const TYPING_MS = 250;

export interface ListState {
  q: string | undefined;
  sort: string | undefined;
  offset: number;
  /** A filter by name; undefined when it is not set, or set to nothing. */
  get: (name: string) => string | undefined;
  /** Whether it is set, be it to nothing. */
  has: (name: string) => boolean;
  /** Change some; null removes. Back to the first page. */
  set: (changes: Record<string, string | null>) => void;
  turn: (offset: number) => void;
}

/** `of`: which list of the page, where it has several: their names in the address begin with it. */
export function useListState(of = ""): ListState {
  const [parameters, setParameters] = useSearchParams();
  const named = (name: string) => (of ? `${of}.${name}` : name);
  const change = (changes: Record<string, string | null>) =>
    setParameters(
      () => {
        // As it is now: what was rendered may be older than a change that comes right after another.
        const now = new URLSearchParams(window.location.search);
        for (const [name, value] of Object.entries(changes)) {
          if (value) now.set(named(name), value);
          else now.delete(named(name));
        }
        return now;
      },
      { replace: true, preventScrollReset: true },
    );
  const get = (name: string) => parameters.get(named(name)) || undefined;
  const offset = Number.parseInt(get("offset") ?? "0", 10);
  return {
    q: get("q"),
    sort: get("sort"),
    offset: Number.isFinite(offset) && offset > 0 ? offset : 0,
    get,
    has: (name) => parameters.has(named(name)),
    set: (changes) => change({ ...changes, offset: null }),
    turn: (to) => change({ offset: to > 0 ? String(to) : null }),
  };
}

export interface Column<Row> {
  key: string;
  header: ReactNode;
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
    errorUpdatedAt?: number;
    isPlaceholderData?: boolean;
    refetch: () => unknown;
  };
  list?: ListState;
  defaultSort?: string;
  empty: ReactNode;
  selection?: Selection;
  /** What is wrong is said elsewhere. */
  saidElsewhere?: boolean;
  /** On a phone each row is a card, so that its buttons are reached without scrolling sideways. */
  stacks?: boolean;
}

/** Which rows are chosen, by their keys; those of other pages stay chosen. */
export interface Selection {
  chosen: ReadonlySet<string>;
  choose: (keys: string[], chosen: boolean) => void;
}

export function DataTable<Row>(props: DataTableProps<Row>) {
  const { label, rowKey, detail, query, list, defaultSort, empty, selection, saidElsewhere, stacks } = props;
  const error = useFailure(query);
  // Another page or order that fails leaves what was shown before.
  const shown = useRef(query.data);
  useEffect(() => {
    if (query.data) shown.current = query.data;
  }, [query.data]);
  const data = query.data ?? (error ? shown.current : undefined);
  const columns = selection ? [choosing(selection, rowKey, data?.items ?? []), ...props.columns] : props.columns;
  const grey = Boolean(data && (error || query.isPlaceholderData));
  return (
    <>
      {error != null && !saidElsewhere && (
        <div style={{ padding: "0 14px 14px" }}>
          <ErrorPanel error={error} retry={() => void query.refetch()} stale={Boolean(data)} />
        </div>
      )}
      {data?.items.length === 0 && empty}
      {(data ? data.items.length > 0 : !error) && (
        <div className={`table-scroll${grey ? " stale" : ""}${stacks ? " stacks" : ""}`} tabIndex={0} role="region" aria-label={label}>
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
                          <td
                            key={column.key}
                            data-align={column.align}
                            data-label={typeof column.header === "string" ? column.header : undefined}
                            className={column.className}
                          >
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

/** The column with the boxes. */
function choosing<Row>({ chosen, choose }: Selection, rowKey: (row: Row) => string, rows: Row[]): Column<Row> {
  const keys = rows.map(rowKey);
  const here = keys.filter((key) => chosen.has(key)).length;
  return {
    key: "choose",
    className: "choose",
    header: (
      <Checkbox
        size="xs"
        aria-label="Choose all on this page"
        checked={here > 0 && here === keys.length}
        indeterminate={here > 0 && here < keys.length}
        onChange={(event) => choose(keys, event.currentTarget.checked)}
      />
    ),
    cell: (row) => (
      <Checkbox
        size="xs"
        aria-label={`Choose ${rowKey(row)}`}
        checked={chosen.has(rowKey(row))}
        onChange={(event) => choose([rowKey(row)], event.currentTarget.checked)}
      />
    ),
  };
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

export function Pager({ list, shown, total, rows = PAGE_ROWS }: { list: ListState; shown: number; total: number; rows?: number }) {
  const last = list.offset + shown;
  return (
    <div className="pager">
      <span className="number" role="status">
        {shown ? `${count(list.offset + 1)}–${count(last)} of ${count(total)}` : `none here, ${count(total)} in all`}
      </span>
      {total > rows && (
        <span className="row" style={{ gap: 2 }}>
          <ActionIcon
            aria-label="Previous page"
            disabled={list.offset === 0}
            onClick={() => list.turn(list.offset - rows)}
          >
            <Icon name="left" />
          </ActionIcon>
          <ActionIcon aria-label="Next page" disabled={last >= total} onClick={() => list.turn(list.offset + rows)}>
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

/** What is asked of the server for a page of a list, beside its filters. */
export function pageOf(list: ListState) {
  return { q: list.q, sort: list.sort, offset: list.offset, limit: PAGE_ROWS };
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

// Surfaces that every page is made of, and what stands in them when there is nothing or trouble.
import { useState, type ReactNode } from "react";
import { Button, Skeleton } from "@mantine/core";
import { Link, useSearchParams } from "react-router";

import { asApiError } from "../api/client";
import { count } from "../format";
import { Icon, type IconName } from "./Icon";

interface HeadProps {
  title: ReactNode;
  crumbs?: [name: string, to: string][];
  beside?: ReactNode;
  under?: ReactNode;
  actions?: ReactNode;
}

export function Head({ title, crumbs = [], beside, under, actions }: HeadProps) {
  return (
    <header className="head">
      <div className="grow">
        {crumbs.length > 0 && (
          <nav className="crumbs" aria-label="Breadcrumbs">
            {crumbs.map(([name, to], number) => (
              <span key={to} className="row" style={{ gap: 6 }}>
                {number > 0 && <span aria-hidden="true">/</span>}
                <Link to={to}>{name}</Link>
              </span>
            ))}
          </nav>
        )}
        <div className="row wrap" style={{ gap: 12 }}>
          <h1 className="breakable">{title}</h1>
          {beside}
        </div>
        {under && (
          <div className="soft" style={{ marginTop: 4 }}>
            {under}
          </div>
        )}
      </div>
      {actions && <div className="row wrap">{actions}</div>}
    </header>
  );
}

interface PanelProps {
  title?: ReactNode;
  aside?: ReactNode;
  flush?: boolean;
  id?: string;
  children: ReactNode;
}

export function Panel({ title, aside, flush, id, children }: PanelProps) {
  return (
    <section className="panel" id={id}>
      {(title || aside) && (
        <header>
          {title && <h2>{title}</h2>}
          {aside}
        </header>
      )}
      {flush ? children : <div className="body">{children}</div>}
    </section>
  );
}

export function Facts({ rows }: { rows: [name: string, value: ReactNode][] }) {
  return (
    <dl className="facts">
      {rows.map(([name, value]) => (
        <div key={name} style={{ display: "contents" }}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

interface NoteProps {
  tone?: "warn" | "bad" | "busy";
  icon?: IconName;
  alert?: boolean;
  children: ReactNode;
}

export function Note({ tone, icon, alert, children }: NoteProps) {
  const sign = icon ?? (tone === "bad" || tone === "warn" ? "warning" : "info");
  return (
    <div className="note" data-tone={tone} role={alert ? "alert" : undefined}>
      <Icon name={sign} size={17} />
      <div className="grow">{children}</div>
    </div>
  );
}

/** What failed, the code and the number to ask about, and a way to try again. */
export function ErrorPanel({ error, retry, stale }: { error: unknown; retry?: () => void; stale?: boolean }) {
  const problem = asApiError(error);
  const rollout = problem.data.rollout;
  return (
    <Note tone="bad" alert>
      <div className="row apart wrap" style={{ alignItems: "flex-start" }}>
        <div className="grow" style={{ minWidth: 220 }}>
          <strong>{problem.detail}</strong>
          {problem.hint && <p>{problem.hint}</p>}
          {typeof rollout === "string" && (
            <p>
              <Link to={`/rollouts/${rollout}`}>Open rollout {rollout}</Link>
            </p>
          )}
          {stale && <p>What you see is from before.</p>}
          <p className="small mono" style={{ marginTop: 2 }}>
            {problem.code}
            {problem.requestId && ` · request ${problem.requestId}`}
          </p>
        </div>
        {retry && (
          <Button size="xs" variant="default" leftSection={<Icon name="refresh" size={14} />} onClick={retry}>
            Try again
          </Button>
        )}
      </div>
    </Note>
  );
}

interface EmptyProps {
  icon: IconName;
  title: string;
  /** It is all that the page has, and so its heading. */
  whole?: boolean;
  children?: ReactNode;
}

export function Empty({ icon, title, whole, children }: EmptyProps) {
  const Heading = whole ? "h1" : "h2";
  return (
    <div className="empty">
      <Icon name={icon} size={30} />
      <Heading>{title}</Heading>
      {children}
    </div>
  );
}

/** Two updates of a device from the order to the end. */
export const FIRST_ROWS = 14;
const MORE_ROWS = 40;
/** What the server gives at once. */
const ROWS_MAX = 200;

/** How many of the newest of a list to ask for, as the address says under `name`; it grows when asked to. */
export function useNewest(name: string): { limit: number; grow: () => void } {
  const [parameters, setParameters] = useSearchParams();
  const asked = Number.parseInt(parameters.get(name) ?? "", 10);
  const limit = Number.isFinite(asked) ? Math.min(Math.max(asked, FIRST_ROWS), ROWS_MAX) : FIRST_ROWS;
  const grow = () =>
    setParameters(
      (before) => {
        before.set(name, String(Math.min(limit + MORE_ROWS, ROWS_MAX)));
        return new URLSearchParams(before);
      },
      { replace: true, preventScrollReset: true },
    );
  return { limit, grow };
}

/** Below the newest of a list: what is not shown, and how to see it. */
export function Older({ shown, total, grow }: { shown: number; total: number; grow: () => void }) {
  const hidden = total - shown;
  if (hidden <= 0) return null;
  return (
    <div className="row apart wrap small soft" style={{ marginTop: 14 }}>
      <span className="number" role="status">
        newest {count(shown)} of {count(total)}
      </span>
      {shown < ROWS_MAX && (
        <Button size="xs" variant="default" onClick={grow}>
          Show {count(Math.min(hidden, MORE_ROWS, ROWS_MAX - shown))} more
        </Button>
      )}
    </div>
  );
}

interface Failing {
  data: unknown;
  error: unknown;
  errorUpdatedAt?: number;
}

interface LoadedProps<T> {
  query: { data: T | undefined; error: unknown; errorUpdatedAt: number; refetch: () => unknown };
  back?: [name: string, to: string];
  children: (data: T) => ReactNode;
}

/**
 * What is wrong. A query without data has no error while it is asked again, which the stream and a
 * window that gets the focus do: the last one stays, or its link would go from under the pointer
 * between press and release, and nobody would get away.
 */
export function useFailure({ data, error, errorUpdatedAt }: Failing): unknown {
  const [last, keep] = useState({ error, errorUpdatedAt });
  if (error && error !== last.error) keep({ error, errorUpdatedAt });
  const asked = data === undefined && errorUpdatedAt !== undefined && errorUpdatedAt === last.errorUpdatedAt;
  return error ?? (asked ? last.error : null);
}

/** Skeleton, then the data; old data stays, greyed, when a later request fails. */
export function Loaded<T>({ query, back, children }: LoadedProps<T>) {
  const failure = useFailure(query);
  const failed = failure ? asApiError(failure) : null;
  // 422: the address holds what cannot be the name of anything.
  if (query.data === undefined && (failed?.status === 404 || failed?.status === 422)) {
    return (
      <Panel>
        <Empty icon="search" whole title={failed.status === 404 ? failed.detail : "There is nothing of this name"}>
          {back && <Link to={back[1]}>{back[0]}</Link>}
        </Empty>
      </Panel>
    );
  }
  return (
    <div className="stack">
      {failed && (
        <ErrorPanel error={failed} retry={() => void query.refetch()} stale={query.data !== undefined} />
      )}
      {query.data !== undefined ? (
        <div className={failed ? "stack stale" : "stack"}>{children(query.data)}</div>
      ) : (
        !failed && (
          <div className="stack" aria-busy="true" aria-label="Loading">
            <Skeleton height={34} width="40%" />
            <Skeleton height={110} />
            <Skeleton height={260} />
          </div>
        )
      )}
    </div>
  );
}

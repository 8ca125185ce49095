import { Button } from "@mantine/core";
import { Link, useRouteError } from "react-router";

import { Empty, Note, Panel } from "../components/Panels";

export function NotFoundPage() {
  return (
    <Panel>
      <Empty icon="search" whole title="There is no such page">
        <Link to="/fleet">Go to the fleet</Link>
      </Empty>
    </Panel>
  );
}

/** A bug of the page itself: say so, and offer the way out. */
export function PageError() {
  const error = useRouteError();
  return (
    <main className="login">
      <div style={{ maxWidth: 560 }} className="stack">
        <Note tone="bad" alert>
          <strong>This page has failed.</strong>
          <p className="mono small breakable">{error instanceof Error ? error.message : String(error)}</p>
          <p>Load it again. If it stays, report it with what is written above.</p>
        </Note>
        <Button onClick={() => window.location.reload()}>Load again</Button>
      </div>
    </main>
  );
}

// Give this browser's login to the command line that `edgectl login --sso` runs in.
import { useState } from "react";
import { Button } from "@mantine/core";
import { useSearchParams } from "react-router";

import { fetchClient, type Schemas } from "../api/client";
import { CopyButton } from "../components/Command";
import { ErrorPanel, Head, Note, Panel } from "../components/Panels";
import { useMe } from "../session";

const CHALLENGE = /^[\w-]{43}$/;

export function HandoverPage() {
  const me = useMe();
  const [search] = useSearchParams();
  const challenge = search.get("challenge") ?? "";
  const [given, setGiven] = useState<Schemas["HandoverCode"] | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);

  const give = async () => {
    setBusy(true);
    setError(null);
    try {
      const { data } = await fetchClient.POST("/api/v1/handover", { body: { challenge } });
      setGiven(data ?? null);
    } catch (failure) {
      setError(failure);
    }
    setBusy(false);
  };

  if (!CHALLENGE.test(challenge)) {
    return (
      <Note tone="bad" alert>
        This address is not whole. Copy all of it from the command line.
      </Note>
    );
  }
  return (
    <>
      <Head title="Log in a command line" />
      <Panel>
        <div className="stack" style={{ maxWidth: 620 }}>
          <p>
            A command line asks for a token of <strong>{me.user}</strong>, with the role <strong>{me.role}</strong>.
          </p>
          <Note tone="warn">
            Go on only if <strong>you</strong> have just typed <span className="mono">edgectl login --sso</span>. Whoever
            sent you here and asks for the code wants your login: give it to nobody.
          </Note>
          {given ? (
            <div>
              <p className="soft small">Type or paste this where the command line asks for it:</p>
              <p className="row" style={{ gap: 8 }}>
                <output className="mono breakable" aria-label="Code">
                  {given.code}
                </output>
                <CopyButton text={given.code} label="Copy code" />
              </p>
              <p className="soft small">It works once, for {Math.round(given.expires_in_s / 60)} minutes.</p>
            </div>
          ) : (
            <div>
              <Button loading={busy} onClick={() => void give()}>
                Show the code
              </Button>
            </div>
          )}
          {error != null && <ErrorPanel error={error} />}
        </div>
      </Panel>
    </>
  );
}

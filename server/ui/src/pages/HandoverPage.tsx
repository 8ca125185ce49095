// Give this browser's login to the command line that `edgectl login --sso` runs in; or show, to one
// that changes users, that whoever has its token has just logged in again at the provider.
import { useState } from "react";
import { Button } from "@mantine/core";
import { useSearchParams } from "react-router";

import { asApiError, fetchClient, type Schemas } from "../api/client";
import { CopyButton } from "../components/Command";
import { ErrorPanel, Head, Note, Panel } from "../components/Panels";
import { useSubmit } from "../components/useSubmit";
import { comesBySignOn, useMe } from "../session";

type Purpose = Schemas["HandoverRequest"]["purpose"];

const CHALLENGE = /^[\w-]{43}$/;

export function HandoverPage() {
  const [search] = useSearchParams();
  const challenge = search.get("challenge") ?? "";
  if (!CHALLENGE.test(challenge)) {
    return (
      <Note tone="bad" alert>
        This address is not whole. Copy all of it from the command line.
      </Note>
    );
  }
  return search.get("for") === "proof" ? <Proof challenge={challenge} asked={search.has("asked")} /> : <Login challenge={challenge} />;
}

function Login({ challenge }: { challenge: string }) {
  const me = useMe();
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
          <Code challenge={challenge} purpose="login" />
        </div>
      </Panel>
    </>
  );
}

/** `asked`: the provider has sent the browser back here, after it was made to ask. */
function Proof({ challenge, asked }: { challenge: string; asked: boolean }) {
  const me = useMe();
  return (
    <>
      <Head title="Change users with a command line" />
      <Panel>
        <div className="stack" style={{ maxWidth: 620 }}>
          <p>
            A command line wants to change who may log in, as <strong>{me.user}</strong>.
          </p>
          <Note tone="warn">
            Go on only if <strong>you</strong> have just typed <span className="mono">edgectl users …</span>. Whoever sent you
            here and asks for the code wants to make themselves an admin: give it to nobody.
          </Note>
          {!comesBySignOn(me.user) ? (
            <Note tone="bad" alert>
              {me.user} logs in with a password, and the command line of somebody who does asks for that. Log out here, and in again by
              single sign-on.
            </Note>
          ) : asked ? (
            <Code challenge={challenge} purpose="proof" />
          ) : (
            <Again challenge={challenge} />
          )}
        </div>
      </Panel>
    </>
  );
}

function Again({ challenge }: { challenge: string }) {
  const back = `/handover?challenge=${challenge}&for=proof&asked=true`;
  return (
    <div>
      <Button component="a" href={`/api/v1/openid/login?again=true&return_to=${encodeURIComponent(back)}`}>
        Log in again at the provider
      </Button>
      <p className="soft small" style={{ marginTop: 8 }}>
        It asks who you are, and brings you back here for the code.
      </p>
    </div>
  );
}

function Code({ challenge, purpose }: { challenge: string; purpose: Purpose }) {
  const [given, setGiven] = useState<Schemas["HandoverCode"] | null>(null);
  const give = async () => {
    const { data } = await fetchClient.POST("/api/v1/handover", { body: { challenge, purpose } });
    setGiven(data ?? null);
  };
  const { busy, error, submit } = useSubmit(give);
  const tooLate = error != null && asApiError(error).code === "auth.again";
  return (
    <>
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
        !tooLate && (
          <div>
            <Button loading={busy} onClick={() => void submit()}>
              Show the code
            </Button>
          </div>
        )
      )}
      {error != null && <ErrorPanel error={error} />}
      {tooLate && <Again challenge={challenge} />}
    </>
  );
}

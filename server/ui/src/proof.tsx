// That whoever clicks is still the owner of the session: the own password again, before users are
// changed. The proof stays in the memory of this page, for the minutes that the server gives it.
import { useState, type ReactNode } from "react";
import { Anchor, PasswordInput } from "@mantine/core";

import { asApiError, fetchClient } from "./api/client";
import { Confirm, useFocusBack } from "./components/Confirm";
import { Note } from "./components/Panels";
import { comesBySignOn, useMe } from "./session";

export interface ProofHeader {
  "X-Edgectl-Proof": string;
}

let kept: { user: string; text: string; until: number } | null = null;

/** A little early, so that it does not end on the way. */
const MARGIN_MS = 5_000;

const isGood = (user: string) => kept !== null && kept.user === user && Date.now() < kept.until - MARGIN_MS;

async function prove(user: string, password: string | null): Promise<string> {
  if (!kept || !isGood(user)) {
    const { data } = await fetchClient.POST("/api/v1/session/proof", { body: { password } });
    kept = { user, text: data!.proof, until: Date.parse(data!.expires_at) };
  }
  return kept.text;
}

/** What changes the own user makes the server forget it, too. */
export function forgetProof(): void {
  kept = null;
}

interface ProvedProps {
  close: () => void;
  title: string;
  action: string;
  danger?: boolean;
  incomplete?: boolean;
  command: string;
  act: (header: ProofHeader) => Promise<unknown>;
  /** Ask even where the page has a proof: where the old password belongs beside the new one. */
  always?: boolean;
  children?: ReactNode;
}

/** A dialog whose last field is the own password. It is mounted anew each time that it opens. */
export function Proved({ close, title, action, danger, incomplete, command, act, always, children }: ProvedProps) {
  useFocusBack();
  const me = useMe();
  const [password, setPassword] = useState("");
  const bySignOn = comesBySignOn(me.user);
  const [asks, setAsks] = useState(() => always || !isGood(me.user));
  return (
    <Confirm
      opened
      close={close}
      title={title}
      action={action}
      danger={danger}
      incomplete={incomplete || (asks && !bySignOn && !password)}
      command={() => command}
      confirm={async () => {
        if (asks) forgetProof();
        try {
          await act({ "X-Edgectl-Proof": await prove(me.user, bySignOn ? null : password) });
        } catch (error) {
          // Clocks differ, and sessions end: what the server does not take is forgotten.
          if (asApiError(error).code === "auth.proof") {
            forgetProof();
            setAsks(true);
          }
          throw error;
        }
      }}
    >
      {children}
      {asks && bySignOn && (
        <Note icon="key">
          This needs a login within the last five minutes.{" "}
          <Anchor href={`/api/v1/openid/login?again=true&return_to=${encodeURIComponent("/settings?users=proved")}`}>
            Log in again
          </Anchor>{" "}
          at the provider of single sign-on; it brings you back here.
        </Note>
      )}
      {asks && !bySignOn && (
        <PasswordInput
          label="Your own password"
          description="So that nobody else changes users with this browser's login."
          autoComplete="current-password"
          visibilityToggleButtonProps={{ "aria-label": "Show the password", tabIndex: 0 }}
          value={password}
          onChange={(event) => setPassword(event.currentTarget.value)}
        />
      )}
      {!asks && <p className="soft small">You have given your password within the last five minutes.</p>}
    </Confirm>
  );
}

import { useState, type FormEvent } from "react";
import { Button, PasswordInput, TextInput } from "@mantine/core";

import { api, asApiError } from "../api/client";
import { Mark } from "../components/Icon";
import { Note } from "../components/Panels";
import { logIn } from "../session";

/** Why the server sent the browser back here instead of in; see the codes in docs/errors.md. */
const FAILED: Record<string, string> = {
  "openid.state": "That login was begun in another browser, or took too long. Begin again.",
  "openid.denied": "The provider did not log you in. Begin again, or ask the people who run it.",
  "openid.role": "The provider knows you, but you have no role here. Ask an administrator of this server.",
  "openid.again": "The provider did not ask who you are. Log out there, and try again.",
  "auth.disabled": "Your user is disabled here. Ask an administrator of this server.",
  "openid.provider": "The provider does not answer as it should. Log in with a password, or try again in a moment.",
  "openid.address": "This server does not know its own address. An administrator has to set public_url.",
};

/** What the server takes as a page to come back to. */
const OWN_PATH = /^\/(?:[\w~.%@:,+-][\w~.%@:,+/-]*)?(?:\?[\w~.%@:,+/=&-]*)?$/;

function placeToReturnTo(): string {
  const { pathname, search } = window.location;
  const wanted = [pathname + search, pathname].find((place) => OWN_PATH.test(place) && place.length <= 512);
  return new URLSearchParams(search).has("login") ? "/" : (wanted ?? "/");
}

function SignOn() {
  const { data } = api.useQuery("get", "/api/v1/openid");
  if (!data?.enabled) return null;
  return (
    <>
      <p className="login-or soft small">or</p>
      <Button
        component="a"
        variant="default"
        fullWidth
        href={data.available ? `/api/v1/openid/login?return_to=${encodeURIComponent(placeToReturnTo())}` : undefined}
        data-disabled={data.available ? undefined : true}
        role={data.available ? undefined : "link"}
        aria-disabled={data.available ? undefined : true}
      >
        Log in with {data.name}
      </Button>
      {!data.available && (
        <p className="soft small" role="status">
          The provider of {data.name} does not answer now.
        </p>
      )}
    </>
  );
}

/** Shown in place of any page while nobody is logged in, so that the address stays. */
export function LoginPage() {
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [busy, setBusy] = useState(false);
  const failed = new URLSearchParams(window.location.search).get("login");
  const [problem, setProblem] = useState<string | null>(
    failed && (FAILED[failed] ?? "That login was not accepted. Begin again; the server's log says more."),
  );

  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      await logIn(name.trim(), password);
    } catch (error) {
      const failure = asApiError(error);
      setProblem(
        failure.status === 401
          ? "The user name or the password is wrong."
          : [failure.detail, failure.hint].filter(Boolean).join(" "),
      );
      setBusy(false);
    }
  };

  return (
    <main className="login">
      <form className="panel login-card stack" onSubmit={(event) => void submit(event)}>
        <div className="row" style={{ gap: 12 }}>
          <Mark size={34} />
          <h1>edgectl</h1>
        </div>
        <TextInput
          label="User name"
          name="username"
          autoComplete="username"
          autoCapitalize="none"
          spellCheck={false}
          required
          withAsterisk={false}
          autoFocus
          value={name}
          onChange={(event) => setName(event.currentTarget.value)}
        />
        <PasswordInput
          label="Password"
          name="password"
          autoComplete="current-password"
          required
          withAsterisk={false}
          visibilityToggleButtonProps={{ "aria-label": "Show the password", tabIndex: 0 }}
          value={password}
          onChange={(event) => setPassword(event.currentTarget.value)}
        />
        {problem && (
          <Note tone="bad" alert>
            {problem}
          </Note>
        )}
        <Button type="submit" loading={busy} fullWidth>
          Log in
        </Button>
        <SignOn />
        <p className="soft small">
          First start? The password of <span className="mono">admin</span> is on the server&apos;s console and in{" "}
          <span className="mono">admin-password</span> in its data folder.
        </p>
      </form>
    </main>
  );
}

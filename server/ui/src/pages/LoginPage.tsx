import { useState, type FormEvent } from "react";
import { Button, PasswordInput, TextInput } from "@mantine/core";

import { asApiError } from "../api/client";
import { Mark } from "../components/Icon";
import { Note } from "../components/Panels";
import { logIn } from "../session";

/** Shown in place of any page while nobody is logged in, so that the address stays. */
export function LoginPage() {
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string | null>(null);

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
        <p className="soft small">
          First start? The password of <span className="mono">admin</span> is on the server&apos;s console and in{" "}
          <span className="mono">admin-password</span> in its data folder.
        </p>
      </form>
    </main>
  );
}

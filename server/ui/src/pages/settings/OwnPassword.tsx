// Another password for oneself: the old one, and the new one twice.
import { useState } from "react";
import { Button, PasswordInput } from "@mantine/core";

import { fetchClient } from "../../api/client";
import { Icon } from "../../components/Icon";
import { OWN_PASSWORD } from "../../cli";
import { forgetProof, Proved } from "../../proof";
import { comesBySignOn, useMe } from "../../session";
import { reload } from "./UserActions";

const CHARACTERS_MIN = 8;

export function OwnPassword() {
  const me = useMe();
  const [open, setOpen] = useState(false);
  const [changed, setChanged] = useState(false);
  if (comesBySignOn(me.user)) return null;
  return (
    <div className="row wrap">
      <Button variant="default" leftSection={<Icon name="key" size={15} />} onClick={() => setOpen(true)}>
        Change password
      </Button>
      <span role="status" className="soft small">
        {changed && "Changed. Other browsers are logged out; tokens stay as they are."}
      </span>
      {open && <Change close={() => setOpen(false)} changed={() => setChanged(true)} />}
    </div>
  );
}

function Change({ close, changed }: { close: () => void; changed: () => void }) {
  const [first, setFirst] = useState("");
  const [second, setSecond] = useState("");
  const short = first.length > 0 && first.length < CHARACTERS_MIN;
  return (
    <Proved
      always
      close={close}
      title="Change your password"
      action="Change password"
      incomplete={first.length < CHARACTERS_MIN || first !== second}
      command={OWN_PASSWORD}
      act={async (header) => {
        await fetchClient.PUT("/api/v1/me/password", { params: { header }, body: { password: first } });
        forgetProof();
        changed();
        await reload();
      }}
    >
      <PasswordInput
        label="New password"
        autoComplete="new-password"
        maxLength={1024}
        error={short && `${CHARACTERS_MIN} characters or more`}
        visibilityToggleButtonProps={{ "aria-label": "Show the password", tabIndex: 0 }}
        value={first}
        onChange={(event) => setFirst(event.currentTarget.value)}
      />
      <PasswordInput
        label="New password again"
        autoComplete="new-password"
        maxLength={1024}
        error={!first.startsWith(second) && "This is another one"}
        visibilityToggleButtonProps={{ "aria-label": "Show the password", tabIndex: 0 }}
        value={second}
        onChange={(event) => setSecond(event.currentTarget.value)}
      />
    </Proved>
  );
}

// Who you are, what may log in with what, what is saved, and which server this is.
import { useEffect } from "react";
import { useLocation } from "react-router";

import { api, type Role } from "../api/client";
import { Equivalent } from "../components/Command";
import { Facts, Head, Panel } from "../components/Panels";
import { State } from "../components/State";
import { logIn } from "../cli";
import { useMe } from "../session";
import { OwnPassword } from "./settings/OwnPassword";
import { Selectors } from "./settings/Selectors";
import { Tokens } from "./settings/Tokens";
import { Users } from "./settings/Users";
import { Webhooks } from "./settings/Webhooks";

export function SettingsPage() {
  const me = useMe();
  const { hash, search } = useLocation();
  useEffect(() => {
    // The provider of single sign-on brings people back without what is behind a #.
    const place = new URLSearchParams(search).has("users") ? "users" : hash.slice(1);
    if (place) document.getElementById(place)?.scrollIntoView({ block: "start" });
  }, [hash, search]);
  return (
    <>
      <Head title="Settings" />
      <div className="stack">
        <div className="halves">
          <Panel title="You">
            <div className="stack" style={{ gap: 12 }}>
              <Facts
                rows={[
                  ["User", me.user],
                  ["Role", me.role],
                  ["May", MAY[me.role]],
                ]}
              />
              <OwnPassword />
              <Equivalent text={logIn(window.location.origin, me.user)} />
            </div>
          </Panel>
          <About />
        </div>
        <Tokens />
        <Selectors />
        {me.role === "admin" && <Webhooks />}
        {me.role === "admin" && <Users />}
      </div>
    </>
  );
}

const MAY: Record<Role, string> = {
  viewer: "see everything, change nothing",
  operator: "push models, start and steer rollouts, enrol devices",
  admin: "do everything, decommissioning devices included",
};

function About() {
  const version = api.useQuery("get", "/api/v1/version");
  const ready = api.useQuery("get", "/api/v1/health/ready", {}, { refetchInterval: 30_000 });
  const checks = Object.entries(ready.data?.checks ?? {});
  return (
    <Panel title="This server">
      <Facts
        rows={[
          ["Version", version.data?.version ?? "–"],
          ["State", <State key="s" state={ready.data?.ready ? "ready" : ready.error ? "failed" : "pending"} />],
          ["Parts", checks.map(([name, words]) => `${name} ${words}`).join(", ") || "–"],
          [
            "More",
            <span key="m" className="row wrap" style={{ gap: "0 16px" }}>
              <a href="/api/v1/openapi.json">OpenAPI description</a>
              <a href="/THIRD-PARTY-LICENSES.txt">Licences of this page</a>
            </span>,
          ],
        ]}
      />
    </Panel>
  );
}

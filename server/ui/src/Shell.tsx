// What is around every page: navigation, the state of the connection, theme, user.
import { useEffect } from "react";
import { ActionIcon, Center, Loader, Menu, Tooltip, useMantineColorScheme } from "@mantine/core";
import { Link, NavLink, Outlet, ScrollRestoration, useLocation } from "react-router";

import { useAlertCounts } from "./alerts/Actions";
import { api } from "./api/client";
import { useLive, useLiveStatus } from "./api/live";
import { Icon, Mark, type IconName } from "./components/Icon";
import { ErrorPanel, Note } from "./components/Panels";
import { useStaleSince } from "./components/Stale";
import { clock } from "./format";
import { openOutbox } from "./labels/outbox";
import { LoginPage } from "./pages/LoginPage";
import { logOut, useMe, useSession } from "./session";

const PAGES: [name: string, to: string, icon: IconName][] = [
  ["Fleet", "/fleet", "fleet"],
  ["Models", "/models", "model"],
  ["Push", "/push", "upload"],
  ["Rollouts", "/rollouts", "rollout"],
  ["Alerts", "/alerts", "bell"],
  ["Drift", "/drift", "wave"],
  ["Loops", "/loop", "loop"],
  ["Samples", "/samples", "picture"],
  ["Labels", "/labels", "tag"],
  ["Datasets", "/datasets", "data"],
  ["Enrol", "/enrol", "door"],
  ["Keys", "/trust", "shield"],
  ["Audit", "/audit", "list"],
  ["Settings", "/settings", "settings"],
];

export function Shell() {
  const session = useSession();
  if (session.data === undefined) {
    return (
      <Center mih="100vh" p="md">
        {session.error ? (
          <div style={{ maxWidth: 520 }}>
            <ErrorPanel error={session.error} retry={() => void session.refetch()} />
          </div>
        ) : (
          <Loader aria-label="Loading" size="sm" />
        )}
      </Center>
    );
  }
  return session.data === null ? <LoginPage /> : <Inside />;
}

function Inside() {
  useLive("fleet", "trust", "alerts");
  const me = useMe();
  const { pathname } = useLocation();
  useEffect(() => openOutbox(me.user), [me.user]);
  useEffect(() => {
    const [, first = "", second] = pathname.split("/");
    const page = first.charAt(0).toUpperCase() + first.slice(1);
    document.title = [second && decodeURIComponent(second), page, "edgectl"].filter(Boolean).join(" · ");
  }, [pathname]);
  return (
    <div className="shell">
      <a className="skip" href="#main">
        Skip to the content
      </a>
      <header className="top">
        <Brand />
        <div className="row" style={{ gap: 4 }}>
          <Connection brief />
          <ThemeButton />
          <UserMenu brief />
        </div>
      </header>
      <aside className="side" aria-label="edgectl">
        <Brand />
        <nav className="nav" aria-label="Main">
          {PAGES.map(([name, to, icon]) => (
            <NavLink key={to} to={to}>
              <Icon name={icon} size={19} />
              {name}
              {to === "/alerts" && <AlertCount />}
            </NavLink>
          ))}
        </nav>
        <div className="side-foot">
          <div className="row apart">
            <Connection />
            <ThemeButton />
          </div>
          <UserMenu />
        </div>
      </aside>
      <main className="main" id="main" tabIndex={-1} style={{ outline: "none" }}>
        {me.role !== "viewer" && pathname !== "/trust" && <AlertBanner />}
        <Outlet />
      </main>
      <ScrollRestoration />
    </div>
  );
}

/** What would let devices down days from now is said on every page, to those who can do something. */
function AlertBanner() {
  const { data } = api.useQuery("get", "/api/v1/trust", {}, { refetchInterval: 60_000 });
  const [first, ...more] = data?.alerts ?? [];
  if (!first) return null;
  return (
    <div style={{ marginBottom: 18 }}>
      <Note tone={first.severity === "critical" ? "bad" : "warn"}>
        <div className="row apart wrap">
          <span className="breakable grow" style={{ minWidth: 220 }}>
            {first.detail}
          </span>
          <Link to="/trust" className="nowrap">
            {more.length ? `What to do, and ${more.length} more` : "What to do"}
          </Link>
        </div>
      </Note>
    </div>
  );
}

/** Alerts that nobody has acknowledged. */
function AlertCount() {
  const { data } = useAlertCounts();
  if (!data?.open) return null;
  return (
    <span className="badge number" data-tone={data.critical ? "bad" : "warn"}>
      {data.open > 99 ? "99+" : data.open}
      <span className="hidden"> open</span>
    </span>
  );
}

function Brand() {
  return (
    <Link to="/fleet" className="brand">
      <Mark />
      edgectl
    </Link>
  );
}

function Connection({ brief }: { brief?: boolean }) {
  const { live } = useLiveStatus();
  const stale = useStaleSince();
  const words = live ? "Live" : stale !== null ? `Stale since ${clock(stale)}` : "Reconnecting…";
  const meaning = live
    ? "Changes arrive by themselves."
    : "The server does not send changes now. What you see may be old; it comes back by itself.";
  return (
    <Tooltip label={meaning}>
      <span className="connection" role={brief ? undefined : "status"} data-live={live}>
        <span className="dot" data-tone={live ? "good" : stale !== null ? "bad" : "warn"} />
        {words}
      </span>
    </Tooltip>
  );
}

const THEMES = { auto: ["screen", "as the system"], light: ["sun", "light"], dark: ["moon", "dark"] } as const;

function ThemeButton() {
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const [icon, words] = THEMES[colorScheme];
  const next = colorScheme === "auto" ? "light" : colorScheme === "light" ? "dark" : "auto";
  const label = `Theme: ${words}. Change to ${THEMES[next][1]}`;
  return (
    <Tooltip label={label}>
      <ActionIcon aria-label={label} onClick={() => setColorScheme(next)}>
        <Icon name={icon} size={17} />
      </ActionIcon>
    </Tooltip>
  );
}

function UserMenu({ brief }: { brief?: boolean }) {
  const me = useMe();
  return (
    <Menu position={brief ? "bottom-end" : "top-start"} width={196}>
      <Menu.Target>
        <button
          type="button"
          className="user-button"
          style={brief ? { width: "auto" } : undefined}
          aria-label={`${me.user}, ${me.role}: user menu`}
        >
          <span className="avatar">{me.user.charAt(0)}</span>
          {!brief && (
            <span className="grow" style={{ lineHeight: 1.3 }}>
              <span style={{ fontWeight: 560 }}>{me.user}</span>
              <br />
              <span className="soft small">{me.role}</span>
            </span>
          )}
        </button>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Item component={Link} to="/settings" leftSection={<Icon name="key" size={16} />}>
          API tokens
        </Menu.Item>
        <Menu.Item leftSection={<Icon name="door" size={16} />} onClick={() => void logOut()}>
          Log out
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}


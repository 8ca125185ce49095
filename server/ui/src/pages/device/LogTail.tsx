// Log lines of a device as they come, for as long as this is on the screen: asking for them is what
// tells the server that somebody looks. A page in the background asks too seldom, and so it ends.
import { useEffect, useRef, useState } from "react";
import { Button } from "@mantine/core";

import { fetchClient, type Schemas } from "../../api/client";
import { Equivalent } from "../../components/Command";
import { Icon } from "../../components/Icon";
import { ErrorPanel, Note } from "../../components/Panels";
import { Time } from "../../components/Time";
import { followLogs } from "../../cli";
import { clock, plural } from "../../format";

type Line = Schemas["LogLineInfo"] & { key: number };
type Follow = Schemas["LogFollowInfo"];

const LOOK_MS = 1_000;
/** The oldest go: a page is no archive. */
const SHOWN_MAX = 2_000;

const ENDS: Record<Follow["reason"], string> = {
  "": "",
  time: "Ten minutes are over.",
  unwatched: "Nobody looked for a while, so the device has stopped.",
  offline: "The device is not connected any more.",
  enough: "The device has sent as much as it sends at a time.",
};

export function LogTail({ device, close }: { device: string; close: () => void }) {
  const [round, setRound] = useState(0);
  return <Lines key={round} device={device} close={close} again={() => setRound((before) => before + 1)} />;
}

function useFollow(device: string) {
  const [follow, setFollow] = useState<Follow | null>(null);
  const [lines, setLines] = useState<Line[]>([]);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    const leaving = new AbortController();
    const { signal } = leaving;
    let after = 0;
    let key = 0;
    const look = async (begun: Follow): Promise<Follow> => {
      const { data } = await fetchClient.GET("/api/v1/devices/{device}/logs/follow/{follow}", {
        params: { path: { device, follow: begun.id }, query: { after } },
        signal,
      });
      const more = data!.after > after;
      after = data!.after;
      const fresh = data!.lines.map((line) => ({ ...line, key: (key += 1) }));
      if (fresh.length) setLines((before) => [...before, ...fresh].slice(-SHOWN_MAX));
      // What came before the end is shown before the end is.
      const known = more && data!.follow.ended_at ? { ...data!.follow, ended_at: null } : data!.follow;
      setFollow(known);
      return known;
    };
    const run = async () => {
      try {
        const { data } = await fetchClient.POST("/api/v1/devices/{device}/logs/follow", { params: { path: { device } }, signal });
        let known = data!;
        setFollow(known);
        while (!signal.aborted && !known.ended_at) {
          known = await look(known);
          await new Promise((done) => setTimeout(done, LOOK_MS));
        }
      } catch (failure) {
        if (!signal.aborted) setError(failure);
      }
    };
    void run();
    return () => leaving.abort();
  }, [device]);
  return { follow, lines, error };
}

function Lines({ device, close, again }: { device: string; close: () => void; again: () => void }) {
  const { follow, lines, error } = useFollow(device);
  const box = useRef<HTMLDivElement>(null);
  const sticks = useRef(true);
  useEffect(() => {
    if (sticks.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);
  const over = Boolean(error) || Boolean(follow?.ended_at);
  return (
    <div className="stack" style={{ gap: 10 }}>
      <div className="row apart wrap" style={{ gap: "6px 12px" }}>
        <span className="soft small" role="status">
          {over && follow?.ended_at ? ENDS[follow.reason] : null}
          {!over && follow && (
            <>
              New lines appear here; ends by itself <Time at={follow.ends_at} />
            </>
          )}
          {!over && !follow && "The device is asked…"}
        </span>
        <span className="row">
          {over && (
            <Button size="xs" variant="default" leftSection={<Icon name="refresh" size={14} />} onClick={again}>
              Follow again
            </Button>
          )}
          <Button size="xs" variant="default" leftSection={<Icon name={over ? "cross" : "stop"} size={14} />} onClick={close}>
            {over ? "Close" : "Stop"}
          </Button>
        </span>
      </div>
      {Boolean(error) && <ErrorPanel error={error} />}
      {follow !== null && follow.missing > 0 && (
        <Note tone="warn">{plural(follow.missing, "line")} missing: the device had no room for them, or they got lost on the way.</Note>
      )}
      <div
        ref={box}
        className="log-lines mono small"
        role="log"
        aria-label={`Log of ${device}`}
        tabIndex={0}
        onScroll={({ currentTarget: it }) => {
          sticks.current = it.scrollHeight - it.scrollTop - it.clientHeight < 24;
        }}
      >
        {lines.length === 0 && <p className="soft">{over ? "No line has come." : "No line yet."}</p>}
        {lines.map((line) => (
          <p key={line.key} data-level={line.level}>
            <span className="soft">{line.time ? clock(Date.parse(line.time)) : "–"}</span> <b>{line.level}</b>{" "}
            <span className="soft">{line.logger}:</span> {line.text}
          </p>
        ))}
      </div>
      <Equivalent text={followLogs(device)} />
    </div>
  );
}

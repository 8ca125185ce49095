// One EventSource for a set of topics that changes. The new stream is opened before the old one is
// closed, so that a change of page does not look like a lost connection.

export const TOPIC_KINDS = ["fleet", "rollout", "job", "device", "version", "trust"] as const;

export type Report =
  | { kind: "snapshot"; topic: string; snapshot: unknown }
  | { kind: "status"; live: boolean; since: number };

const RETRY_MS = 3_000;
const GATHER_MS = 60;

export class Stream {
  private topics = "";
  private source: EventSource | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private status: Extract<Report, { kind: "status" }> = {
    kind: "status",
    live: false,
    since: Date.now(),
  };

  constructor(private readonly tell: (report: Report) => void) {}

  get currentStatus(): Report {
    return this.status;
  }

  /** Ask for exactly these topics from now on. */
  ask(topics: Iterable<string>): void {
    const wanted = [...new Set(topics)].sort().join("\n");
    if (wanted === this.topics) return;
    this.topics = wanted;
    this.openIn(GATHER_MS);
  }

  private openIn(milliseconds: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), milliseconds);
  }

  private open(): void {
    const before = this.source;
    this.source = null;
    if (!this.topics) {
      before?.close();
      return;
    }
    const query = new URLSearchParams(this.topics.split("\n").map((topic) => ["topic", topic]));
    const source = new EventSource(`/api/v1/events?${query}`);
    this.source = source;
    source.onopen = () => {
      before?.close();
      this.report(true);
    };
    source.onerror = () => {
      before?.close();
      if (source !== this.source) return;
      this.report(false);
      // The browser reconnects by itself, except after an answer that is no stream (401, 503).
      if (source.readyState === EventSource.CLOSED) this.openIn(RETRY_MS);
    };
    for (const kind of TOPIC_KINDS) {
      source.addEventListener(kind, (event) => {
        if (source === this.source) this.pass((event as MessageEvent<string>).data);
      });
    }
  }

  private pass(text: string): void {
    const { topic, snapshot } = JSON.parse(text) as { topic: string; snapshot: unknown };
    this.report(true);
    this.tell({ kind: "snapshot", topic, snapshot });
  }

  private report(live: boolean): void {
    if (live === this.status.live) return;
    this.status = { kind: "status", live, since: Date.now() };
    this.tell(this.status);
  }
}

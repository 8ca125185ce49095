// One EventSource for a set of topics that changes. The new stream is opened before the old one is
// closed, so that a change of page does not look like a lost connection. A connection can be lost
// without an error (a laptop that slept, a firewall that forgot): the server says something every
// five seconds, and where nothing is heard the stream is opened anew.

export const TOPIC_KINDS = ["fleet", "rollout", "job", "device", "version", "trust", "drift", "samples", "alerts", "loops"] as const;
/** That there is nothing to say. */
const BEAT = "beat";

export type Report =
  | { kind: "snapshot"; topic: string; snapshot: unknown }
  | { kind: "status"; live: boolean; since: number };

const RETRY_MS = 3_000;
const GATHER_MS = 60;
/** Three beats. */
const SILENCE_MS = 15_000;
const WATCH_MS = 2_500;

export class Stream {
  private topics = "";
  private source: EventSource | null = null;
  /** The one that was open before, until `source` is. */
  private before: EventSource | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** When this stream was asked for, or has said something. */
  private heard = 0;
  private status: Extract<Report, { kind: "status" }> = {
    kind: "status",
    live: false,
    since: Date.now(),
  };

  constructor(private readonly tell: (report: Report) => void) {
    setInterval(() => this.watch(), WATCH_MS);
  }

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
    if (this.source?.readyState === EventSource.OPEN) {
      this.before?.close();
      this.before = this.source;
    } else this.source?.close();
    this.source = null;
    if (!this.topics) {
      this.closeBefore();
      return;
    }
    const query = new URLSearchParams(this.topics.split("\n").map((topic) => ["topic", topic]));
    const source = new EventSource(`/api/v1/events?${query}`);
    this.source = source;
    this.heard = Date.now();
    source.onopen = () => {
      if (source !== this.source) return;
      this.closeBefore();
      this.hear();
    };
    source.onerror = () => {
      if (source !== this.source) return;
      this.closeBefore();
      this.report(false);
      // The browser reconnects by itself, except after an answer that is no stream (401, 503).
      if (source.readyState === EventSource.CLOSED) this.openIn(RETRY_MS);
    };
    for (const kind of TOPIC_KINDS) {
      source.addEventListener(kind, (event) => {
        if (source === this.source) this.pass((event as MessageEvent<string>).data);
      });
    }
    source.addEventListener(BEAT, () => {
      if (source === this.source) this.hear();
    });
  }

  private closeBefore(): void {
    this.before?.close();
    this.before = null;
  }

  private watch(): void {
    const now = Date.now();
    if (!this.source || now - this.heard <= SILENCE_MS) return;
    this.source.close();
    this.report(false, this.heard);
    this.open();
  }

  private hear(): void {
    this.heard = Date.now();
    this.report(true);
  }

  private pass(text: string): void {
    const { topic, snapshot } = JSON.parse(text) as { topic: string; snapshot: unknown };
    this.hear();
    this.tell({ kind: "snapshot", topic, snapshot });
  }

  private report(live: boolean, since = Date.now()): void {
    if (live === this.status.live) return;
    this.status = { kind: "status", live, since };
    this.tell(this.status);
  }
}

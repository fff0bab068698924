/**
 * The page of a run over HTTP: its files, the events of events.ts over the WebSocket /live, the login of viewers,
 * /metrics, /healthz and /readyz. Belongs to no server: one that listens already gives it requests. SHELL.
 *
 * Nobody who looks can hold training up: there is one timer while anybody looks, each event is made once for all, and
 * who does not read what was sent is cut off.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { WebSocketServer, type WebSocket } from 'ws';
import type { Logger } from '../log.ts';
import { RateLimiter } from '../rate-limiter.ts';
import type { RunFacts, RunNow, ViewEvent } from './events.ts';
import { pathOf } from './paths.ts';
import { OPEN_FILES, pageFile } from './page-files.ts';
import { probeAnswer } from './probes.ts';
import type { HistoryMark, RunHistory } from './run-history.ts';
import { denialOf, isOwnOrigin, tokenOf, viewerCookie, type ViewGate } from './view-gate.ts';

/** What a page shows. */
export interface ViewSource {
  readonly facts: RunFacts;
  /** Another one: what was told is void. */
  readonly history: RunHistory;
  now(): Omit<RunNow, 'viewers'>;
  /** Why trainers cannot be served now; null: they can. */
  whyNotReady(): string | null;
  /** In the format of Prometheus; null: there are no metrics. */
  metrics(viewers: number): Promise<{ readonly type: string; readonly text: string }> | null;
}

export interface StatusPageOptions {
  readonly source: ViewSource;
  readonly gate: ViewGate;
  readonly logger: Logger;
  /** Monotonic. */
  readonly nowMs: () => number;
  /** Between two events of a type; default 1 000. */
  readonly intervalMs?: number;
}

/** Pages at once; more are answered with HTTP 503. */
const MAX_VIEWERS = 32;
/** What one may leave unread. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024;
/** Between pings; who has not answered one when the next is due is cut off. */
const PING_INTERVAL_MS = 15_000;
const MAX_LOGIN_BYTES = 2048;
/** Of one address: requests for what has to be computed, and tries to log in. */
const REQUESTS = { burst: 20, perSecond: 5 } as const;
const LOGINS = { burst: 10, perSecond: 0.5 } as const;

/** To everything that is sent: nothing from elsewhere, no script but the page's own, in no other page. */
const HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'cache-control': 'no-store',
} as const;
const TEXT = 'text/plain; charset=utf-8';

/** A page that is open. */
interface Viewer {
  readonly socket: WebSocket;
  readonly token: string;
  hasAnswered: boolean;
}

export class StatusPage {
  readonly #options: StatusPageOptions;
  readonly #webSockets = new WebSocketServer({
    ...{ noServer: true, clientTracking: false, perMessageDeflate: false, maxPayload: 1024 },
  });
  readonly #viewers = new Set<Viewer>();
  readonly #requests: RateLimiter;
  readonly #logins: RateLimiter;
  #timer: NodeJS.Timeout | null = null;
  #pingedMs = 0;
  /** What was told, and how far. */
  #told: RunHistory | null = null;
  #mark: HistoryMark = { revision: 0, from: 0, to: 0 };
  #evaluatedStep = 0;
  #toldNow = '';

  constructor(options: StatusPageOptions) {
    this.#options = options;
    this.#requests = new RateLimiter(REQUESTS, options.nowMs);
    this.#logins = new RateLimiter(LOGINS, options.nowMs);
  }

  get viewers(): number {
    return this.#viewers.size;
  }

  /** Answers any HTTP request that is no upgrade. */
  respond(request: IncomingMessage, response: ServerResponse): void {
    const { source, gate } = this.#options;
    const path = pathOf(request);
    if (path === '/login' && request.method === 'POST') return this.#logIn(request, response);
    if (path === '/logout' && request.method === 'POST') return this.#logOut(request, response);
    if (request.method !== 'GET' && request.method !== 'HEAD')
      return send(response, 405, TEXT, 'only GET\n', { allow: 'GET, HEAD' });
    // The reason is for those with a token, on the page.
    const probe = probeAnswer(path, source.whyNotReady() === null ? null : 'not ready');
    if (probe !== null) return send(response, probe.status, TEXT, `${probe.text}\n`);
    const file = path === '/metrics' ? null : pageFile(path);
    if (path !== '/metrics' && file === null) return send(response, 404, TEXT, 'not found\n');
    const denial = OPEN_FILES.has(path) ? null : denialOf(gate, request);
    if (denial?.status === 401 && path === '/') return sendFile(response, 401, '/login');
    if (denial !== null) {
      const more = denial.status === 401 ? BEARER : {};
      return send(response, denial.status, TEXT, `${denial.text}\n`, more);
    }
    if (file !== null) return send(response, 200, file.type, file.bytes);
    if (!this.#requests.take(addressOf(request))) return send(response, 429, TEXT, 'too many requests\n');
    const metrics = source.metrics(this.viewers);
    if (metrics === null) return send(response, 404, TEXT, 'not found\n');
    metrics.then(
      ({ type, text }) => send(response, 200, type, text),
      (error: Error) => {
        this.#options.logger.error('metrics.failed', { error: error.message }, 'metrics could not be made');
        send(response, 500, TEXT, 'metrics could not be made\n');
      },
    );
  }

  /** Answers a request for the WebSocket. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const refusal = this.#refusalOf(request);
    if (refusal !== null) return refuse(socket, refusal);
    this.#webSockets.handleUpgrade(request, socket, head, (webSocket) =>
      this.#welcome(webSocket, tokenOf(request)),
    );
  }

  /** Tells those who look how it ended, and that they may come again. */
  close(): void {
    if (this.#timer !== null) this.#publish();
    this.#stop();
    for (const { socket } of this.#viewers) {
      socket.close(1001, 'the coordinator ends');
      // What is on its way may arrive; who does not close is not waited for.
      setTimeout(() => socket.terminate(), 250).unref();
    }
    this.#viewers.clear();
  }

  #refusalOf(request: IncomingMessage): string | null {
    if (!isOwnOrigin(request)) return '403 Forbidden';
    const denial = denialOf(this.#options.gate, request);
    if (denial !== null) return denial.status === 401 ? '401 Unauthorized' : '403 Forbidden';
    if (!this.#requests.take(addressOf(request))) return '429 Too Many Requests';
    return this.#viewers.size >= MAX_VIEWERS ? '503 Service Unavailable' : null;
  }

  #welcome(socket: WebSocket, token: string): void {
    const viewer: Viewer = { socket, token, hasAnswered: true };
    this.#viewers.add(viewer);
    socket.on('error', () => socket.terminate());
    socket.on('pong', () => (viewer.hasAnswered = true));
    socket.on('message', () => {
      this.#viewers.delete(viewer);
      socket.close(1008, 'nothing is expected here');
    });
    socket.on('close', () => {
      this.#viewers.delete(viewer);
      if (this.#viewers.size === 0) this.#stop();
    });
    const { source, intervalMs = 1000 } = this.#options;
    const { history, facts } = source;
    if (this.#timer === null) {
      this.#told = history;
      this.#mark = history.mark;
      this.#evaluatedStep = history.newestEvaluation?.step ?? 0;
      this.#timer = setInterval(() => this.#publish(), intervalMs);
    }
    this.#send(viewer, JSON.stringify({ type: 'run', ...facts } satisfies ViewEvent));
    this.#send(viewer, JSON.stringify({ type: 'history', ...history.history } satisfies ViewEvent));
    this.#send(viewer, this.#evaluations());
    this.#send(viewer, this.#now());
  }

  #publish(): void {
    const { history } = this.#options.source;
    const texts: string[] = [];
    const news = history === this.#told ? history.since(this.#mark) : null;
    if (news === null)
      texts.push(JSON.stringify({ type: 'history', ...history.history } satisfies ViewEvent));
    else if (news.length > 0) {
      const { recent } = history.history;
      texts.push(JSON.stringify({ type: 'steps', points: news, recent } satisfies ViewEvent));
    }
    this.#told = history;
    this.#mark = history.mark;
    const evaluatedStep = history.newestEvaluation?.step ?? 0;
    if (evaluatedStep !== this.#evaluatedStep) texts.push(this.#evaluations());
    this.#evaluatedStep = evaluatedStep;
    const now = this.#now();
    if (now !== this.#toldNow) texts.push(now);
    this.#toldNow = now;
    const nowMs = this.#options.nowMs();
    const isPingDue = nowMs - this.#pingedMs >= PING_INTERVAL_MS;
    if (isPingDue) this.#pingedMs = nowMs;
    for (const viewer of [...this.#viewers]) {
      if (this.#isUnwelcome(viewer)) continue;
      for (const text of texts) this.#send(viewer, text);
      if (isPingDue) this.#ping(viewer);
    }
  }

  /** Closes a viewer whose token is no longer good. */
  #isUnwelcome(viewer: Viewer): boolean {
    const { socket, token } = viewer;
    const { viewers } = this.#options.gate;
    if (!viewers.asksForTokens || viewers.judgeViewer(token).isValid) return false;
    this.#viewers.delete(viewer);
    socket.close(1008, 'the token is no longer good');
    return true;
  }

  #ping(viewer: Viewer): void {
    if (!viewer.hasAnswered) return viewer.socket.terminate();
    viewer.hasAnswered = false;
    viewer.socket.ping();
  }

  #send({ socket }: Viewer, text: string): void {
    if (socket.bufferedAmount > MAX_UNREAD_BYTES) return socket.terminate();
    socket.send(text);
  }

  #now(): string {
    return JSON.stringify({
      type: 'now',
      ...this.#options.source.now(),
      viewers: this.viewers,
    } satisfies ViewEvent);
  }

  #evaluations(): string {
    const points = this.#options.source.history.evaluations;
    return JSON.stringify({ type: 'evaluations', points } satisfies ViewEvent);
  }

  #stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #logIn(request: IncomingMessage, response: ServerResponse): void {
    if (!isOwnOrigin(request)) return send(response, 403, TEXT, 'from another page\n');
    if (!this.#logins.take(addressOf(request)))
      return send(response, 429, TEXT, 'too many tries; wait a little\n');
    let body = '';
    request.setEncoding('utf8');
    request.on('data', (text: string) => {
      body += text;
      if (body.length > MAX_LOGIN_BYTES) request.destroy();
    });
    request.on('error', () => {});
    request.on('end', () => {
      const token = new URLSearchParams(body).get('token')?.trim() ?? '';
      const { viewers } = this.#options.gate;
      if (!/^[\w-]*$/.test(token) || !viewers.judgeViewer(token).isValid)
        return sendFile(response, 401, '/login');
      this.#redirect(request, response, viewers.asksForTokens ? token : '');
    });
  }

  #logOut(request: IncomingMessage, response: ServerResponse): void {
    if (!isOwnOrigin(request)) return send(response, 403, TEXT, 'from another page\n');
    this.#redirect(request, response, '');
  }

  /** To the page, with this token from here on. */
  #redirect(request: IncomingMessage, response: ServerResponse, token: string): void {
    const isSecure = 'encrypted' in request.socket;
    const cookie = viewerCookie(token, request.headers.host, isSecure);
    send(response, 303, TEXT, 'see /\n', { location: '/', 'set-cookie': cookie });
  }
}

const BEARER = { 'www-authenticate': 'Bearer realm="galore"' } as const;

function addressOf({ socket }: IncomingMessage): string {
  return socket.remoteAddress ?? '?';
}

function sendFile(response: ServerResponse, status: number, path: string): void {
  const { type, bytes } = pageFile(path)!;
  send(response, status, type, bytes, status === 401 ? BEARER : {});
}

function send(
  response: ServerResponse,
  status: number,
  type: string,
  body: string | Uint8Array,
  more: Readonly<Record<string, string>> = {},
): void {
  const bytes = typeof body === 'string' ? Buffer.from(body) : body;
  const length = String(bytes.length);
  response.writeHead(status, { ...HEADERS, 'content-type': type, 'content-length': length, ...more });
  response.end(response.req.method === 'HEAD' ? undefined : bytes);
}

function refuse(socket: Duplex, status: string): void {
  socket.on('error', () => {});
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
  setTimeout(() => socket.destroy(), 2000).unref();
}

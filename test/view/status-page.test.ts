import { once } from 'node:events';
import { createServer, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { WebSocket } from 'ws';
import type { TokenVerdict } from '../../src/identity/token.ts';
import { SILENT_LOGGER } from '../../src/log.ts';
import { VIEW_VERSION, type RunFacts, type RunNow, type ViewEvent } from '../../src/view/events.ts';
import { LIVE_PATH } from '../../src/view/paths.ts';
import { RunHistory } from '../../src/view/run-history.ts';
import { StatusPage } from '../../src/view/status-page.ts';
import { NO_VIEWER_TOKENS, type Viewers } from '../../src/view/view-gate.ts';
import { Mailbox } from '../support/mailbox.ts';

const NOW: Omit<RunNow, 'viewers'> = {
  ...{ state: 'waiting', activity: 'waiting: 0 of 1 trainers are ready', step: 2 },
  ...{ secondsPerStep: null, etaSeconds: null, trainers: [] },
  checkpoint: { step: 0, activity: 'none is being made' },
};

interface Served {
  readonly port: number;
  readonly page: StatusPage;
  readonly history: RunHistory;
  notReady: string | null;
  get(path: string, headers?: Readonly<Record<string, string>>, body?: string): Promise<Answer>;
  live(headers?: Readonly<Record<string, string>>): { socket: WebSocket; events: Mailbox<ViewEvent> };
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

async function serve(t: ExecutionContext, viewers: Viewers = NO_VIEWER_TOKENS): Promise<Served> {
  const history = new RunHistory();
  const facts: RunFacts = {
    ...{ viewVersion: VIEW_VERSION, name: 'tiny', runId: 'r', totalSteps: 9, method: null, policy: [] },
    source: 'live',
    lossUnit: 'nats per token',
  };
  const source = {
    facts,
    history,
    now: () => NOW,
    whyNotReady: () => served.notReady,
    metrics: () => Promise.resolve({ type: 'text/plain', text: 'galore_steps_total 2\n' }),
  };
  let nowMs = 0;
  const page = new StatusPage({
    ...{ source, logger: SILENT_LOGGER, intervalMs: 5, nowMs: () => nowMs },
    gate: { viewers, host: '127.0.0.1' },
  });
  const server = createServer((request, response) => page.respond(request, response));
  server.on('upgrade', (request, socket, head) => page.upgrade(request, socket, head));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    page.close();
    server.close();
    server.closeAllConnections();
  });
  const { port } = server.address() as AddressInfo;
  const served: Served = {
    ...{ port, page, history, notReady: null },
    get: (path, headers = {}, body) =>
      new Promise((resolve, reject) => {
        nowMs += 1000;
        const method = body === undefined ? 'GET' : 'POST';
        const asked = httpRequest({ port, path, method, headers }, (response) => {
          let text = '';
          response.setEncoding('utf8').on('data', (piece: string) => (text += piece));
          response.on('end', () =>
            resolve({ status: response.statusCode ?? 0, headers: response.headers, text }),
          );
        });
        asked.on('error', reject).end(body);
      }),
    live: (headers = {}) => {
      nowMs += 1000; // not too often
      const socket = new WebSocket(`ws://127.0.0.1:${port}${LIVE_PATH}`, { headers });
      t.teardown(() => socket.terminate());
      const events = new Mailbox<ViewEvent>();
      socket.on('error', () => {});
      socket.on('message', (data: Buffer) => events.put(JSON.parse(data.toString()) as ViewEvent));
      return { socket, events };
    },
  };
  return served;
}

/** Takes `good` alone. */
function tokens(state = { isGood: true }): Viewers {
  const refusal: TokenVerdict = {
    isValid: false,
    reason: 'UNAUTHORIZED',
    text: 'the token is not one of this run',
  };
  return {
    asksForTokens: true,
    judgeViewer: (token) => (token === 'good' && state.isGood ? { isValid: true, tokenId: 'x' } : refusal),
  };
}

test('the page and all it needs come from here, under a policy that lets nothing else in', async (t) => {
  const served = await serve(t);
  const { status, headers, text } = await served.get('/');
  t.is(status, 200);
  t.regex(headers['content-type']!, /^text\/html/);
  const policy = headers['content-security-policy'] as string;
  t.regex(policy, /default-src 'none'/);
  t.notRegex(policy, /unsafe|\*|https?:/);
  t.is(headers['x-content-type-options'], 'nosniff');
  t.notRegex(text, /<script>|style="|\son[a-z]+="|https?:\/\//);
  const paths = [...text.matchAll(/(?:src|href)="(\/[^"]+)"/g)].map(([, path]) => path!);
  t.true(paths.length >= 4);
  for (const path of [...paths, '/chart.js', '/show.js', '/words.js', '/uPlot.esm.js'])
    t.is((await served.get(path)).status, 200, path);
  for (const path of ['/..%2fpackage.json', '/../package.json', '/tokens.json', '/toString'])
    t.is((await served.get(path)).status, 404, path);
});

test('who asks whether the process lives and is ready needs no token and learns nothing else', async (t) => {
  const served = await serve(t, tokens());
  t.deepEqual(await served.get('/healthz').then(({ status, text }) => [status, text]), [200, 'ok\n']);
  t.is((await served.get('/readyz')).status, 200);
  served.notReady = 'paused: /secret/path is full';
  const { status, text } = await served.get('/readyz');
  t.deepEqual([status, text], [503, 'not ready\n']);
});

test('where tokens are asked for, page, metrics and events are for those with one', async (t) => {
  const served = await serve(t, tokens());
  for (const path of ['/', '/metrics', '/main.js']) {
    const { status, headers, text } = await served.get(path);
    t.is(status, 401, path);
    t.regex(headers['www-authenticate']!, /^Bearer/);
    t.notRegex(text, /galore_steps/);
  }
  t.regex((await served.get('/')).text, /<form method="post" action="\/login">/);
  const bearer = { authorization: 'Bearer good' };
  t.is((await served.get('/metrics', bearer)).text, 'galore_steps_total 2\n');
  t.is((await served.get('/', { authorization: 'Bearer bad' })).status, 401);
  t.is((await served.get('/metrics?token=good')).status, 401, 'not in the address');
  const [, refused] = (await once(served.live().socket, 'unexpected-response')) as [
    unknown,
    { statusCode: number },
  ];
  t.is(refused.statusCode, 401);
  t.is((await served.live(bearer).events.take()).type, 'run');
});

test('the login sets a cookie that no script reads and no other site sends', async (t) => {
  const served = await serve(t, tokens());
  const form = { 'content-type': 'application/x-www-form-urlencoded' };
  t.is((await served.get('/login', form, 'token=bad')).status, 401);
  const own = { ...form, origin: `http://127.0.0.1:${served.port}`, host: `127.0.0.1:${served.port}` };
  t.is((await served.get('/login', { ...own, origin: 'http://evil.example' }, 'token=good')).status, 403);
  const { status, headers } = await served.get('/login', own, 'token=good');
  t.deepEqual([status, headers.location], [303, '/']);
  const [cookie] = headers['set-cookie']!;
  t.is(cookie, `galore_viewer_${served.port}=good; Path=/; HttpOnly; SameSite=Strict`);
  const host = { host: own.host, cookie: `other=1; ${cookie!.split(';')[0]!}` };
  t.is((await served.get('/', host)).status, 200);
  const out = await served.get('/logout', own, '');
  t.regex(out.headers['set-cookie']![0]!, /=; .*Max-Age=0/);
});

test('a page of the web cannot read what its visitor may read', async (t) => {
  const served = await serve(t);
  t.is((await served.get('/', { host: 'rebound.example' })).status, 403);
  t.is((await served.get('/', { host: `localhost:${served.port}` })).status, 200);
  const foreign = served.live({ origin: 'http://evil.example' });
  const [, { statusCode }] = (await once(foreign.socket, 'unexpected-response')) as [
    unknown,
    { statusCode: number },
  ];
  t.is(statusCode, 403);
});

test('who looks is told everything first and then what is new', async (t) => {
  const served = await serve(t);
  served.history.addStep({ step: 1, loss: 5 });
  const { events } = served.live();
  const first = [await events.take(), await events.take(), await events.take(), await events.take()];
  t.deepEqual(
    first.map(({ type }) => type),
    ['run', 'history', 'evaluations', 'now'],
  );
  t.like(first[3], { ...NOW, viewers: 1 });
  served.history.addStep({ step: 2, loss: 4 });
  served.history.addEvaluation({ step: 2, loss: 4.5 });
  const news: ViewEvent[] = [];
  while (!news.some(({ type }) => type === 'evaluations')) news.push(await events.take());
  const steps = news.find(({ type }) => type === 'steps');
  t.true(steps?.type === 'steps' && steps.points.length === 1);
  t.like(steps, { recent: [{ step: 1 }, { step: 2, loss: 4 }] });
});

test('a viewer whose token is revoked is sent away', async (t) => {
  const state = { isGood: true };
  const served = await serve(t, tokens(state));
  const { socket, events } = served.live({ authorization: 'Bearer good' });
  await events.take();
  state.isGood = false;
  const [code] = (await once(socket, 'close')) as [number];
  t.is(code, 1008);
  t.is(served.page.viewers, 0);
});

test('a viewer that reads nothing is cut off, and the others are told on', async (t) => {
  const served = await serve(t);
  const slow = served.live();
  await once(slow.socket, 'open');
  const closed = once(slow.socket, 'close');
  slow.socket.pause();
  const quick = served.live();
  await quick.events.take();
  t.is(served.page.viewers, 2);
  // Every evaluation has all of them told: more and more than what a socket and the page keep for one who does not read.
  const loss = Math.PI * 1e-7;
  for (let step = 1; step <= 2000; step++) served.history.addEvaluation({ step, loss, accuracy: loss });
  for (let step = 2001; served.page.viewers !== 1 && step < 2400; step++) {
    served.history.addEvaluation({ step, loss, accuracy: loss });
    await quick.events.takeWhere(({ type }) => type === 'evaluations');
  }
  t.is(served.page.viewers, 1);
  slow.socket.resume();
  await closed;
  t.is(quick.socket.readyState, WebSocket.OPEN);
});

test('one who talks is sent away, and pages beyond the limit are refused', async (t) => {
  const served = await serve(t);
  const talker = served.live();
  await talker.events.take();
  talker.socket.send('hello');
  const [code] = (await once(talker.socket, 'close')) as [number];
  t.is(code, 1008);
  for (let pages = 0; pages < 32; pages++) await served.live().events.take();
  const [, { statusCode }] = (await once(served.live().socket, 'unexpected-response')) as [
    unknown,
    { statusCode: number },
  ];
  t.is(statusCode, 503);
});

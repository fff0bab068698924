/**
 * The status page: holds one WebSocket to the server it came from and shows what it is told (src/view/events.ts). When
 * the connection is lost it says so, keeps showing what it knows, and tries again until it is back.
 */
import type { EvaluationPoint, RecentStep, RunFacts, StepPoint, ViewEvent } from '../src/view/events.ts';
import { LossChart } from './chart.ts';
import { byId, setText, showLossNote, showNow, showRun, showSteps } from './show.ts';

const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 5000;
const LOST = 'Connection lost; waiting for the coordinator to come back';
/** As in src/protocol/standby.ts: the page loads nothing of that. */
const LEADER_HEADER = 'galore-leader';
const NO_LEADER = 'none';

const chart = new LossChart(byId('loss'));
let run: RunFacts | null = null;
let points: readonly StepPoint[] = [];
let recent: readonly RecentStep[] = [];
let evaluations: readonly EvaluationPoint[] = [];
let stride = 1;
let retryMs = FIRST_RETRY_MS;

function take(event: ViewEvent): void {
  switch (event.type) {
    case 'run':
      run = event;
      return showRun(event);
    case 'history':
      ({ points, recent, stride } = event);
      return showCurve();
    case 'steps': {
      const [first] = event.points;
      const before = first === undefined ? points : points.filter(({ from }) => from < first.from);
      points = [...before, ...event.points];
      ({ recent } = event);
      return showCurve();
    }
    case 'evaluations':
      evaluations = event.points;
      return showCurve();
    case 'now':
      return showNow(event, run);
    default: // of a newer server
  }
}

function showCurve(): void {
  chart.show(points, evaluations);
  showSteps(recent, evaluations);
  showLossNote(run, points, stride);
}

function say(text: string, isLost: boolean): void {
  const place = byId('connection');
  setText(place, text);
  place.dataset['lost'] = String(isLost);
}

function connect(): void {
  const url = new URL('/live', location.href);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  const socket = new WebSocket(url);
  let hasOpened = false;
  socket.addEventListener('open', () => {
    hasOpened = true;
    retryMs = FIRST_RETRY_MS;
    say('Live', false);
  });
  socket.addEventListener('message', ({ data }) => take(JSON.parse(String(data)) as ViewEvent));
  socket.addEventListener('close', () => {
    if (hasOpened) say(LOST, true);
    setTimeout(() => void retry(hasOpened), retryMs);
    retryMs = Math.min(2 * retryMs, LONGEST_RETRY_MS);
  });
}

/**
 * What a WebSocket does not tell: a token that is no longer good, then the login is what the page leads to, and that
 * another coordinator leads by now.
 */
async function retry(hasOpened: boolean): Promise<void> {
  if (!hasOpened) {
    const answer = await fetch('/', { method: 'HEAD', cache: 'no-store' }).catch(() => null);
    if (answer?.status === 401) return location.reload();
    const leader = answer?.headers.get(LEADER_HEADER) ?? null;
    const who = leader === NO_LEADER ? 'nobody' : leader;
    say(leader === null ? LOST : `This coordinator stands by; ${who} leads the run`, true);
  }
  connect();
}

connect();

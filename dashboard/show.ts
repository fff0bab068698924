/** Puts what is known of a run into the page. Every text goes in as text: names and reasons come from elsewhere. */
import type { EvaluationPoint, RecentStep, RunFacts, RunNow, StepPoint } from '../src/view/events.ts';
import { bytes, count, loss, short, time } from './words.ts';

export function byId(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no ${id}`);
  return element;
}

/** Changes what differs and nothing else, so that a selection and a screen reader stay where they are. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** A cell: a text, or more. `isHead`: it names its row. */
interface Cell {
  readonly text: string;
  readonly kind?: 'number' | 'words';
  readonly state?: string;
  readonly isHead?: boolean;
  /** From 0 to 1: drawn as a bar. */
  readonly share?: number;
}

type Column = readonly [name: string, kind?: 'number' | 'words'];

const SVG = 'http://www.w3.org/2000/svg';

function showTable(id: string, columns: readonly Column[], rows: readonly (readonly Cell[])[]): void {
  const table = byId(id) as HTMLTableElement;
  if (table.tHead === null) {
    const head = table.createTHead().insertRow();
    for (const [name, kind] of columns) {
      const cell = document.createElement('th');
      cell.scope = 'col';
      cell.textContent = name;
      if (kind !== undefined) cell.className = kind;
      head.append(cell);
    }
  }
  const body = table.tBodies[0] ?? table.createTBody();
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, i) => showRow(body.rows[i] ?? body.insertRow(), cells));
}

function showRow(row: HTMLTableRowElement, cells: readonly Cell[]): void {
  cells.forEach((cell, i) => {
    let element = row.cells[i];
    if (element === undefined) {
      element = document.createElement(cell.isHead ? 'th' : 'td');
      if (cell.isHead) element.scope = 'row';
      row.append(element);
    }
    if (cell.kind !== undefined) element.className = cell.kind;
    if (cell.state !== undefined) element.dataset['state'] = cell.state;
    if (cell.share === undefined) setText(element, cell.text);
    else showShare(element, cell.share);
  });
}

function showShare(element: Element, share: number): void {
  let bar = element.querySelector('rect');
  if (bar === null) {
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('class', 'share');
    svg.setAttribute('aria-hidden', 'true');
    bar = document.createElementNS(SVG, 'rect');
    bar.setAttribute('height', '100%');
    svg.append(bar);
    element.append(svg);
  }
  bar.setAttribute('width', `${(100 * share).toFixed(1)}%`);
}

function showList(id: string, entries: readonly (readonly [name: string, value: string])[]): void {
  const list = byId(id);
  while (list.children.length > entries.length) list.lastElementChild!.remove();
  entries.forEach(([name, value], i) => {
    let entry = list.children[i];
    if (entry === undefined) {
      entry = document.createElement('div');
      entry.append(document.createElement('dt'), document.createElement('dd'));
      list.append(entry);
    }
    setText(entry.children[0]!, name);
    setText(entry.children[1]!, value);
  });
}

/** What does not change. */
export function showRun(run: RunFacts): void {
  document.title = `${run.name} · galore`;
  setText(byId('name'), run.name);
  showList(
    'policy',
    run.policy.map(({ name, value }) => [name, value]),
  );
  const source = run.source === 'live' ? 'told by its coordinator' : 'read from its directory';
  setText(byId('about'), `run ${run.runId}${run.method === null ? '' : `, method ${run.method}`}; ${source}`);
}

/** How it stands. */
export function showNow(now: RunNow, run: RunFacts | null): void {
  const state = byId('state');
  setText(state, now.state);
  state.dataset['state'] = now.state;
  setText(byId('activity'), now.activity);
  const total = run?.totalSteps ?? null;
  const progress = byId('progress') as HTMLProgressElement;
  progress.max = Math.max(total ?? now.step, 1);
  progress.value = now.step;
  const isOver = now.state === 'completed' || now.state === 'stopped' || now.state === 'interrupted';
  const eta = isOver || now.etaSeconds === null ? '' : `, ${time(now.etaSeconds)} to go`;
  const of = total === null ? '' : ` of ${count(total)}`;
  setText(byId('progress-text'), `step ${count(now.step)}${of}${eta}`);
  showTable(
    'trainers',
    [
      ['trainer'],
      ['state'],
      ['share', 'number'],
      ['answer', 'number'],
      ['memory', 'number'],
      ['last reason', 'words'],
    ],
    now.trainers.map((trainer): readonly Cell[] => [
      { text: nameOf(trainer), isHead: true },
      { text: trainer.state, state: trainer.state },
      { text: count(trainer.sequences), kind: 'number' },
      { text: time(trainer.answerSeconds), kind: 'number' },
      { text: bytes(trainer.residentBytes), kind: 'number' },
      { text: reasonOf(trainer), kind: 'words' },
    ]),
  );
  showList('checkpoint', [
    ['newest', now.checkpoint.step === null ? 'none' : `step ${count(now.checkpoint.step)}`],
    ['now', now.checkpoint.activity],
  ]);
}

function nameOf({ trainerId, trainers }: RunNow['trainers'][number]): string {
  return trainers === null ? trainerId : `${trainerId} (gateway of ${count(trainers)})`;
}

function reasonOf({ reason, reasonStep, lateSteps, outliers }: RunNow['trainers'][number]): string {
  const counts = [
    ...(lateSteps > 0 ? [`late in ${lateSteps}`] : []),
    ...(outliers > 0 ? [`norm too large in ${outliers}`] : []),
  ];
  const said = reason === null ? [] : [`${reason}${reasonStep === null ? '' : ` (step ${reasonStep})`}`];
  return [...said, ...counts].join('; ') || '-';
}

/** The newest steps. */
export function showSteps(recent: readonly RecentStep[], evaluations: readonly EvaluationPoint[]): void {
  const newest = recent.at(-1);
  const held = evaluations.at(-1);
  const validation = held === undefined ? [] : [['validation', validationText(held)] as const];
  showList('figures', [
    ['step', count(newest?.step ?? null)],
    ['loss', loss(newest?.loss ?? null)],
    ...validation,
    ['time of a step', time(newest?.seconds ?? null)],
    ['tokens a second', rate(newest)],
    ['bytes up', bytes(newest?.bytesUp ?? null)],
    ['bytes down', bytes(newest?.bytesDown ?? null)],
    ['trainers', count(newest?.trainers ?? null)],
  ]);
  const traffic = newest?.traffic ?? [];
  const most = Math.max(1, ...traffic.map(({ up, down }) => up + down));
  showTable(
    'traffic',
    [['kind'], ['up', 'number'], ['down', 'number'], ['together']],
    traffic.map(({ kind, up, down }): readonly Cell[] => [
      { text: kind, isHead: true },
      { text: bytes(up), kind: 'number' },
      { text: bytes(down), kind: 'number' },
      { text: '', share: (up + down) / most },
    ]),
  );
  showTable(
    'recent',
    [
      ['step'],
      ['loss', 'number'],
      ['tokens', 'number'],
      ['time', 'number'],
      ['wait', 'number'],
      ['up', 'number'],
      ['down', 'number'],
      ['trainers', 'number'],
      ['learning rate', 'number'],
      ['norm', 'number'],
      ['remarks', 'words'],
    ],
    recent.toReversed().map((step): readonly Cell[] => [
      { text: String(step.step), isHead: true },
      { text: loss(step.loss), kind: 'number' },
      { text: count(step.tokens), kind: 'number' },
      { text: time(step.seconds), kind: 'number' },
      { text: time(step.waitSeconds), kind: 'number' },
      { text: bytes(step.bytesUp), kind: 'number' },
      { text: bytes(step.bytesDown), kind: 'number' },
      { text: count(step.trainers), kind: 'number' },
      { text: short(step.learningRate), kind: 'number' },
      { text: short(step.gradientNorm), kind: 'number' },
      { text: remarksOf(step), kind: 'words' },
    ]),
  );
}

function remarksOf({ late, outliers }: RecentStep): string {
  const remarks = [
    ...(late.length > 0 ? [`late: ${late.join(', ')}`] : []),
    ...outliers.map(({ trainerId, action }) => `norm of ${trainerId} too large: ${action}`),
  ];
  return remarks.join('; ') || '-';
}

function validationText({ loss: value, accuracy }: EvaluationPoint): string {
  return accuracy === null ? loss(value) : `${loss(value)}, ${(100 * accuracy).toFixed(1)}% right`;
}

function rate(step: RecentStep | undefined): string {
  return step === undefined || step.seconds <= 0 ? '-' : count(step.tokens / step.seconds);
}

/** Under the title of the curve. */
export function showLossNote(run: RunFacts | null, points: readonly StepPoint[], stride: number): void {
  const sampled = stride > 1 ? `; a point is the mean of ${stride} steps` : '';
  setText(byId('loss-note'), `${run?.lossUnit ?? ''}, ${count(points.length)} points${sampled}`);
}

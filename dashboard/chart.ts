/** The loss curve: training and held-out loss over steps, drawn by uPlot. */
import type { EvaluationPoint, StepPoint } from '../src/view/events.ts';
import uPlot from './uPlot.esm.js';
import { loss } from './words.ts';

const HEIGHT = 280;

export class LossChart {
  readonly #place: HTMLElement;
  #plot: uPlot | null = null;
  #data: uPlot.AlignedData = [[], [], []];
  #isDrawn = true;

  constructor(place: HTMLElement) {
    this.#place = place;
    new ResizeObserver(() => this.#resize()).observe(place);
    // The colours are those of the page, and uPlot has been told the old ones.
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#build());
  }

  /** Draws with the next frame; what comes in between is drawn once. */
  show(points: readonly StepPoint[], evaluations: readonly EvaluationPoint[]): void {
    this.#data = align(points, evaluations);
    this.#place.setAttribute('aria-label', describe(points, evaluations));
    if (!this.#isDrawn) return;
    this.#isDrawn = false;
    requestAnimationFrame(() => {
      this.#isDrawn = true;
      if (this.#plot === null) this.#build();
      else this.#plot.setData(this.#data);
    });
  }

  #build(): void {
    this.#plot?.destroy();
    this.#place.replaceChildren();
    const colour = (name: string): string => getComputedStyle(this.#place).getPropertyValue(name).trim();
    const axis: uPlot.Axis = {
      stroke: colour('--quiet'),
      grid: { stroke: colour('--line'), width: 1 },
      ticks: { stroke: colour('--line'), width: 1 },
    };
    const value = (_: uPlot, number: number | null): string => loss(number);
    const options: uPlot.Options = {
      width: Math.max(this.#place.clientWidth, 100),
      height: HEIGHT - 40,
      scales: { x: { time: false } },
      axes: [axis, { ...axis, size: 56 }],
      series: [
        { label: 'step' },
        { label: 'train', stroke: colour('--train'), width: 1.5, spanGaps: true, value },
        {
          label: 'validation',
          stroke: colour('--validation'),
          width: 2,
          dash: [6, 4],
          spanGaps: true,
          points: { show: true, size: 6, fill: colour('--validation') },
          value,
        },
      ],
    };
    this.#plot = new uPlot(options, this.#data, this.#place);
  }

  #resize(): void {
    this.#plot?.setSize({ width: Math.max(this.#place.clientWidth, 100), height: HEIGHT - 40 });
  }
}

/** On one axis of steps; a point of many steps stands at the last of them. */
function align(points: readonly StepPoint[], evaluations: readonly EvaluationPoint[]): uPlot.AlignedData {
  const train = new Map(points.map(({ to, loss }) => [to, loss]));
  const validation = new Map(evaluations.map(({ step, loss }) => [step, loss]));
  const steps = [...new Set([...train.keys(), ...validation.keys()])].sort((a, b) => a - b);
  const valuesOf = (of: ReadonlyMap<number, number | null>): (number | null | undefined)[] =>
    steps.map((step) => of.get(step));
  return [steps, valuesOf(train), valuesOf(validation)];
}

/** For those who do not see it. */
function describe(points: readonly StepPoint[], evaluations: readonly EvaluationPoint[]): string {
  const known = points.filter((point) => point.loss !== null);
  const [first, last] = [known[0], known.at(-1)];
  if (first === undefined || last === undefined) return 'Loss curve, without a step yet';
  const lowest = known.reduce((least, point) => (point.loss! < least.loss! ? point : least), first);
  const held = evaluations.at(-1);
  const validation = held === undefined ? '' : `; held-out ${loss(held.loss)} after step ${held.step}`;
  return (
    `Loss curve: from ${loss(first.loss)} in step ${first.from} to ${loss(last.loss)} in step ${last.to}, ` +
    `lowest ${loss(lowest.loss)} in step ${lowest.to}${validation}`
  );
}

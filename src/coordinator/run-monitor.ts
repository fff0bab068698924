/**
 * The metrics of a coordinator for Prometheus: base units, `galore_` in front, counters end in `_total`. Everything is
 * read when it is asked for; counters count from the beginning of the run, so a restart does not set them back.
 * docs/monitoring.md has the table; a test compares it. SHELL (reads the process).
 */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import { SOFTWARE } from '../software.ts';
import type { RunHistory } from '../view/run-history.ts';
import type { RunWatch } from './run-watch.ts';

/** Times of steps, in seconds. */
const STEP_BUCKETS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000];
const PHASES = [
  ...[
    'waiting',
    'sketching',
    'factorising',
    'collecting',
    'committing',
    'evaluating',
    'finishing',
    'finished',
  ],
] as const;
const TRAINER_STATES = ['loading', 'ready', 'lagging'] as const;

export interface Monitored {
  readonly name: string;
  readonly runId: string;
  readonly totalSteps: number;
  readonly history: RunHistory;
  readonly watch: RunWatch;
  /** By trainer id. */
  readonly sizes: () => Readonly<Record<string, { readonly residentBytes: number }>>;
}

export class RunMonitor {
  readonly #registry = new Registry();
  readonly #stepSeconds: Histogram;
  readonly #waitSeconds: Histogram;
  #viewers = 0;

  constructor(run: Monitored) {
    const { history, watch } = run;
    const registers = [this.#registry];
    this.#gauge(
      'run_info',
      'Always 1; the labels say which run this is',
      (gauge) => gauge.set({ run: run.name, run_id: run.runId, version: SOFTWARE.split(' ')[1] ?? '' }, 1),
      ['run', 'run_id', 'version'],
    );
    this.#gauge('leading', '1 where the run is led', (gauge) => gauge.set(1));
    this.#counter('steps_total', 'Committed steps', (set) => set(watch.state.step));
    this.#gauge('steps_planned', 'Length of the run in steps', (gauge) => gauge.set(run.totalSteps));
    this.#gauge(
      'train_loss_nats',
      'Training loss of the newest step, per token or classified sequence',
      (gauge) => setOr(gauge, history.newest?.loss),
    );
    this.#gauge('validation_loss_nats', 'Held-out loss of the newest evaluation', (gauge) =>
      setOr(gauge, history.newestEvaluation?.loss),
    );
    this.#gauge('validation_accuracy_ratio', 'Share of held-out sequences that got their label', (gauge) =>
      setOr(gauge, history.newestEvaluation?.accuracy),
    );
    this.#gauge('learning_rate', 'Learning rate of the newest step', (gauge) =>
      setOr(gauge, history.newest?.learningRate),
    );
    this.#gauge('gradient_norm', 'Norm of the newest summed contribution', (gauge) =>
      setOr(gauge, history.newest?.gradientNorm),
    );
    this.#counter('tokens_total', 'Tokens that counted in committed steps', (set) =>
      set(history.totals.tokens),
    );
    this.#counter(
      'traffic_bytes_total',
      'Bytes on the sockets, by kind; up: from trainers',
      (set) => {
        for (const [kind, { up, down }] of history.totals.traffic) {
          set(up, { kind, direction: 'up' });
          set(down, { kind, direction: 'down' });
        }
      },
      ['kind', 'direction'],
    );
    this.#counter('contributions_late_total', 'Contributions that a step did not wait for', (set) =>
      set(history.totals.late),
    );
    this.#counter(
      'contributions_outliers_total',
      'Contributions whose norm was too large, by what was done',
      (set) => {
        for (const action of ['clip', 'reject']) set(history.totals.outliers.get(action) ?? 0, { action });
      },
      ['action'],
    );
    this.#gauge(
      'trainers',
      'Connected trainers by state, those behind gateways too',
      (gauge) => {
        for (const state of TRAINER_STATES) gauge.set({ state }, 0);
        for (const { status, capacity = 1 } of watch.state.trainers) gauge.inc({ state: status }, capacity);
      },
      ['state'],
    );
    this.#gauge('trainers_required', 'Ready trainers below which the run waits', (gauge) =>
      gauge.set(watch.state.plan.minTrainers),
    );
    this.#counter(
      'trainer_departures_total',
      'Trainers that left or were sent away, since the process began',
      (set) => set(watch.departures),
    );
    this.#gauge(
      'trainer_resident_memory_bytes',
      'Memory of a trainer, as its last heartbeat said',
      (gauge) => {
        for (const [trainer, { residentBytes }] of Object.entries(run.sizes()))
          gauge.set({ trainer }, residentBytes);
      },
      ['trainer'],
    );
    this.#gauge(
      'phase',
      '1 for what the run is doing, 0 for the rest',
      (gauge) => {
        for (const phase of PHASES) gauge.set({ phase }, watch.state.phase.phase === phase ? 1 : 0);
      },
      ['phase'],
    );
    this.#gauge('paused', '1 while the run waits for its disk or NATS', (gauge) =>
      gauge.set(watch.now(null, {}).state === 'paused' ? 1 : 0),
    );
    this.#gauge('checkpoint_step', 'Step of the newest checkpoint on disk', (gauge) =>
      gauge.set(watch.state.checkpointedStep),
    );
    this.#counter(
      'checkpoint_failures_total',
      'Checkpoints that could not be written, since the process began',
      (set) => set(watch.checkpointFailures),
    );
    this.#gauge('viewers', 'Open status pages', (gauge) => gauge.set(this.#viewers));
    this.#stepSeconds = new Histogram({
      name: 'galore_step_duration_seconds',
      help: 'Time of a step, since the process began',
      ...{ buckets: STEP_BUCKETS, registers },
    });
    this.#waitSeconds = new Histogram({
      name: 'galore_step_wait_seconds',
      help: 'Time of a step from the first answer to the last that was waited for, since the process began',
      ...{ buckets: STEP_BUCKETS, registers },
    });
    this.#ofProcess();
  }

  /** A step was committed by this process. */
  observe(seconds: number, waitSeconds: number): void {
    this.#stepSeconds.observe(seconds);
    this.#waitSeconds.observe(waitSeconds);
  }

  /** The text for Prometheus. */
  async expose(viewers: number): Promise<{ readonly type: string; readonly text: string }> {
    this.#viewers = viewers;
    return { type: this.#registry.contentType, text: await this.#registry.metrics() };
  }

  /** The names that every exporter uses for its process. */
  #ofProcess(): void {
    const registers = [this.#registry];
    const startSeconds = Date.now() / 1000 - process.uptime();
    new Gauge({
      name: 'process_resident_memory_bytes',
      help: 'Memory of the coordinator',
      registers,
      collect() {
        this.set(process.memoryUsage.rss());
      },
    });
    new Gauge({
      name: 'process_start_time_seconds',
      help: 'When the coordinator was started, in seconds since 1970',
      registers,
      collect() {
        this.set(startSeconds);
      },
    });
    new Counter({
      name: 'process_cpu_seconds_total',
      help: 'Processor time of the coordinator',
      registers,
      collect() {
        const { user, system } = process.cpuUsage();
        this.reset();
        this.inc((user + system) / 1e6);
      },
    });
  }

  #gauge(name: string, help: string, read: (gauge: Gauge) => void, labelNames: readonly string[] = []): void {
    new Gauge({
      name: `galore_${name}`,
      ...{ help, labelNames: [...labelNames], registers: [this.#registry] },
      collect() {
        this.reset();
        read(this);
      },
    });
  }

  /** A counter whose value is kept elsewhere. */
  #counter(
    name: string,
    help: string,
    read: (set: (value: number, labels?: Readonly<Record<string, string>>) => void) => void,
    labelNames: readonly string[] = [],
  ): void {
    new Counter({
      name: `galore_${name}`,
      ...{ help, labelNames: [...labelNames], registers: [this.#registry] },
      collect() {
        this.reset();
        read((value, labels = {}) => this.inc(labels, value));
      },
    });
  }
}

/** A gauge without a value is NaN: there is none yet. */
function setOr(gauge: Gauge, value: number | null | undefined): void {
  gauge.set(value ?? NaN);
}

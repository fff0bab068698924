/** The status page and the metrics of a coordinator: what they show comes from the core's events and the lines of the run. */
import type { RunConfig } from '../config/schema.ts';
import type { Logger } from '../log.ts';
import { VIEW_VERSION, type RunFacts } from '../view/events.ts';
import { StatusPage } from '../view/status-page.ts';
import type { RunState } from './core/state.ts';
import type { Doorkeeper } from './doorkeeper.ts';
import type { PreparedRun } from './prepare-run.ts';
import { RunMonitor } from './run-monitor.ts';
import { RunWatch } from './run-watch.ts';

/** What a page needs of the coordinator. */
export interface PageSurroundings {
  readonly doorkeeper: Pick<Doorkeeper, 'asksForTokens' | 'judgeViewer'>;
  /** Of the trainers' last heartbeats. */
  readonly sizes: () => Readonly<Record<string, { readonly residentBytes: number }>>;
  /** Why trainers cannot be served now; null: they can. */
  readonly whyNotReady: () => string | null;
  /** Monotonic. */
  readonly nowMs: () => number;
  readonly logger: Logger;
}

export interface CoordinatorPage {
  readonly watch: RunWatch;
  readonly page: StatusPage;
}

/** The page of a run that begins in `state`. */
export function coordinatorPage(
  run: PreparedRun,
  state: RunState,
  { doorkeeper, sizes, whyNotReady, nowMs, logger }: PageSurroundings,
): CoordinatorPage {
  const { config, runId, history } = run;
  const watch = new RunWatch(state);
  const monitor = new RunMonitor({
    ...{ name: config.name, runId, totalSteps: config.steps, history, watch, sizes },
  });
  history.onStep = ({ seconds, waitSeconds }) => monitor.observe(seconds, waitSeconds);
  const source = {
    facts: factsOf(config, runId, 'live'),
    history,
    whyNotReady,
    now: () => watch.now(history.secondsPerStep, sizes()),
    metrics: (viewers: number) => monitor.expose(viewers),
  };
  const gate = { viewers: doorkeeper, host: config.coordinator.host };
  return { watch, page: new StatusPage({ source, gate, nowMs, logger }) };
}

/** What a configuration says of a run. */
export function factsOf(config: RunConfig, runId: string, source: RunFacts['source']): RunFacts {
  return {
    viewVersion: VIEW_VERSION,
    name: config.name,
    runId,
    totalSteps: config.steps,
    source,
    lossUnit: config.task.type === 'sequence-classification' ? 'nats per sequence' : 'nats per token',
    method: config.method.name,
    policy: policyOf(config),
  };
}

function policyOf({ coordinator }: RunConfig): RunFacts['policy'] {
  const { aggregation, outliers } = coordinator;
  const seconds = (ms: number): string => `${ms / 1000} s`;
  const entries: readonly (readonly [string, string])[] = [
    [
      'trainers',
      `${coordinator.start_trainers} to begin, ${coordinator.min_trainers} to go on, at most ${coordinator.max_trainers}`,
    ],
    ['shares', { equal: 'equal', adaptive: 'by pace', examples: 'by examples' }[coordinator.sharding]],
    [
      'quorum',
      coordinator.quorum === 'all'
        ? 'all of a step'
        : `${coordinator.quorum}; the others have ${seconds(coordinator.grace_ms)} more`,
    ],
    ['deadline', coordinator.step_deadline_ms === 0 ? 'none' : seconds(coordinator.step_deadline_ms)],
    ['silent for', `${seconds(coordinator.heartbeat_timeout_ms)}: dropped`],
    [
      'outliers',
      outliers === 'accept'
        ? 'accepted'
        : `${outliers}, beyond ${coordinator.outlier_factor} times the median`,
    ],
    [
      'aggregation',
      aggregation.rule === 'mean' ? 'mean' : `${aggregation.rule}, byzantine ${aggregation.byzantine}`,
    ],
  ];
  return entries.map(([name, value]) => ({ name, value }));
}

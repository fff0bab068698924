/**
 * The store that decides what a run has committed, where that is not its directory: opens it, finds out whether the run
 * goes on or begins, and waits for the right to lead it. SHELL.
 */
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { parseRunConfig } from '../config/load.ts';
import { checkResumable } from '../config/resumable.ts';
import type { RunConfig } from '../config/schema.ts';
import { CheckpointError, ConfigError, OperatingError } from '../errors.ts';
import type { Authority, CoordinatorOptions } from './api.ts';
import { discardUntrained, settleMirror, mirrorRun, readMirror } from './store/mirror.ts';
import { connectNats } from './store/nats/nats-connection.ts';
import { NatsStateStore } from './store/nats/nats-store.ts';
import type { LeaseTimes } from './store/lease-keeper.ts';
import { storeClock } from './store/store-clock.ts';
import {
  StoreUnavailable,
  type Holder,
  type Lease,
  type StateStore,
  type StoredRun,
} from './store/state-store.ts';

/** Without a renewal for this long the lease is given up. */
const GIVE_UP_MS = 60_000;
/**
 * The same where others stand by, in lease times: one of them may lead, and trainers that stay here wait for nothing. A
 * NATS that answers is waited for longer: its cluster may take ten seconds for another leader of a stream, and nobody
 * else leads meanwhile.
 */
const STANDBY_LEASES = { cutOff: 1.5, giveUp: 6 };
/** How long a leader that has ended may still be taken for one, in lease times. */
const PATIENCE = 3;

const NOBODY = { token: '', user: '', password: '', credsPath: '' };

/** The store of config.state. @throws OperatingError that says what is missing */
export async function openStateStore({
  config,
  natsCredentials = NOBODY,
  openStore,
  isStandby = false,
}: Pick<CoordinatorOptions, 'config' | 'natsCredentials' | 'openStore' | 'isStandby'>): Promise<StateStore> {
  if (openStore !== undefined) return await openStore();
  const { state } = config;
  if (state === undefined) throw new Error('assertion failed: the run is kept in its directory');
  const link = await connectNats({ servers: state.url.split(','), ca: state.ca }, natsCredentials);
  return new NatsStateStore(link, {
    runName: config.name,
    replicas: state.replicas,
    times: leaseTimes(state.lease_ms, isStandby),
    clock: storeClock,
  });
}

function leaseTimes(leaseMs: number, isStandby: boolean): LeaseTimes {
  if (!isStandby) return { leaseMs, giveUpMs: GIVE_UP_MS, cutOffMs: GIVE_UP_MS };
  const { giveUp, cutOff } = STANDBY_LEASES;
  return { leaseMs, giveUpMs: giveUp * leaseMs, cutOffMs: cutOff * leaseMs };
}

/** Whether the run directory is a mirror of a store elsewhere. */
export function isKeptElsewhere({
  config,
  openStore,
}: Pick<CoordinatorOptions, 'config' | 'openStore'>): boolean {
  return config.state !== undefined || openStore !== undefined;
}

/** This process, as a leader. */
export function thisHolder(address = ''): Holder {
  return { holderId: `${hostname()}:${process.pid}:${randomUUID()}`, address };
}

/** What becomes of a run whose store is elsewhere. */
export type Opening =
  | { readonly type: 'goesOn'; readonly authority: Authority }
  /** Null: whoever creates it leads it. */
  | { readonly type: 'begins'; readonly store: StateStore; readonly lease: Lease | null };

/**
 * Finds the run in the store. One that goes on is led by us, and mirrored in its directory, when this resolves.
 * @throws ConfigError, CheckpointError when it is another run; OperatingError when another coordinator leads it
 */
export async function openRun(
  store: StateStore,
  { config, authority, onReport }: Pick<CoordinatorOptions, 'config' | 'authority' | 'onReport'>,
): Promise<Opening> {
  const run = await store.readRun();
  if (run === null) {
    await refuseOrphan(store, config);
    return { type: 'begins', store, lease: null };
  }
  const isTrained = (await store.checkpoints.list()).length > 0;
  if (isTrained) {
    checkSameRun(run, config, store.where);
    await settleMirror(config.dir, run, store.where);
  }
  const acquire = (signal: AbortSignal): Promise<Lease> => store.acquire(thisHolder(), signal);
  const lease = authority?.lease ?? (await leadSoon(store, config, acquire));
  if (!isTrained && (await store.checkpoints.list()).length === 0) {
    // Its start was cut off before the first checkpoint: nothing was trained, here or elsewhere.
    if ((await readMirror(config.dir)) !== null) await discardUntrained(config.dir);
    return { type: 'begins', store, lease };
  }
  await mirrorRun(store, config.dir, lease.lastSequence, (text) => onReport({ type: 'notice', text }));
  return { type: 'goesOn', authority: { store, lease } };
}

/** Waits as long as it takes to notice that a leader has died. */
export async function leadSoon(
  store: StateStore,
  config: RunConfig,
  lead: (signal: AbortSignal) => Promise<Lease>,
): Promise<Lease> {
  const patienceMs = PATIENCE * (config.state?.lease_ms ?? 0) + 1_000;
  const giveUp = new AbortController();
  const gaveUp = new Error('another leads');
  const timer = setTimeout(() => giveUp.abort(gaveUp), patienceMs);
  try {
    return await lead(giveUp.signal);
  } catch (error) {
    if (error !== gaveUp) throw error;
    const told = `run ${config.name} in ${store.where}`;
    const leader = await store.leader();
    if (leader === null) {
      const seconds = Math.round(patienceMs / 1000);
      throw new StoreUnavailable(`${told} cannot be led: its lease was not to be had for ${seconds} s`);
    }
    const who = leader.address || leader.holderId;
    const advice = 'stop that one first, or give this run another name';
    throw new OperatingError(`${told} is led by ${who} now; ${advice}`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

/** A directory with a run that its store does not know of. */
async function refuseOrphan(store: StateStore, { dir, name }: RunConfig): Promise<void> {
  const held = await readMirror(dir);
  if (held === null || (await discardUntrained(dir))) return;
  throw new CheckpointError(
    dir,
    `${dir} holds run ${held.name}, but ${store.where} has no run ${name}: it was begun without state, or that NATS has ` +
      'lost it; go on with it without state (galore resume), or choose another --dir for a new run',
  );
}

/** Two runs of one name are told apart by what may not change within one. */
export function checkSameRun(run: StoredRun, config: RunConfig, where: string): void {
  try {
    // Its paths are absolute.
    const file = `run.yaml in ${where}`;
    checkResumable(parseRunConfig(run.configYaml, file, { workingDir: '/', homeDir: '/' }), config);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const told = `${where} has another run with the name ${run.name}; give this one another name`;
    throw new ConfigError(`${told}\n${error.message}`, error.faults);
  }
}

/**
 * The gateway process: a trainer to the coordinator, a coordinator to the trainers near it. Opens what it is made of,
 * follows what the coordinator says of the run as a whole (its state, and whether it is there), and ends. SHELL.
 */
import { existsSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { floatsOf } from '../array-bytes.ts';
import { COORDINATOR_DEFAULTS } from '../config/schema.ts';
import { Doorkeeper } from '../coordinator/doorkeeper.ts';
import { CoordinatorServer } from '../coordinator/server.ts';
import { serverLimits } from '../coordinator/server-limits.ts';
import { deferred } from '../deferred.ts';
import { hasLocalState } from '../galore/feedback/local-state.ts';
import { collectGrownHeap } from '../heap.ts';
import type { CloseReason } from '../protocol/close-codes.ts';
import type { WelcomeMessage } from '../protocol/messages.ts';
import { ranksIn } from '../protocol/slot-sizes.ts';
import { SOFTWARE } from '../software.ts';
import type { LinkEvent } from '../trainer/link.ts';
import { understand } from '../trainer/welcomed-run.ts';
import { pathOf } from '../view/paths.ts';
import { probeAnswer } from '../view/probes.ts';
import type { GatewayOptions, GatewayResult, RunningGateway } from './api.ts';
import type { Welcomed } from './desks.ts';
import { checkGatewayExposure } from './exposure.ts';
import { LeaderLink, type LeaderItem } from './leader-link.ts';
import { Mirror } from './mirror.ts';
import { PassedRun } from './passed-run.ts';

/** How often the core hears what time it is. */
const TICK_INTERVAL_MS = 200;
/** Of the coordinator's records, before they are on disk here. */
const MAX_UNDELIVERED_BYTES = 512 * 1024 * 1024;

/** Ends that are no failure. */
const GOOD_ENDS: readonly CloseReason[] = ['RUN_FINISHED', 'LEAVING'];

/** See StartGateway. */
export async function startGateway(options: GatewayOptions): Promise<RunningGateway> {
  const { listen, doorTls, tokensPath, isInsecure, dir, logger } = options;
  const tokens = tokensPath ?? join(dir, 'tokens.json');
  checkGatewayExposure({
    ...{ host: listen.host, isInsecure, hasTls: doorTls !== undefined },
    hasTokens: tokensPath !== undefined || existsSync(tokens),
  });
  const auth = tokensPath === undefined ? {} : { tokens: tokensPath };
  const door = { host: listen.host, auth, insecure: isInsecure, tls: doorTls };
  const doorkeeper = await Doorkeeper.open({ dir, coordinator: door }, logger);
  if (doorkeeper.warning !== null) logger.warn('gateway.open', { host: listen.host }, doorkeeper.warning);
  const mirror = await Mirror.open(dir, logger);
  try {
    return await new Gateway(options, mirror, doorkeeper).listen();
  } catch (error) {
    await mirror.close();
    throw error;
  }
}

class Gateway {
  readonly #options: GatewayOptions;
  readonly #mirror: Mirror;
  readonly #doorkeeper: Doorkeeper;
  readonly #link: LeaderLink;
  readonly #finished = deferred<GatewayResult>();
  #server!: CoordinatorServer;
  #ticker: NodeJS.Timeout | null = null;
  #welcomed: Welcomed | null = null;
  /** Null: there is no state of it, or it is still to be seen whether it is good. */
  #run: PassedRun | null = null;
  #isEnding = false;

  constructor(options: GatewayOptions, mirror: Mirror, doorkeeper: Doorkeeper) {
    const { url, gatewayId, runName, token, tls, logger } = options;
    this.#options = options;
    this.#mirror = mirror;
    this.#doorkeeper = doorkeeper;
    this.#link = new LeaderLink(
      {
        ...{ url, trainerId: gatewayId, runName, token, tls: tls ?? {}, software: SOFTWARE },
        ...{ device: 'gateway', schemaHash: new Uint8Array(0), maxUndeliveredBytes: MAX_UNDELIVERED_BYTES },
        ...{ handshakeTimeoutMs: COORDINATOR_DEFAULTS.handshake_timeout_ms },
        ...{ held: mirror.held, ranks: mirror.ranks },
      },
      logger,
    );
  }

  async listen(): Promise<RunningGateway> {
    const { listen, logger } = this.#options;
    const { certificates: tls, asksForTokens } = this.#doorkeeper;
    this.#server = await CoordinatorServer.listen(
      { ...listen, tls, logger, ...serverLimits(COORDINATOR_DEFAULTS) },
      {
        onMessage: (connection, message) => {
          if (this.#run !== null) return this.#run.trainers.receive(connection, message);
          connection.close('COORDINATOR_STOPPING', 'this gateway has no state of a run yet: try again');
        },
        onClose: (connection, code, reason) => this.#run?.trainers.closed(connection, code, reason),
        onFatal: (error) => this.#fail(error),
        onRequest: (request, response) => this.#respond(request, response),
      },
    );
    this.#doorkeeper.watch({
      onLook: () => this.#run?.trainers.judgeAgain(),
      onCertificates: (texts) => this.#server.renewCertificates(texts),
    });
    this.#ticker = setInterval(() => {
      collectGrownHeap();
      this.#run?.tick();
    }, TICK_INTERVAL_MS);
    this.#link.start();
    void this.#follow();
    const link = this.#link;
    return {
      url: this.#server.url,
      asksForTokens,
      finished: this.#finished.promise,
      stop: () => link.leave('the gateway was asked to leave'),
      get bytesSent() {
        return link.bytesSent;
      },
      get bytesReceived() {
        return link.bytesReceived;
      },
    };
  }

  /** A gateway has no page: the run's is the coordinator's. */
  #respond(request: IncomingMessage, response: ServerResponse): void {
    const isReady = this.#run?.isUp ?? false;
    const answer = probeAnswer(pathOf(request), isReady ? null : 'not ready');
    const { status, text } = answer ?? { status: 404, text: 'not found' };
    response.writeHead(status, { 'content-type': 'text/plain' }).end(`${text}\n`);
  }

  // ---- from the coordinator ----

  async #follow(): Promise<void> {
    try {
      for await (const item of this.#link.items()) {
        // After a failure nothing is taken any more, not even that the connection has ended in good order.
        if (!this.#isEnding) await this.#take(item);
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  async #take(item: LeaderItem): Promise<void> {
    if (item.type === 'frame') return this.#run?.takeFrame(item.message, item.frame);
    const { event } = item;
    switch (event.type) {
      case 'connected':
        return await this.#connected(event.welcome);
      case 'tensor': {
        const { stream, tensor, bytes } = event.tensor;
        if (stream === 'snapshot') return await this.#mirror.writeTensor(tensor, bytes);
        if (stream === 'sketchSum') this.#run?.takeSum(tensor, floatsOf(bytes));
        return;
      }
      case 'snapshotEnd':
        return await this.#snapshotCame();
      case 'record':
        if (this.#run === null) throw new Error('assertion failed: a record before there is a state');
        return await this.#run.takeRecord(event.commit);
      case 'message':
        return this.#run?.obey(event.message);
      case 'stateDiscarded':
        await this.#stopPassing('STATE_DIVERGED', 'the coordinator calls the state of this gateway wrong');
        return await this.#mirror.clear();
      case 'disconnected':
        return this.#disconnected(event.reason);
      case 'closed':
        return await this.#closed(event);
      default:
        event satisfies never;
    }
  }

  async #connected(message: WelcomeMessage): Promise<void> {
    if (message.software !== SOFTWARE) {
      const theirs = message.software ?? 'of a version that knows no gateways';
      const text = `the coordinator is ${theirs}, this gateway ${SOFTWARE}: both must be of one version`;
      return this.#link.refuse('PROTOCOL_VERSION', text);
    }
    const run = understand(message);
    if ('fault' in run) return this.#link.refuse('SCHEMA_MISMATCH', run.fault);
    this.#welcomed = { run, message };
    if (run.snapshot !== null) {
      await this.#stopPassing('COORDINATOR_STOPPING', 'this gateway gets the state of the run anew');
      await this.#mirror.beginSnapshot(run.snapshot, message.modelJson);
      this.#tell('receiving the state');
      return this.#link.accept(run.shape.sizes);
    }
    this.#run ??= this.#beginPassing(this.#welcomed);
    this.#link.accept(run.shape.sizes);
    this.#run.leaderJoined();
  }

  async #snapshotCame(): Promise<void> {
    const welcomed = this.#welcomed!;
    const { runId, config, shape, snapshot } = welcomed.run;
    const { modelJson } = welcomed.message;
    const ranks = ranksIn(snapshot!.tensors, shape.sizes);
    await this.#mirror.endSnapshot({ runId, name: config.name, seed: config.seed, modelJson }, ranks);
    this.#run = this.#beginPassing(welcomed);
    this.#run.leaderJoined();
  }

  #disconnected(reason: string): void {
    const text = `the gateway is not connected to the coordinator: ${reason}`;
    this.#run?.leaderLost(reason);
    this.#tell(text);
    this.#run?.notice(text);
  }

  async #closed({ reason, text }: Extract<LinkEvent, { type: 'closed' }>): Promise<void> {
    const isGood = GOOD_ENDS.includes(reason);
    const [said, words]: [CloseReason, string] =
      reason === 'RUN_FINISHED' ? [reason, text] : ['COORDINATOR_STOPPING', `the gateway ends: ${text}`];
    await this.#shutDown(said, words);
    this.#finished.resolve({ code: isGood ? 0 : 3, reason: text });
  }

  #tell(activity: string): void {
    this.#link.setActivity(activity);
    this.#options.onActivity?.(activity);
  }

  // ---- the run that is passed on ----

  #beginPassing(welcomed: Welcomed): PassedRun {
    const { gatewayId, logger } = this.#options;
    if (welcomed.run.shape.slots.some(hasLocalState)) {
      const text =
        'trainers of this run keep something of their gradients: checkpoints have none of it for those behind a gateway; start them with --state';
      logger.warn('gateway.local-state', {}, text);
    }
    const run = new PassedRun(welcomed, {
      ...{ gatewayId, logger, mirror: this.#mirror, link: this.#link, doorkeeper: this.#doorkeeper },
      adopt: (connection, trainerId) => this.#server.admit(connection, trainerId),
      tell: (activity) => this.#tell(activity),
      onFailure: (error) => this.#fail(error),
    });
    this.#tell(`has the state of step ${this.#mirror.head!.step}`);
    return run;
  }

  /** Its trainers join again. */
  async #stopPassing(reason: CloseReason, text: string): Promise<void> {
    const run = this.#run;
    if (run === null) return;
    this.#run = null;
    for (const connection of this.#server.connections) connection.close(reason, text);
    await run.close();
  }

  // ---- the end ----

  #fail(error: unknown): void {
    if (this.#isEnding) return;
    this.#link.leave('the gateway had an error and ends');
    const end = (): void => this.#finished.reject(error);
    this.#shutDown('INTERNAL_ERROR', 'the gateway had an error and ends').then(end, end);
  }

  async #shutDown(reason: CloseReason, text: string): Promise<void> {
    this.#isEnding = true;
    this.#run?.halt();
    if (this.#ticker !== null) clearInterval(this.#ticker);
    this.#doorkeeper.close();
    await this.#server.close(reason, text);
    await this.#run?.close();
    await this.#mirror.close();
  }
}

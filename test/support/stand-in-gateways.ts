/** Stand-in trainers (stand-in-trainer.ts) behind real gateways of a real coordinator, in this process. */
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import type { RunningCoordinator } from '../../src/coordinator/api.ts';
import { startCoordinator } from '../../src/coordinator/coordinator.ts';
import { Journal } from '../../src/coordinator/store/journal.ts';
import type { GatewayOptions, RunningGateway } from '../../src/gateway/api.ts';
import { startGateway } from '../../src/gateway/gateway.ts';
import { createLogger } from '../../src/log.ts';
import { decodeEnvelope } from '../../src/protocol/envelope.ts';
import type { CommitMessage } from '../../src/protocol/messages.ts';
import type { Place } from './stand-in-run.ts';
import { StandInTrainer } from './stand-in-trainer.ts';

/** What was said, by everyone. */
export class Said {
  readonly lines: string[] = [];
  readonly #waiting: { readonly pattern: RegExp; readonly resolve: () => void }[] = [];
  readonly logger = createLogger({
    ...{ level: 'info', format: 'text', mayColour: false },
    write: (line) => this.#take(line),
  });

  /** Resolves when it has been said. */
  async said(pattern: RegExp): Promise<void> {
    if (this.lines.some((line) => pattern.test(line))) return;
    await new Promise<void>((resolve) => this.#waiting.push({ pattern, resolve }));
  }

  #take(line: string): void {
    this.lines.push(line);
    for (const { pattern, resolve } of this.#waiting) if (pattern.test(line)) resolve();
  }
}

export async function coordinate(place: Place, said: Said): Promise<RunningCoordinator> {
  const { folder, config } = place;
  const cacheDir = join(folder, 'cache');
  return await startCoordinator({
    ...{ config, mode: 'new', cacheDir, logger: said.logger, onReport: () => {} },
  });
}

export async function gatewayOf(
  place: Place,
  { url }: Pick<RunningCoordinator, 'url'>,
  gatewayId: string,
  said: Said,
  more: Partial<GatewayOptions> = {},
): Promise<RunningGateway> {
  return await startGateway({
    ...{ url, gatewayId, runName: '', token: '', listen: { host: '127.0.0.1', port: 0 }, isInsecure: false },
    ...{ dir: join(place.folder, gatewayId), logger: said.logger },
    ...more,
  });
}

/** Takes part until the run ends, again whenever the connection is closed by who can be joined again. */
export async function takePart(
  t: ExecutionContext,
  url: () => string,
  trainer: StandInTrainer,
  isOver: () => boolean,
): Promise<void> {
  while (!isOver()) {
    const end = await trainer.takePart(t, url()).catch(() => null);
    if (end?.code === 4000) return;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** What the journal of a run says of each record: its Commit, and the payloads of each slot. */
export async function recordsOf(
  dir: string,
): Promise<readonly { readonly commit: CommitMessage; readonly slots: ReadonlyMap<number, Uint8Array> }[]> {
  const journal = await Journal.open(join(dir, 'journal'), () => {});
  const records: { commit: CommitMessage; slots: Map<number, Uint8Array> }[] = [];
  let slots = new Map<number, Uint8Array>();
  try {
    for await (const frame of journal.frames(journal.firstSequence)) {
      const message = decodeEnvelope(frame, 'coordinator');
      if (message.kind === 'part') {
        const before = slots.get(message.tensor) ?? new Uint8Array();
        slots.set(message.tensor, Buffer.concat([before, message.payload]));
      }
      if (message.kind !== 'commit') continue;
      records.push({ commit: message, slots });
      slots = new Map();
    }
  } finally {
    await journal.close();
  }
  return records;
}

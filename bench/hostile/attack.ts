/**
 * The attackers of bench/hostile.ts, a process of its own: many connections from several addresses, with and without
 * a token, that send changed messages at a steady rate and come again when they are closed.
 */
import { once } from 'node:events';
import { galore } from '#messages';
import { WebSocket } from 'ws';
import { CODEC_NAMES } from '../../src/galore/codec/codec.ts';
import { closeReasonOf } from '../../src/protocol/close-codes.ts';
import { toEnvelope } from '../../src/protocol/encode.ts';
import { decodeEnvelope, encodeEnvelope } from '../../src/protocol/envelope.ts';
import { MAX_FRAME_BYTES } from '../../src/protocol/limits.ts';
import type { Message } from '../../src/protocol/messages.ts';
import { PROTOCOL_VERSIONS } from '../../src/protocol/version.ts';
import { createDice, type Dice } from '../../test/fuzz/dice.ts';
import { mutateBytes, mutateTree } from '../../test/fuzz/mutate.ts';
import type { AttackJob, AttackReport } from './job.ts';

const { Envelope } = galore.v1;

const BOTS = 24;
/** Those of them that have a token. Now and then two have the same name. */
const HOLDERS = 16;
/** All are of this machine; the limits of an address hold for each of them. */
const ADDRESSES = Array.from({ length: 8 }, (_, i) => `127.0.0.${2 + i}`);
/** A holder of a token says so much before it leaves, and about one in so many that it must not. */
const MOST_MESSAGES_A_CONNECTION = 4_000;
const MESSAGES_A_BREACH = 500;
/** One member of a step that breaks its promise, at most so often. */
const MEMBER_INTERVAL_MS = 2_000;

const job = JSON.parse(await readAll()) as AttackJob;
const frames = job.frames.map((text) => new Uint8Array(Buffer.from(text, 'base64')));
const recorded = frames.map((frame) => decodeEnvelope(frame, 'trainer'));
const scenarios: Record<string, number> = {};
const closings: Record<string, number> = {};
let sent = 0;
let connections = 0;
/** Of the run, as far as anyone here has heard. */
let step = 1;
let memberAtMs = 0;

async function readAll(): Promise<string> {
  let text = '';
  for await (const piece of process.stdin) text += String(piece);
  return text;
}

// ---- pace ----

const startMs = performance.now();
let granted = 0;
const waiting: (() => void)[] = [];

/** Resolves when the next message may be sent. */
function turn(): Promise<void> {
  return new Promise((resolve) => void waiting.push(resolve));
}

setInterval(() => {
  const due = Math.floor(((performance.now() - startMs) / 1000) * job.rate);
  // A quarter of a second may be made up for, not more: the rate is never far above the one that was asked for.
  granted = Math.max(granted, due - job.rate / 4);
  const ready = waiting.splice(0, Math.max(0, due - granted));
  granted += ready.length;
  for (const resolve of ready) resolve();
}, 2);

// ---- messages ----

function hello(name: string, token: string): Message {
  return {
    kind: 'hello',
    protocolVersions: PROTOCOL_VERSIONS,
    trainerId: name,
    runName: '',
    token,
    software: 'hostile',
    runId: '',
    sequence: 0,
    digest: new Uint8Array(0),
    schemaHash: new Uint8Array(0),
    codecs: CODEC_NAMES,
    snapshot: null,
  };
}

/** Something that a trainer may say at any time, with numbers of its own choice. */
function plausible(dice: Dice): Uint8Array {
  const message = dice.oneOf(recorded);
  const old = Math.max(1, step - dice.below(4));
  switch (message.kind) {
    case 'hello':
    case 'goodbye':
    case 'snapshotEnd':
      return encodeEnvelope({
        kind: 'heartbeat',
        activity: 'a'.repeat(dice.below(250)),
        residentBytes: dice.below(2 ** 31),
        tensorCount: dice.below(2 ** 31),
        tokensPerSecond: dice.below(1000),
      });
    case 'ready':
      return encodeEnvelope({ ...message, sequence: 0 });
    case 'part':
      return encodeEnvelope(
        message.stream === 'snapshot'
          ? { ...message, stream: 'contribution', codec: 'f32', step: old }
          : { ...message, step: old },
      );
    case 'heartbeat':
      return encodeEnvelope(message);
    default:
      return encodeEnvelope({ ...message, step: old } as Message);
  }
}

/** A recorded message that is not what it was, as bytes or as a tree of fields. */
function wrong(dice: Dice): Uint8Array {
  const index = dice.below(frames.length);
  if (dice.oneIn(400)) return new Uint8Array(MAX_FRAME_BYTES + 1);
  if (dice.oneIn(3)) return mutateBytes(frames[index]!, dice, frames);
  const tree = toEnvelope({ ...recorded[index]!, ...(dice.oneIn(2) ? { step } : {}) } as Message);
  try {
    return Envelope.encode(mutateTree(tree, dice) as never).finish();
  } catch {
    return mutateBytes(frames[index]!, dice, frames);
  }
}

// ---- connections ----

class Peer {
  readonly webSocket: WebSocket;
  readonly ended: Promise<void>;
  hasEnded = false;

  constructor(dice: Dice) {
    this.webSocket = new WebSocket(job.url, {
      perMessageDeflate: false,
      localAddress: dice.oneOf(ADDRESSES),
      handshakeTimeout: 10_000,
    });
    let refusal: string | null = null;
    this.webSocket.on('error', (error) => (refusal = /response: (\d+)/.exec(error.message)?.[1] ?? 'error'));
    this.webSocket.on('message', (data: Buffer) => this.#hear(data));
    this.ended = new Promise((resolve) => {
      this.webSocket.on('close', (code) => {
        this.hasEnded = true;
        const name = refusal === null ? (closeReasonOf(code) ?? String(code)) : `HTTP ${refusal}`;
        closings[name] = (closings[name] ?? 0) + 1;
        resolve();
      });
    });
  }

  /** False: it was not let in. */
  async open(): Promise<boolean> {
    await Promise.race([once(this.webSocket, 'open').catch(() => {}), this.ended]);
    return !this.hasEnded;
  }

  async send(data: Uint8Array | string): Promise<void> {
    await turn();
    if (this.hasEnded || this.webSocket.readyState !== WebSocket.OPEN) return;
    this.webSocket.send(data, { binary: typeof data !== 'string' });
    sent++;
  }

  /** Waits for a message, or the end. */
  async hears(kind: Message['kind'], timeoutMs: number): Promise<Message | null> {
    return await new Promise((resolve) => {
      const giveUp = setTimeout(() => settle(null), timeoutMs);
      const listen = (data: Buffer): void => {
        const message = decodeEnvelope(data, 'coordinator');
        if (message.kind === kind) settle(message);
      };
      const settle = (message: Message | null): void => {
        clearTimeout(giveUp);
        this.webSocket.off('message', listen);
        resolve(message);
      };
      this.webSocket.on('message', listen);
      void this.ended.then(() => settle(null));
    });
  }

  #hear(data: Buffer): void {
    if (data[0] !== COMMIT_TAG) return;
    const message = decodeEnvelope(data, 'coordinator');
    if (message.kind === 'commit') step = Math.max(step, message.step);
  }
}

/** First byte of a Commit: field 14 of the Envelope, length-delimited. */
const COMMIT_TAG = (14 << 3) | 2;

const SCENARIOS = {
  /** Begins with anything but a Hello. */
  async stranger(peer: Peer, dice: Dice) {
    if (dice.oneIn(10)) await peer.send('a text');
    else await peer.send(dice.oneIn(2) ? wrong(dice) : plausible(dice));
    await peer.send(wrong(dice));
  },
  /** Says a Hello that is nearly right, or with a token that is nearly right. */
  async intruder(peer: Peer, dice: Dice) {
    const guess = dice.oneIn(2) ? `${job.token.slice(0, -4)}AAAA` : '';
    const greeting = hello(`hostile-${dice.below(BOTS)}`, guess);
    const frame = encodeEnvelope(greeting);
    await peer.send(dice.oneIn(2) ? frame : mutateBytes(frame, dice, [frame]));
    await peer.send(plausible(dice));
  },
  /** Gets in, and then says what it likes; some never read what they are sent. */
  async holder(peer: Peer, dice: Dice) {
    await peer.send(encodeEnvelope(hello(`hostile-${dice.below(4 * HOLDERS)}`, job.token)));
    if (dice.oneIn(10)) peer.webSocket.pause();
    for (
      let i = dice.below(MOST_MESSAGES_A_CONNECTION);
      i > 0 && !peer.hasEnded && sent < job.messages;
      i--
    ) {
      await peer.send(dice.oneIn(MESSAGES_A_BREACH) ? wrong(dice) : plausible(dice));
    }
    if (peer.webSocket.isPaused) peer.webSocket.resume();
  },
  /** Takes part in a step and then sends what it must not. */
  async member(peer: Peer, dice: Dice) {
    await peer.send(encodeEnvelope(hello(`hostile-${dice.below(4 * HOLDERS)}`, job.token)));
    const end = await peer.hears('snapshotEnd', 2_000);
    if (end?.kind !== 'snapshotEnd') return;
    // Records behind the snapshot have come, or come now: a Ready beyond them would be a breach.
    const assigned = peer.hears('stepAssignment', 2_000);
    const commit = await peer.hears('commit', 1_000);
    const sequence = commit?.kind === 'commit' ? commit.sequence : end.sequence;
    await peer.send(encodeEnvelope({ kind: 'ready', sequence, device: 'none' }));
    const assignment = await assigned;
    if (assignment?.kind !== 'stepAssignment') return;
    const parts = recorded.filter((message) => message.kind === 'part' && message.stream === 'contribution');
    for (const part of parts.slice(0, 8)) {
      const payload = 'payload' in part ? Uint8Array.from(part.payload) : new Uint8Array(4);
      if (dice.oneIn(4)) payload.fill(dice.oneOf([0x7f, 0xff, 0x80]));
      await peer.send(encodeEnvelope({ ...part, step: assignment.step, payload } as Message));
    }
    const claim = { step: assignment.step, tokens: dice.below(2 ** 31), lossSum: 1, checksum: 1 };
    await peer.send(encodeEnvelope({ kind: 'contribution', ...claim }));
  },
} as const;

async function bot(number: number): Promise<void> {
  for (let round = 0; sent < job.messages; round++) {
    const dice = createDice(job.seed, 'bot', number, round);
    let name: keyof typeof SCENARIOS = number < HOLDERS ? 'holder' : dice.oneOf(['stranger', 'intruder']);
    if (performance.now() - memberAtMs > MEMBER_INTERVAL_MS) {
      memberAtMs = performance.now();
      name = 'member';
    }
    const peer = new Peer(dice);
    connections++;
    if (await peer.open()) {
      scenarios[name] = (scenarios[name] ?? 0) + 1;
      await SCENARIOS[name](peer, dice);
    }
    if (dice.oneIn(2)) peer.webSocket.close();
    else peer.webSocket.terminate();
    await peer.ended;
    await turn(); // also for those that were not let in
  }
}

const progress = setInterval(() => process.stderr.write(`attack: ${sent} messages\n`), 10_000);
await Promise.all(Array.from({ length: BOTS }, (_, number) => bot(number)));
clearInterval(progress);
const seconds = (performance.now() - startMs) / 1000;
const report: AttackReport = { messages: sent, connections, seconds, scenarios, closings };
process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(0));

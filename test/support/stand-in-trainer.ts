/**
 * A trainer for tests of the coordinator: it speaks the protocol and keeps the chain of records, but computes nothing.
 * What it sends depends on its id and the step alone, its snapshots on the digest of its last record: so two runs are
 * the same exactly if their digests are. It lives on when its connection ends, and joins again with what it holds.
 */
import type { ExecutionContext } from 'ava';
import { stateTensors } from '../../src/galore/state-table.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import type { Message, SnapshotRequestMessage, StepAssignmentMessage } from '../../src/protocol/messages.ts';
import { bytesFor, contributionOf, partsOf, type TinyRun } from '../coordinator/tiny-run.ts';
import { connectRaw, HELLO, type RawTrainer } from './wire.ts';

export class StandInTrainer {
  readonly trainerId: string;
  /** Called for everything that it is told while it waits. */
  onNotice: (text: string) => void = () => {};
  /** Called for an assignment; true: the connection breaks off and nothing is answered. */
  breaksOff: (step: number) => boolean = () => false;
  /** Asked for an assignment: what its contribution waits for; null: nothing. */
  waitsFor: (step: number) => Promise<void> | null = () => null;
  /** Called when a record is applied. */
  onRecord: (sequence: number) => void = () => {};
  readonly #run: TinyRun;
  readonly #notices: string[] = [];
  #runId = '';
  #sequence = 0;
  #digest = new Uint8Array();
  #joined = 0;
  #socket: RawTrainer | null = null;

  constructor(run: TinyRun, trainerId = 'a') {
    this.#run = run;
    this.trainerId = trainerId;
  }

  /** The last record that it has applied, and its digest in hexadecimal. */
  get state(): { readonly sequence: number; readonly digest: string } {
    return { sequence: this.#sequence, digest: Buffer.from(this.#digest).toString('hex') };
  }

  /** What it was told while it waited. */
  get notices(): readonly string[] {
    return this.#notices;
  }

  /** How often it was given a snapshot. */
  get snapshots(): number {
    return this.#joined;
  }

  /** Takes part until the connection ends; resolves to how. */
  async takePart(
    t: ExecutionContext,
    url: string,
  ): Promise<{ readonly code: number; readonly reason: string }> {
    const socket = await connectRaw(t, url);
    this.#socket = socket;
    const { trainerId } = this;
    socket.send({
      ...HELLO,
      ...{ trainerId, runId: this.#runId, sequence: this.#sequence, digest: this.#digest },
    });
    let faults: unknown = null;
    const answering = (async () => {
      for (;;) this.#answer(await socket.messages.take(), socket);
    })().catch((error: unknown) => {
      faults = error;
      socket.webSocket.terminate();
    });
    const closed = await socket.closed;
    void answering; // it waits for a message that never comes
    if (faults !== null) throw faults;
    return closed;
  }

  /** As a signal would do. */
  leave(): void {
    this.#socket?.webSocket.terminate();
  }

  #answer(message: Message, socket: RawTrainer): void {
    switch (message.kind) {
      case 'welcome':
        this.#runId = message.runId;
        if (message.snapshot === null) this.#sendReady(socket);
        else this.#joined++;
        return;
      case 'snapshotEnd':
        this.#sequence = message.sequence;
        this.#digest = Uint8Array.from(message.digest);
        return this.#sendReady(socket);
      case 'commit': {
        if (message.sequence !== this.#sequence + 1 || !isSame(message.previousDigest, this.#digest)) {
          throw new Error(`record ${message.sequence} does not follow record ${this.#sequence}`);
        }
        this.#sequence = message.sequence;
        this.#digest = Uint8Array.from(message.digest);
        this.onRecord(message.sequence);
        return this.#sendReady(socket);
      }
      case 'stepAssignment': {
        const wait = this.waitsFor(message.step);
        if (wait === null) return this.#contribute(message, socket);
        return void wait.then(() => this.#contribute(message, socket));
      }
      case 'evaluationAssignment': {
        const tokens = message.sequences!.positions.length * this.#run.config.seq_len;
        const { step } = message;
        return socket.send({ kind: 'evaluation', step, tokens, lossSum: tokens / step });
      }
      case 'snapshotRequest':
        return this.#sendSnapshot(message, socket);
      case 'notice':
        this.#notices.push(message.text);
        this.onNotice(message.text);
        return;
      default:
        return;
    }
  }

  #contribute({ step, sequences }: StepAssignmentMessage, socket: RawTrainer): void {
    if (this.breaksOff(step)) return socket.webSocket.terminate();
    const parts = contributionOf(this.#run, step, this.trainerId);
    for (const part of parts) socket.send(part);
    const tokens = sequences!.positions.length * this.#run.config.seq_len;
    const checksum = parts.reduce((crc, { payload }) => crc32c(payload, crc), 0);
    socket.send({ kind: 'contribution', step, tokens, lossSum: 2 * tokens, checksum });
  }

  #sendSnapshot({ step, sequence, isLocalOnly }: SnapshotRequestMessage, socket: RawTrainer): void {
    const { digest } = this.state;
    const tensors = isLocalOnly ? [] : stateTensors(this.#run.shape.slots);
    for (const [tensor, { totalBytes, name }] of tensors.entries()) {
      const bytes = bytesFor({ codec: 'f32', totalBytes }, name, digest);
      for (const part of partsOf({ stream: 'snapshot', step, round: 0, tensor }, bytes)) socket.send(part);
    }
    socket.send({ kind: 'snapshotEnd', step, sequence, digest: new Uint8Array(), tensors: [] });
  }

  #sendReady(socket: RawTrainer): void {
    socket.send({ kind: 'ready', sequence: this.#sequence, device: 'none' });
  }
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.from(a).equals(b);
}

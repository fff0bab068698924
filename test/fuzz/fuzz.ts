/**
 * Gives inputs to a target and holds it to the contract of every decoder: a value or an error of ours, soon, and
 * without taking memory far beyond the input's size.
 */
import { getHeapStatistics } from 'node:v8';
import { GaloreError, ProtocolError } from '../../src/errors.ts';
import { closeReasonOf } from '../../src/protocol/close-codes.ts';
import { createDice } from './dice.ts';
import type { FuzzTarget } from './target.ts';

/** Longest time for one input. Far above what any takes: the machine may be busy. */
const MAX_INPUT_MS = 2_000;
const ALLOWANCE_BYTES = 24 * 1024 * 1024;
/** Objects of a decoded message are larger than its bytes. */
const MAX_GROWTH = 64;

/** An input that broke the contract. */
export interface FuzzFailure {
  readonly input: Uint8Array;
  readonly index: number;
  readonly reason: string;
}

export interface FuzzResult {
  readonly inputs: number;
  /** How often each outcome came: `accepted`, or the name of an error (with its close code). */
  readonly outcomes: ReadonlyMap<string, number>;
  readonly failure: FuzzFailure | null;
}

export interface FuzzOptions {
  readonly seed: number;
  /** False: enough. Asked before each input with their number so far. */
  readonly goesOn: (inputs: number) => boolean;
  /** Told of each input before it is decoded: the one at which a hang began is the last. */
  readonly onInput?: (input: Uint8Array) => void;
}

/** Runs until it is enough or an input breaks the contract. */
export async function fuzz(target: FuzzTarget, options: FuzzOptions): Promise<FuzzResult> {
  const outcomes = new Map<string, number>();
  let inputs = 0;
  for (; options.goesOn(inputs); inputs++) {
    const input = target.generate(createDice(options.seed, target.name, inputs));
    options.onInput?.(input);
    const { outcome, fault } = await tryInput(target, input);
    if (fault !== null) {
      return { inputs: inputs + 1, outcomes, failure: { input, index: inputs, reason: fault } };
    }
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }
  return { inputs, outcomes, failure: null };
}

/** What became of an input; `fault` says how the contract was broken. */
export async function tryInput(
  target: FuzzTarget,
  input: Uint8Array,
): Promise<{ readonly outcome: string; readonly fault: string | null }> {
  const startMs = performance.now();
  const before = bytesInUse();
  let outcome = 'accepted';
  let fault: string | null = null;
  try {
    await target.decode(input);
  } catch (error) {
    outcome = nameOf(error);
    if (!target.refusals.some((kind) => error instanceof kind)) {
      fault = `it threw ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
    } else if ((error as Error).message === '') {
      fault = `it threw a ${outcome} without a message`;
    }
  }
  const [tookMs, grownBytes] = [performance.now() - startMs, bytesInUse() - before];
  const allowedBytes = (target.allowanceBytes ?? ALLOWANCE_BYTES) + MAX_GROWTH * input.length;
  if (tookMs > MAX_INPUT_MS) fault ??= `it took ${Math.round(tookMs)} ms, allowed: ${MAX_INPUT_MS}`;
  if (grownBytes > allowedBytes) fault ??= `it took ${grownBytes} bytes, allowed: ${allowedBytes}`;
  return { outcome, fault };
}

function nameOf(error: unknown): string {
  if (error instanceof ProtocolError)
    return `ProtocolError ${closeReasonOf(error.closeCode) ?? error.closeCode}`;
  return error instanceof GaloreError ? error.name : 'another error';
}

function bytesInUse(): number {
  const { used_heap_size: heap, external_memory: external } = getHeapStatistics();
  return heap + external;
}

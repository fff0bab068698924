import test from 'ava';
import type { Connection } from '../../src/coordinator/connection.ts';
import type { Fact } from '../../src/coordinator/dispatch.ts';
import { EvaluationDesk } from '../../src/coordinator/evaluation-desk.ts';
import { Session } from '../../src/coordinator/session.ts';
import type { SequenceSource } from '../../src/files/dataset.ts';
import { ProtocolError } from '../../src/errors.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { maxSequencesPerAssignment } from '../../src/protocol/limits.ts';
import type { Message } from '../../src/protocol/messages.ts';

const SEQ_LEN = 4;

function deskOf(count: number, sequenceCount: number) {
  const facts: Fact[] = [];
  const sent: Message[] = [];
  const read = (indices: readonly number[]) =>
    Promise.resolve({ tokens: new Int32Array(indices.length * (SEQ_LEN + 1)), mask: null });
  const validation = { count, read } as unknown as SequenceSource;
  const connection = {
    isOpen: true,
    send: (message: Message) => sent.push(message),
  } as unknown as Connection;
  const desk = new EvaluationDesk(validation, SEQ_LEN, sequenceCount, (fact) => facts.push(fact));
  const session = new Session('a', connection, (error) => {
    throw error;
  });
  const assign = (step: number, sequences: readonly number[]): void =>
    desk.assign({ type: 'assignEvaluation', trainerId: 'a', step, sequences }, session);
  const answer = (step: number, tokens: number, lossSum: number): void =>
    desk.accept('a', { kind: 'evaluation', step, tokens, lossSum });
  /** Resolves when everything queued was sent. */
  const flushed = (): Promise<void> => new Promise((resolve) => session.enqueue(resolve));
  return { desk, facts, sent, assign, answer, flushed };
}

test('each share of a trainer is answered for itself, also one it was given in place of another trainer', (t) => {
  const { facts, assign, answer } = deskOf(4, 4);
  assign(10, [0, 1]);
  assign(10, [2, 3]);
  answer(10, 8, 2);
  answer(10, 6, 1);
  t.deepEqual(facts, [
    { type: 'evaluationReceived', trainerId: 'a', step: 10, tokens: 8, lossSum: 2 },
    { type: 'evaluationReceived', trainerId: 'a', step: 10, tokens: 6, lossSum: 1 },
  ]);
});

test('a share too large for one message is sent in portions and reported once', async (t) => {
  const portion = maxSequencesPerAssignment(SEQ_LEN + 1);
  const count = portion + 1;
  const { facts, sent, assign, answer, flushed } = deskOf(count, count);
  assign(
    10,
    Array.from({ length: count }, (_, i) => i),
  );
  await flushed();
  t.is(sent.length, 2);
  answer(10, 8, 2);
  t.deepEqual(facts, []);
  answer(10, 4, 1);
  t.deepEqual(facts, [{ type: 'evaluationReceived', trainerId: 'a', step: 10, tokens: 12, lossSum: 3 }]);
});

test('the sequences lie evenly over all that is held out', async (t) => {
  const { sent, assign, flushed } = deskOf(100, 4);
  assign(10, [0, 1, 2, 3]);
  await flushed();
  const [message] = sent;
  t.deepEqual(message?.kind === 'evaluationAssignment' && message.sequences?.positions, [0, 25, 50, 75]);
});

test('what is left of an earlier evaluation does not count in a new one', (t) => {
  const { facts, assign, answer } = deskOf(4, 4);
  assign(10, [0, 1]);
  assign(20, [0, 1]);
  answer(10, 8, 2);
  answer(20, 6, 1);
  t.deepEqual(
    facts.map((fact) => fact.type === 'evaluationReceived' && [fact.step, fact.tokens]),
    [
      [10, 8],
      [20, 6],
    ],
  );
});

test('an answer nobody asked for is for the core to judge', (t) => {
  const { desk, facts, assign, answer } = deskOf(4, 4);
  answer(10, 8, 2);
  assign(10, [0, 1]);
  desk.forget('a');
  answer(10, 4, 1);
  t.is(facts.length, 2);
});

test('an answer for more tokens than were assigned is refused', (t) => {
  const { facts, assign, answer } = deskOf(4, 4);
  assign(10, [0, 1]);
  const error = t.throws(() => answer(10, 9, 2), { instanceOf: ProtocolError });
  t.is(error?.closeCode, CLOSE_CODES.INVALID_CONTRIBUTION.code);
  t.regex(error?.message ?? '', /9 tokens are declared .* only 8 were assigned/);
  t.deepEqual(facts, []);
});

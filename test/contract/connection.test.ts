import type { ExecutionContext } from 'ava';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import type { NoticeMessage } from '../../src/protocol/messages.ts';
import { Mailbox } from '../support/mailbox.ts';
import { connectRaw, HELLO, openLink, SIZES } from '../support/wire.ts';
import { testConnectionContract, type TrainerSide } from './trainer-connection.ts';

async function connectWebSocket(t: ExecutionContext, url: string, trainerId: string): Promise<TrainerSide> {
  const { messages, send, closed, webSocket } = await connectRaw(t, url);
  send({ ...HELLO, trainerId });
  await messages.takeWhere((message) => message.kind === 'snapshotEnd');
  return {
    nextNotice: async () => {
      const notice = await messages.takeWhere((message) => message.kind === 'notice');
      return (notice as NoticeMessage).text;
    },
    sendEvaluation: (step) => send({ kind: 'evaluation', step, lossSum: 1, tokens: 1 }),
    leave: async (text) => {
      const { code } = CLOSE_CODES.LEAVING;
      send({ kind: 'goodbye', code, reason: text });
      webSocket.close(code, text);
      await closed;
    },
    ended: closed.then(({ code }) => code),
  };
}

async function connectLink(t: ExecutionContext, url: string, trainerId: string): Promise<TrainerSide> {
  const { link, next, nextOf } = openLink(t, url, { trainerId });
  await nextOf('connected');
  link.accept(SIZES);
  await nextOf('snapshotEnd');
  link.applied(0);
  const notices = new Mailbox<string>();
  const consume = async (): Promise<number> => {
    for (;;) {
      const event = await next();
      if (event.type === 'message' && event.message.kind === 'notice') notices.put(event.message.text);
      if (event.type === 'closed') return event.code;
    }
  };
  return {
    nextNotice: () => notices.take(),
    sendEvaluation: (step) => link.send({ kind: 'evaluation', step, lossSum: 1, tokens: 1 }),
    leave: (text) => link.close(text),
    ended: consume(),
  };
}

testConnectionContract('ws', connectWebSocket);
testConnectionContract('Link', connectLink);

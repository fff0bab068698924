import test from 'ava';
import { createClock } from '../../src/simulation/clock.ts';
import { createNetwork, type Network, type Socket } from '../../src/simulation/network.ts';

/** A server that echoes, and one host connected to it that sends the numbers 0 to count - 1, 10 ms apart. */
function converse(
  count: number,
  upset: (network: Network<number, number>, atMs: (ms: number, act: () => void) => void) => void,
) {
  const clock = createClock();
  const network = createNetwork<number, number>({ clock, seed: 5, latencyMs: 4, jitterMs: 4 });
  const atServer: number[] = [];
  const atHost: number[] = [];
  const ends: string[] = [];
  network.serve((socket) => ({
    received(frame) {
      atServer.push(frame);
      socket.send(frame);
    },
    closed: (code, text) => ends.push(`server ${code} ${text}`),
  }));
  upset(network, (ms, act) => clock.schedule(ms, act));
  const socket: Socket<number> = network.connect('host', {
    opened() {
      for (let i = 0; i < count; i++) clock.schedule(10 * i, () => socket.send(i));
    },
    received: (frame) => atHost.push(frame),
    closed: (code, text) => ends.push(`host ${code} ${text}`),
  });
  clock.run(10_000, () => false);
  return { atServer, atHost, ends };
}

const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

test('frames arrive once and in order, both ways', (t) => {
  const { atServer, atHost, ends } = converse(50, () => {});
  t.deepEqual(atServer, numbers(50));
  t.deepEqual(atHost, numbers(50));
  t.deepEqual(ends, []);
});

test('frames of an isolated host wait, and arrive in order when it is back', (t) => {
  const { atServer, atHost, ends } = converse(50, (network, atMs) => {
    atMs(100, () => network.isolate('host'));
    atMs(2_000, () => network.recover('host'));
  });
  t.deepEqual(atServer, numbers(50));
  t.deepEqual(atHost, numbers(50));
  t.deepEqual(ends, []);
});

test('after a frame is lost nothing more arrives, and nobody is told', (t) => {
  const { atServer, ends } = converse(50, (network, atMs) => {
    atMs(200, () => network.trouble('host', { dropRate: 1 }));
    atMs(210, () => network.recover('host'));
  });
  t.true(atServer.length > 10 && atServer.length < 30);
  t.deepEqual(atServer, numbers(atServer.length));
  t.deepEqual(ends, []);
});

test('a cut link breaks its connections and refuses new ones until it is back', (t) => {
  const knocks: string[] = [];
  const { ends } = converse(1, (network, atMs) => {
    const knock = (): void => {
      network.connect('host', {
        opened: () => knocks.push('opened'),
        received: () => {},
        closed: (_code, text) => knocks.push(text),
      });
    };
    atMs(100, () => network.cut('host'));
    atMs(200, knock);
    atMs(300, () => network.recover('host'));
    atMs(400, knock);
  });
  t.deepEqual(ends, ['server 1006 the link is cut', 'host 1006 the link is cut']);
  t.deepEqual(knocks, ['connection refused', 'opened']);
});

test('a crashed host hears nothing, and the server learns that it is gone', (t) => {
  const { atHost, ends } = converse(50, (network, atMs) => {
    atMs(100, () => network.crash('host'));
  });
  t.true(atHost.length < 10);
  t.deepEqual(ends, ['server 1006 the other side is gone']);
});

test('duplicated frames arrive twice, reordered ones late, delayed ones in order', (t) => {
  const twice = converse(40, (network) => network.trouble('host', { duplicateRate: 0.5 }));
  t.true(twice.atServer.length > 50);
  t.deepEqual([...new Set(twice.atServer)], numbers(40));
  const mixed = converse(40, (network) => network.trouble('host', { reorderRate: 0.5 }));
  t.notDeepEqual(mixed.atServer, numbers(40));
  t.deepEqual(
    [...mixed.atServer].sort((a, b) => a - b),
    numbers(40),
  );
  const late = converse(40, (network) => network.trouble('host', { extraDelayMs: 500 }));
  t.deepEqual(late.atServer, numbers(40));
});

test('an end that closes hears nothing more, the other end hears all that was sent before', (t) => {
  const clock = createClock();
  const network = createNetwork<string, string>({ clock, seed: 1, latencyMs: 5, jitterMs: 0 });
  const heard: string[] = [];
  network.serve((socket) => ({
    received: (frame) => {
      heard.push(`server: ${frame}`);
      socket.send('answer');
    },
    closed: (code, text) => heard.push(`server: closed ${code} ${text}`),
  }));
  const socket: Socket<string> = network.connect('host', {
    opened() {
      socket.send('one');
      socket.send('two');
      socket.close(4015, 'leaving');
      socket.send('three');
    },
    received: (frame) => heard.push(`host: ${frame}`),
    closed: () => heard.push('host: closed'),
  });
  clock.run(1_000, () => false);
  t.deepEqual(heard, ['server: one', 'server: two', 'server: closed 4015 leaving']);
});

test('the same seed gives the same arrivals', (t) => {
  const play = () =>
    converse(40, (network) => network.trouble('host', { duplicateRate: 0.3, reorderRate: 0.3 })).atServer;
  t.deepEqual(play(), play());
});

import test from 'ava';
import { networkOf, Turnstile } from '../../src/coordinator/turnstile.ts';

function turnstile(limits: { connections?: number; handshakes?: number } = {}) {
  const clock = { nowMs: 0 };
  const { connections = 2, handshakes = 4 } = limits;
  const stile = new Turnstile(
    { maxConnectionsPerAddress: connections, maxHandshakesPerSecond: handshakes },
    () => clock.nowMs,
  );
  return { stile, clock };
}

test('an address has as many handshakes at once as it has in a second, and gets new ones with time', (t) => {
  const { stile, clock } = turnstile();
  const passed = (count: number): number =>
    Array.from({ length: count }, () => stile.knock('10.0.0.1')).filter((fault) => fault === null).length;
  t.is(passed(10), 4);
  clock.nowMs = 500;
  t.is(passed(10), 2);
  clock.nowMs = 60_000;
  t.is(passed(10), 4);
  t.is(
    stile.knock('10.0.0.1'),
    'handshakes from one address in a second: more than 4, allowed: 4 (coordinator.limits.handshakes_per_second)',
  );
  t.is(stile.knock('10.0.0.2'), null);
});

test('sockets beyond the connections of an address are told so, and a few more are closed at once', (t) => {
  const { stile } = turnstile();
  t.is(stile.crowdOf('::1'), null);
  const arrived = Array.from({ length: 20 }, () => stile.arrive('::1')).filter((isIn) => isIn).length;
  t.is(arrived, 10);
  t.is(
    stile.crowdOf('::1'),
    'connections from one address: 10, allowed: 2 (coordinator.limits.connections_per_address)',
  );
  for (let i = 0; i < 8; i++) stile.depart('::1');
  t.is(stile.crowdOf('::1'), null);
  t.true(stile.arrive('10.0.0.1'));
});

test('what is remembered is bounded however many addresses come', (t) => {
  const { stile } = turnstile();
  for (let i = 0; i < 10_000; i++) stile.knock(`2001:db8:${i.toString(16)}::1`);
  t.true(stile.addresses <= 4096, `${stile.addresses}`);
  for (let i = 0; i < 10_000; i++) {
    const address = `2001:db8:${i.toString(16)}::1`;
    stile.arrive(address);
    stile.depart(address);
  }
  t.true(stile.addresses <= 4096, `${stile.addresses}`);
});

test('one network of IPv6 is one address, and an IPv4 address is itself in IPv6', (t) => {
  t.is(networkOf('10.1.2.3'), '10.1.2.3');
  t.is(networkOf('::ffff:10.1.2.3'), '10.1.2.3');
  t.is(networkOf('::1'), '0:0:0:0::/64');
  t.is(networkOf('2001:DB8:0:7::1'), '2001:db8:0:7::/64');
  t.is(networkOf('2001:db8:0:7:8:9:a:b'), networkOf('2001:db8::7:0:0:0:1'));
  t.is(networkOf('fe80::1%eth0'), networkOf('fe80::2%eth0'));
  t.not(networkOf('2001:db8:0:7::1'), networkOf('2001:db8:0:8::1'));
});

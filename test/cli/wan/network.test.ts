import test from 'ava';
import {
  forwardCommands,
  linkCommands,
  namespacesOf,
  shapeCommands,
  starNetwork,
  unshapeCommands,
} from '../../../src/cli/wan/network.ts';

const lines = (commands: readonly (readonly string[])[]): string[] =>
  commands.map((words) => words.join(' '));

test('a star has a namespace for the coordinator and one for each trainer, named after the process', (t) => {
  t.deepEqual(namespacesOf(starNetwork('galore-wan-7', 2)), [
    'galore-wan-7-coordinator',
    'galore-wan-7-trainer-1',
    'galore-wan-7-trainer-2',
  ]);
});

test('each trainer has a pair of devices of its own, whose both ends are made inside namespaces', (t) => {
  t.deepEqual(lines(linkCommands(starNetwork('x', 1))), [
    'ip -n x-coordinator link add wan1 type veth peer name wan netns x-trainer-1',
    'ip -n x-coordinator addr add 10.99.1.1/30 dev wan1',
    'ip -n x-trainer-1 addr add 10.99.1.2/30 dev wan',
    'ip -n x-coordinator link set wan1 up',
    'ip -n x-trainer-1 link set wan up',
  ]);
  t.is(linkCommands(starNetwork('x', 3)).filter((words) => words.includes('veth')).length, 3);
});

test("a trainer's end is shaped with its rate up and the coordinator's with its rate down", (t) => {
  const shaped = lines(shapeCommands(starNetwork('x', 2), { up: 20e6, down: 1.5e8 }));
  const bucket = (rate: string): string => `root tbf rate ${rate} burst 256kb latency 400ms`;
  t.deepEqual(shaped, [
    `tc -n x-trainer-1 qdisc replace dev wan ${bucket('20000000bit')}`,
    `tc -n x-coordinator qdisc replace dev wan1 ${bucket('150000000bit')}`,
    `tc -n x-trainer-2 qdisc replace dev wan ${bucket('20000000bit')}`,
    `tc -n x-coordinator qdisc replace dev wan2 ${bucket('150000000bit')}`,
  ]);
});

test('every shaped end is unshaped again', (t) => {
  const star = starNetwork('x', 2);
  const ends = (commands: string[]): string[] => commands.map((line) => /-n (.* dev \w+)/.exec(line)![1]!);
  t.deepEqual(
    ends(lines(unshapeCommands(star))),
    ends(lines(shapeCommands(star, { up: 1e6, down: 1e6 }))).map((end) => end.replace('replace', 'del')),
  );
});

test('trainers reach each other through the coordinator when it forwards', (t) => {
  t.deepEqual(lines(forwardCommands(starNetwork('x', 2))).slice(0, 3), [
    'ip netns exec x-coordinator sh -c echo 1 > /proc/sys/net/ipv4/ip_forward',
    'ip -n x-trainer-1 route add default via 10.99.1.1',
    'ip -n x-trainer-2 route add default via 10.99.2.1',
  ]);
});

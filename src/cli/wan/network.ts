/**
 * A star of network namespaces as the commands of iproute2 that make and remove it: the coordinator in the middle,
 * each trainer joined to it by a veth pair of its own. Both ends of a pair are shaped by a token bucket, so that a
 * trainer's rates up and down are its own. Nothing is made outside the namespaces. Pure.
 */

/** A program and its arguments. */
export type CommandLine = readonly string[];

/** Bits a second, as seen from a trainer. */
export interface LinkRates {
  readonly up: number;
  readonly down: number;
}

/** Where a trainer is. */
interface Spoke {
  readonly namespace: string;
  /** Its end of the pair, and the coordinator's. */
  readonly device: string;
  readonly hubDevice: string;
  readonly address: string;
  readonly hubAddress: string;
}

export interface StarNetwork {
  readonly hub: string;
  readonly spokes: readonly Spoke[];
}

/** The bucket: what may go at once, and how long a byte may wait in the queue before it is dropped. */
const BURST = '256kb';
const LATENCY = '400ms';
const DEVICE = 'wan';

/** @param name begins the names of its namespaces: it must be this process's alone */
export function starNetwork(name: string, trainers: number): StarNetwork {
  const spokes = Array.from({ length: trainers }, (_, index) => ({
    namespace: `${name}-trainer-${index + 1}`,
    device: DEVICE,
    hubDevice: `${DEVICE}${index + 1}`,
    address: `10.99.${index + 1}.2`,
    hubAddress: `10.99.${index + 1}.1`,
  }));
  return { hub: `${name}-coordinator`, spokes };
}

/** All namespaces, to be made with `addNamespace` before the links and removed with `removeNamespace`. */
export function namespacesOf({ hub, spokes }: StarNetwork): string[] {
  return [hub, ...spokes.map(({ namespace }) => namespace)];
}

export function addNamespace(namespace: string): CommandLine {
  return ['ip', 'netns', 'add', namespace];
}

/** Its devices go with it. */
export function removeNamespace(namespace: string): CommandLine {
  return ['ip', 'netns', 'del', namespace];
}

/** What a command begins with that is to run inside a namespace. */
export function inside(namespace: string): CommandLine {
  return ['ip', 'netns', 'exec', namespace];
}

/** Joins every trainer to the coordinator. */
export function linkCommands({ hub, spokes }: StarNetwork): CommandLine[] {
  return spokes.flatMap(({ namespace, device, hubDevice, address, hubAddress }) => [
    ['ip', '-n', hub, 'link', 'add', hubDevice, 'type', 'veth', 'peer', 'name', device, 'netns', namespace],
    ['ip', '-n', hub, 'addr', 'add', `${hubAddress}/30`, 'dev', hubDevice],
    ['ip', '-n', namespace, 'addr', 'add', `${address}/30`, 'dev', device],
    ['ip', '-n', hub, 'link', 'set', hubDevice, 'up'],
    ['ip', '-n', namespace, 'link', 'set', device, 'up'],
  ]);
}

/** Lets trainers reach each other through the middle. */
export function forwardCommands({ hub, spokes }: StarNetwork): CommandLine[] {
  return [
    [...inside(hub), 'sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward'],
    ...spokes.map(({ namespace, hubAddress }) => {
      return ['ip', '-n', namespace, 'route', 'add', 'default', 'via', hubAddress];
    }),
    ...spokes.map(({ namespace }) => ['ip', '-n', namespace, 'link', 'set', 'lo', 'up']),
  ];
}

/** Each end shapes what leaves it. */
export function shapeCommands({ hub, spokes }: StarNetwork, { up, down }: LinkRates): CommandLine[] {
  return spokes.flatMap(({ namespace, device, hubDevice }) => [
    shape(namespace, device, up),
    shape(hub, hubDevice, down),
  ]);
}

/** Back to links as fast as the machine. */
export function unshapeCommands({ hub, spokes }: StarNetwork): CommandLine[] {
  return spokes.flatMap(({ namespace, device, hubDevice }) => [
    ['tc', '-n', namespace, 'qdisc', 'del', 'dev', device, 'root'],
    ['tc', '-n', hub, 'qdisc', 'del', 'dev', hubDevice, 'root'],
  ]);
}

function shape(namespace: string, device: string, rate: number): CommandLine {
  const bucket = ['tbf', 'rate', `${Math.round(rate)}bit`, 'burst', BURST, 'latency', LATENCY];
  return ['tc', '-n', namespace, 'qdisc', 'replace', 'dev', device, 'root', ...bucket];
}

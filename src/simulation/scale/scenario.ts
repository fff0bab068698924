/**
 * Who takes part in a simulated run, and how good their machines and links are: a YAML file of numbers and
 * distributions. Rates are bits a second with their unit, as people say them. Pure.
 */
import { z } from 'zod';
import { isMapping, type Mapping } from '../../config/overrides.ts';
import { readYaml } from '../../config/yaml-source.ts';
import { ConfigError } from '../../errors.ts';
import type { Dice } from '../dice.ts';

const UNITS: Readonly<Record<string, number>> = { bit: 1, kbit: 1e3, mbit: 1e6, gbit: 1e9 };
const RATE_WORDS = 'a number above 0 with its unit (bit, kbit, mbit or gbit a second), such as 100mbit';
const NUMBER_WORDS = 'a number of at least 0';
const SPREAD_WORDS =
  '{uniform: [least, most]}, {lognormal: {median: …, sigma: …}} or {values: […, …]} of such numbers';

/** `100mbit` in bits a second; null: it is no rate. */
export function bitsPerSecond(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)(bit|kbit|mbit|gbit)$/i.exec(text);
  const bits = match === null ? 0 : Number(match[1]) * (UNITS[(match[2] ?? '').toLowerCase()] ?? 0);
  return bits > 0 && Number.isFinite(bits) ? bits : null;
}

/** A number, or how it differs from trainer to trainer. */
export type Spread =
  | { readonly type: 'same'; readonly value: number }
  | { readonly type: 'uniform'; readonly least: number; readonly most: number }
  | { readonly type: 'lognormal'; readonly median: number; readonly sigma: number }
  | { readonly type: 'values'; readonly values: readonly number[] };

/** One of its numbers. */
export function draw(spread: Spread, dice: Dice): number {
  switch (spread.type) {
    case 'same':
      return spread.value;
    case 'uniform':
      return spread.least + (spread.most - spread.least) * dice();
    case 'lognormal': {
      // Box and Muller.
      const normal = Math.sqrt(-2 * Math.log(1 - dice())) * Math.cos(2 * Math.PI * dice());
      return spread.median * Math.exp(spread.sigma * normal);
    }
    case 'values':
      return spread.values[Math.floor(dice() * spread.values.length)]!;
    default:
      return spread satisfies never;
  }
}

/** A number after this, of events that come once in `mean` with no memory. */
export function drawGap(mean: number, dice: Dice): number {
  return -mean * Math.log(1 - dice());
}

type Read = (value: unknown) => number | null;

const readNumber: Read = (value) =>
  typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : null;
const readPositive: Read = (value) => (readNumber(value) === 0 ? null : readNumber(value));
const readRate: Read = (value) => (typeof value === 'string' ? bitsPerSecond(value) : null);

/** A field that is one such number. */
function single(read: Read, words: string): z.ZodType<number, unknown> {
  return z.unknown().transform((value, context): number => {
    const number = read(value);
    if (number === null) context.addIssue(`allowed: ${words}`);
    return number ?? 0;
  });
}

/** A field that is one such number, or many. */
function spread(read: Read, words: string): z.ZodType<Spread, unknown> {
  return z.unknown().transform((value, context): Spread => {
    const found = readSpread(value, read);
    if (found === null) context.addIssue(`allowed: ${words}, or ${SPREAD_WORDS}`);
    return found ?? { type: 'same', value: 0 };
  });
}

function readSpread(value: unknown, read: Read): Spread | null {
  const one = read(value);
  if (one !== null) return { type: 'same', value: one };
  if (!isMapping(value) || Object.keys(value).length !== 1) return null;
  const { uniform, lognormal, values } = value;
  if (Array.isArray(uniform) && uniform.length === 2) {
    const [least, most] = [read(uniform[0]), read(uniform[1])];
    return least === null || most === null || least > most ? null : { type: 'uniform', least, most };
  }
  if (isMapping(lognormal)) {
    const [median, sigma] = [read(lognormal['median']), readNumber(lognormal['sigma'])];
    return median === null || sigma === null ? null : { type: 'lognormal', median, sigma };
  }
  if (!Array.isArray(values) || values.length === 0) return null;
  const all = values.map(read);
  return all.includes(null) ? null : { type: 'values', values: all as number[] };
}

const rates = spread(readRate, RATE_WORDS);
const rate = single(readRate, RATE_WORDS);
const numbers = spread(readNumber, NUMBER_WORDS);
const speeds = spread(readPositive, 'a number above 0');
const number = single(readNumber, NUMBER_WORDS);
const count = z.int().min(1).max(1_000_000);
const countOrZero = z.int().min(0).max(1_000_000);

const kind = z.strictObject({
  name: z.string().min(1).max(40).default('trainer'),
  share: z.number().positive().default(1),
  up: rates.prefault('20mbit'),
  down: rates.prefault('100mbit'),
  burst_bytes: number.prefault(0),
  latency_ms: numbers.prefault(20),
  seconds_per_sequence: speeds.optional(),
  flops: speeds.optional(),
  apply_seconds: numbers.prefault(0),
  failures: z
    .strictObject({
      every_hours: single(readPositive, 'a number above 0'),
      away_seconds: numbers.prefault(300),
      loses_state: z.boolean().default(true),
    })
    .optional(),
});

const schema = z.strictObject({
  trainers: z
    .strictObject({
      count: count.default(2),
      kinds: z
        .array(kind)
        .min(1)
        .default([kind.parse({})]),
    })
    .prefault({}),
  coordinator: z
    .strictObject({
      up: rate.prefault('1gbit'),
      down: rate.prefault('1gbit'),
      /** Of writing and syncing a record, and the bytes a second that are written. */
      journal_seconds: number.prefault(0.01),
      journal_bytes_per_second: single(readPositive, 'a number above 0').prefault(1e9),
      /** Processor time, on one thread: see docs/simulate.md for where the numbers come from. */
      cpu_ns_per_byte_received: number.prefault(0.39),
      cpu_ns_per_byte_sent: number.prefault(0.19),
      cpu_ns_per_byte_of_record: number.prefault(5.3),
      cpu_us_per_part_received: number.prefault(35),
      cpu_us_per_part_sent: number.prefault(16),
    })
    .prefault({}),
  gateways: z
    .strictObject({
      count: countOrZero.default(0),
      /** Towards its trainers. */
      up: rate.prefault('1gbit'),
      down: rate.prefault('1gbit'),
      /** Towards the coordinator. */
      leader_up: rate.prefault('1gbit'),
      leader_down: rate.prefault('1gbit'),
      latency_ms: numbers.prefault(20),
    })
    .prefault({}),
});

export type Scenario = z.output<typeof schema>;
export type TrainerKind = Scenario['trainers']['kinds'][number];

/** Scenario settings of the command line, by path; those of `trainers.kinds` hold for each of them. */
export type ScenarioFlags = ReadonlyMap<string, unknown>;

/**
 * @param text of the file; null: there is none
 * @throws ConfigError with every fault, and where it is
 */
export function parseScenario(text: string | null, file: string, flags: ScenarioFlags): Scenario {
  const source = text === null ? null : readYaml(text, file);
  const given = structuredClone(source?.mapping ?? {});
  for (const [path, value] of flags) lay(given, path.split('.'), value);
  const checked = schema.safeParse(given);
  const faults = checked.success
    ? []
    : checked.error.issues.map(({ path, message, code, ...issue }) => {
        const at = path.map(String);
        const name = at.join('.');
        const line = flags.has(name) ? null : (source?.lineOf(at) ?? null);
        const where = line === null ? '' : `line ${line}: `;
        if (code === 'unrecognized_keys') {
          const { keys } = issue as { keys?: readonly string[] };
          return { name, line, sentence: `${where}unknown field ${[...at, keys?.[0] ?? ''].join('.')}` };
        }
        const value = at.reduce<unknown>((inner, key) => (inner as Mapping | undefined)?.[key], given);
        return { name, line, sentence: `${where}${name} is ${JSON.stringify(value)}; ${message}` };
      });
  if (checked.success) {
    for (const [i, each] of checked.data.trainers.kinds.entries()) {
      if ((each.flops === undefined) !== (each.seconds_per_sequence === undefined)) continue;
      const name = `trainers.kinds.${i}`;
      const what = each.flops === undefined ? 'neither' : 'both';
      const sentence = `${name} (${each.name}) has ${what} of seconds_per_sequence and flops; one of them says how fast it computes (--seconds-per-sequence or --flops)`;
      faults.push({ name, line: null, sentence });
    }
    const { trainers, gateways } = checked.data;
    if (gateways.count > trainers.count) {
      const sentence = `gateways.count is ${gateways.count}; there are no more than trainers, ${trainers.count}`;
      faults.push({ name: 'gateways.count', line: null, sentence });
    }
    if (faults.length === 0) return checked.data;
  }
  throw new ConfigError(
    `${file} has ${faults.length === 1 ? 'a fault' : `${faults.length} faults`}:\n${faults.map(({ sentence }) => `  ${sentence}`).join('\n')}`,
    faults.map(({ name, line, sentence }) => ({
      field: name,
      value: '',
      allowed: sentence,
      ...(line === null ? {} : { line }),
    })),
  );
}

function lay(mapping: Mapping, path: readonly string[], value: unknown): void {
  const [first, ...rest] = path as [string, ...string[]];
  if (rest.length === 0) {
    mapping[first] = value;
    return;
  }
  if (first === 'kinds') {
    const kinds = Array.isArray(mapping['kinds']) ? (mapping['kinds'] as unknown[]) : [{}];
    for (const each of kinds) {
      if (!isMapping(each)) continue;
      // One speed takes the place of the other.
      if (rest[0] === 'flops') delete each['seconds_per_sequence'];
      if (rest[0] === 'seconds_per_sequence') delete each['flops'];
      lay(each, rest, value);
    }
    mapping['kinds'] = kinds;
    return;
  }
  const inner = mapping[first] ?? {};
  if (!isMapping(inner)) return; // told as a fault of the file
  mapping[first] = inner;
  lay(inner, rest, value);
}

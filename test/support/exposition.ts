/** Reads the text format of Prometheus (version 0.0.4) as strictly as promtool does, and refuses what it would refuse. */
import type { FoundEvent } from '../../src/view/tensorboard.ts';

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Family {
  readonly type: string;
  readonly help: string;
  readonly samples: readonly Sample[];
}

const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/y;

/** By name. @throws Error that says which line or name is wrong */
export function parseExposition(text: string): Map<string, Family> {
  if (!text.endsWith('\n')) throw new Error('the last line does not end');
  const families = new Map<string, { type: string; help: string; samples: Sample[] }>();
  const helps = new Map<string, string>();
  let current = '';
  for (const line of text.split('\n')) {
    const help = /^# HELP (\S+) (.+)$/.exec(line);
    const type = /^# TYPE (\S+) (counter|gauge|histogram|summary|untyped)$/.exec(line);
    if (help !== null) helps.set(help[1]!, help[2]!);
    else if (type !== null) {
      current = type[1]!;
      if (families.has(current)) throw new Error(`${current} comes twice`);
      families.set(current, { type: type[2]!, help: helps.get(current) ?? '', samples: [] });
    } else if (line.startsWith('#')) throw new Error(`not a comment of ours: ${line}`);
    else if (line !== '') {
      const sample = parseSample(line);
      const base = sample.name.replace(/_(bucket|sum|count)$/, '');
      const owner = families.get(current)?.type === 'histogram' ? base : sample.name;
      if (owner !== current) throw new Error(`${sample.name} stands under ${current}`);
      families.get(current)!.samples.push(sample);
    }
  }
  for (const [name, family] of families) checkName(name, family);
  return families;
}

/** The rules of https://prometheus.io/docs/practices/naming that promtool checks. */
function checkName(name: string, { type, help, samples }: Family): void {
  const fault = (text: string): Error => new Error(`${name}: ${text}`);
  if (help === '') throw fault('no help');
  if (!/^(galore|process)_[a-z0-9_]+$/.test(name)) throw fault('its name is not one of ours');
  if ((type === 'counter') !== name.endsWith('_total')) throw fault(`a ${type} of this name`);
  if (/(milliseconds|minutes|hours|kilobytes|percent|_ms|_kb|_mb)(_|$)/.test(name))
    throw fault('not a base unit');
  const keys = samples.map(({ name: of, labels }) => JSON.stringify([of, Object.entries(labels).sort()]));
  if (new Set(keys).size !== keys.length) throw fault('a sample comes twice');
  if (type === 'counter' && samples.some(({ value }) => !(value >= 0))) throw fault('below zero');
  if (type === 'histogram' && !samples.some(({ labels }) => labels['le'] === '+Inf')) throw fault('no +Inf');
}

function parseSample(line: string): Sample {
  const [, name = '', inside = '', text = ''] = SAMPLE.exec(line) ?? [];
  if (name === '') throw new Error(`not a sample: ${line}`);
  const labels: Record<string, string> = {};
  for (let at = 0; at < inside.length; at = LABEL.lastIndex) {
    LABEL.lastIndex = at;
    const found = LABEL.exec(inside);
    if (found === null) throw new Error(`not labels: ${line}`);
    labels[found[1]!] = found[2]!;
  }
  const value = /^nan$/i.test(text) ? NaN : Number(text.replace(/^([+-]?)Inf$/, '$1Infinity'));
  if (Number.isNaN(value) && !/^nan$/i.test(text)) throw new Error(`not a number: ${line}`);
  return { name, labels, value };
}

/** Step and value by tag, in the order of the file. */
export function listCurves(events: Iterable<FoundEvent>): Map<string, [step: number, value: number][]> {
  const curves = new Map<string, [number, number][]>();
  for (const { step, scalars } of events) {
    for (const { tag, value } of scalars) curves.set(tag, [...(curves.get(tag) ?? []), [step, value]]);
  }
  return curves;
}

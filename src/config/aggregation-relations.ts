/**
 * Rules about robust aggregation: how many trainers a rule needs, and what it cannot judge. Pure.
 */
import {
  AGGREGATION_RULES,
  byzantineAmong,
  leastTrainers,
  readsByzantine,
  type AggregationRule,
} from '../galore/aggregate/tolerance.ts';
import { relationFault, showValue, type Fault } from './faults.ts';
import { schemaAt } from './json-schema.ts';
import type { FieldReader, Rule } from './relations.ts';
import type { RunConfig, RunConfigInput } from './schema.ts';

type Group = RunConfigInput['method']['param_groups'][number];

const PREFIX = 'coordinator.aggregation';

/** A rule that is asked only with another rule of aggregation than the mean. */
function robust(check: (read: FieldReader, rule: AggregationRule) => Fault | null): Rule {
  return (read) => {
    const rule = AGGREGATION_RULES.find((name) => name === read(`${PREFIX}.rule`));
    return rule === undefined || rule === 'mean' ? null : check(read, rule);
  };
}

/** "coordinator.aggregation.rule: krum", with its f where it has one. */
function named(read: FieldReader, rule: AggregationRule): string {
  const name = `${PREFIX}.rule: ${rule}`;
  return readsByzantine(rule) ? `${name} and byzantine: ${showValue(read(`${PREFIX}.byzantine`))}` : name;
}

/** In every step that can be, from the smallest on, there are enough of them to tell garbage from the rest. */
const trainersAreEnough = robust((read, rule) => {
  const byzantine = read(`${PREFIX}.byzantine`) as number | string | undefined;
  const least = read('coordinator.min_trainers') as number | undefined;
  const most = read('coordinator.max_trainers') as number | undefined;
  if (byzantine === undefined || least === undefined || most === undefined) return null;
  for (let count = least; count <= Math.max(least, most); count++) {
    const f = byzantineAmong(byzantine, count);
    const needed = leastTrainers(rule, f);
    if (count >= needed) continue;
    const with_ = `with ${named(read, rule)}`;
    if (typeof byzantine === 'string' && count > least) {
      const text = `of ${count} trainers that is ${f}, for which ${rule} needs ${needed}; it must be less, or coordinator.max_trainers less than ${count}`;
      return relationFault(`${PREFIX}.byzantine`, byzantine, text);
    }
    const told = `it must be at least ${needed} ${with_}: among fewer no one can say which are wrong`;
    return relationFault('coordinator.min_trainers', least, told);
  }
  return null;
});

/** A quorum lets a step go on with fewer than began it. */
const quorumIsEnough = robust((read, rule) => {
  const quorum = read('coordinator.quorum') as RunConfig['coordinator']['quorum'] | undefined;
  const byzantine = read(`${PREFIX}.byzantine`) as number | string | undefined;
  const least = read('coordinator.min_trainers') as number | undefined;
  if (quorum === undefined || quorum === 'all' || byzantine === undefined || least === undefined) return null;
  const count =
    typeof quorum === 'number'
      ? Math.min(quorum, least)
      : Math.ceil((Number(quorum.slice(0, -1)) * least) / 100);
  const needed = leastTrainers(rule, byzantineAmong(byzantine, count));
  if (count >= needed || least < needed) return null;
  const text = `of ${least} trainers (coordinator.min_trainers) that lets a step go on with ${count}; ${named(read, rule)} needs ${needed}`;
  return relationFault('coordinator.quorum', quorum, text);
});

const rowsCannotBeCompared = robust((read, rule) => {
  if (rule === 'norm-filter') return null;
  const groups = (read('method.param_groups') ?? []) as readonly Group[];
  const index = groups.findIndex(({ policy }) => policy === 'row-sparse');
  if (index < 0) return null;
  const text = `it must be mean or norm-filter with method.param_groups[${index}].policy: row-sparse, of which every trainer sends other rows; give the group policy: dense`;
  return relationFault(`${PREFIX}.rule`, rule, text);
});

/** Distances are of displacements; moments, which are of other sizes, would travel unjudged. */
const momentsAreJudged = robust((read, rule) => {
  if (read('local_steps.moments') !== 'averaged') return null;
  if (rule === 'median' || rule === 'trimmed-mean') return null;
  const text = `it must be median or trimmed-mean with local_steps.moments: averaged, which judge every number by itself; or use local_steps.moments: local`;
  return relationFault(`${PREFIX}.rule`, rule, text);
});

/** Rules that count each trainer once have no use for weights; the others would believe what a garbage sender says of itself. */
const weightsAreNoClaims = robust((read, rule) => {
  if (rule === 'median' || rule === 'trimmed-mean' || rule === 'krum') return null;
  const weighting = read('local_steps.weighting') ?? (read('data.local') === true ? 'examples' : 'targets');
  if (weighting !== 'examples' && weighting !== 'tokens') return null;
  const text = `it must be equal or targets with ${PREFIX}.rule: ${rule}: a site that sends garbage would say that it has more ${weighting} than all others; median, trimmed-mean and krum count each site once`;
  return relationFault('local_steps.weighting', weighting, text);
});

const filterIsNoClip = robust((read, rule) => {
  const outliers = read('coordinator.outliers');
  if (rule !== 'norm-filter' || outliers !== 'clip') return null;
  const text = `it must be reject (or left out) with ${PREFIX}.rule: norm-filter, which is the same as reject; for clip leave the rule out`;
  return relationFault('coordinator.outliers', outliers, text);
});

/** A field that says something though the rule does not read it. */
function usedBy(field: string, isRead: (rule: AggregationRule) => boolean): Rule {
  return (read) => {
    const path = `${PREFIX}.${field}`;
    const [value, rule] = [read(path), read(`${PREFIX}.rule`) as AggregationRule | undefined];
    if (value === undefined || rule === undefined || isRead(rule)) return null;
    if (value === schemaAt(path.split('.'))?.default) return null;
    const rules = AGGREGATION_RULES.filter(isRead);
    const listed = rules.length === 1 ? rules[0] : `${rules.slice(0, -1).join(', ')} or ${rules.at(-1)}`;
    return relationFault(path, value, `it is used only with ${PREFIX}.rule: ${listed}`);
  };
}

export const AGGREGATION_RELATIONS: readonly Rule[] = [
  trainersAreEnough,
  quorumIsEnough,
  rowsCannotBeCompared,
  momentsAreJudged,
  weightsAreNoClaims,
  filterIsNoClip,
  usedBy('byzantine', readsByzantine),
  usedBy('clip_factor', (rule) => rule === 'centred-clipping'),
  usedBy('clip_iterations', (rule) => rule === 'centred-clipping'),
];

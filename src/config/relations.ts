/**
 * Rules between fields, each beside its reason. A rule sees only fields that are fine by themselves:
 * it is given `undefined` for the others and then has nothing to say. Pure.
 */
import { defaultDecaySteps } from '../galore/schedule.ts';
import { maxSequencesPerAssignment } from '../protocol/limits.ts';
import { AGGREGATION_RELATIONS } from './aggregation-relations.ts';
import { relationFault, type Fault } from './faults.ts';
import { schemaAt } from './json-schema.ts';
import { LOCAL_STEP_RULES } from './local-step-relations.ts';
import { METHOD_RULES } from './method-relations.ts';
import { POLICY_RULES } from './policy-relations.ts';
import { TASK_RULES } from './task-relations.ts';

/** The value of a field: as given, else the default; undefined if it has neither or is at fault. */
export type FieldReader = (path: string) => unknown;

/** A rule between fields: what is broken, or null. */
export type Rule = (read: FieldReader) => Fault | null;

/** Every rule that is broken. */
export function relationFaults(read: FieldReader): readonly Fault[] {
  return RULES.map((rule) => rule(read)).filter((fault) => fault !== null);
}

function numberAt(read: FieldReader, path: string): number | undefined {
  const value = read(path);
  return typeof value === 'number' ? value : undefined;
}

/** `low` must be at most `high`. */
function atMost(low: string, high: string, reason: string): Rule {
  return (read) => {
    const a = numberAt(read, low);
    const b = numberAt(read, high);
    if (a === undefined || b === undefined || a <= b) return null;
    return relationFault(low, a, `it must be at most ${high} (${b}): ${reason}`);
  };
}

function multipleOf(whole: string, part: string, reason: string): Rule {
  return (read) => {
    const a = numberAt(read, whole);
    const b = numberAt(read, part);
    if (a === undefined || b === undefined || a % b === 0) return null;
    return relationFault(whole, a, `it must be a multiple of ${part} (${b}): ${reason}`);
  };
}

const SHAPE_FIELDS = [
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
] as const;
const FIXED_BY_FOLDER = [
  'size',
  'vocab_size',
  ...SHAPE_FIELDS,
  'num_key_value_heads',
  'tie_word_embeddings',
  'rope_theta',
  'rms_norm_eps',
  'initializer_range',
] as const;

const modelIsGiven: Rule = (read) => {
  if (read('model') === undefined || read('model.size') !== undefined || read('model.path') !== undefined) {
    return null;
  }
  const missing = SHAPE_FIELDS.filter((field) => read(`model.${field}`) === undefined);
  if (missing.length === 0) return null;
  const rule = `it needs a size (such as 60m), a path, or also ${missing.join(', ')}`;
  return relationFault('model', read('model'), rule);
};

const folderStandsAlone: Rule = (read) => {
  if (read('model.path') === undefined) return null;
  const field = FIXED_BY_FOLDER.find((name) => read(`model.${name}`) !== undefined);
  if (field === undefined) return null;
  const rule = 'it cannot be given with model.path: config.json of that folder decides';
  return relationFault(`model.${field}`, read(`model.${field}`), rule);
};

const headsAreEven: Rule = (read) => {
  const hidden = numberAt(read, 'model.hidden_size');
  const heads = numberAt(read, 'model.num_attention_heads');
  if (hidden === undefined || heads === undefined || hidden % heads !== 0) return null;
  if ((hidden / heads) % 2 === 0) return null;
  const rule = `divided by model.num_attention_heads (${heads}) it must be even: rotary positions pair the numbers of a head`;
  return relationFault('model.hidden_size', hidden, rule);
};

const vocabularyFits: Rule = (read) => {
  const rows = numberAt(read, 'model.vocab_size');
  const tokens = numberAt(read, 'tokenizer.vocab_size');
  if (read('tokenizer.type') !== 'bpe' || rows === undefined || tokens === undefined || rows >= tokens) {
    return null;
  }
  const rule = `it must be at least tokenizer.vocab_size (${tokens}): every token needs a row`;
  return relationFault('model.vocab_size', rows, rule);
};

const tokenizerHasItsFile: Rule = (read) => {
  const type = read('tokenizer.type');
  const path = read('tokenizer.path');
  if (type === 'file' && path === undefined) {
    return relationFault('tokenizer.type', type, 'it needs tokenizer.path, a tokenizer.json or its folder');
  }
  if (type !== undefined && type !== 'file' && path !== undefined) {
    return relationFault(
      'tokenizer.path',
      path,
      `it is read only with tokenizer.type: file, not ${String(type)}`,
    );
  }
  return null;
};

const modelKeepsItsTokens: Rule = (read) => {
  if (read('model.path') === undefined || read('tokenizer.type') !== 'bpe') return null;
  const rule =
    'a model folder needs the tokenizer it was trained with: use type file, or leave tokenizer out';
  return relationFault('tokenizer.type', 'bpe', rule);
};

const heartbeatsHaveTime: Rule = (read) => {
  const timeoutMs = numberAt(read, 'coordinator.heartbeat_timeout_ms');
  const intervalMs = numberAt(read, 'coordinator.heartbeat_interval_ms');
  if (timeoutMs === undefined || intervalMs === undefined || timeoutMs > 2 * intervalMs) return null;
  const rule = `it must be more than twice coordinator.heartbeat_interval_ms (${intervalMs}): one late heartbeat is no reason to drop a trainer`;
  return relationFault('coordinator.heartbeat_timeout_ms', timeoutMs, rule);
};

const hasQuorum = (read: FieldReader): boolean =>
  !['all', '100%', undefined].includes(read('coordinator.quorum') as string);

const graceIsUsed: Rule = (read) => {
  const graceMs = numberAt(read, 'coordinator.grace_ms');
  if (graceMs === undefined || hasQuorum(read)) return null;
  if (graceMs === schemaAt(['coordinator', 'grace_ms'])?.default) return null;
  const rule = 'it is used only with a coordinator.quorum other than all';
  return relationFault('coordinator.grace_ms', graceMs, rule);
};

const graceEndsFirst: Rule = (read) => {
  if (!hasQuorum(read) || read('coordinator.step_deadline_ms') === 0) return null;
  const reason = 'a step waits no longer than that for anyone';
  return atMost('coordinator.grace_ms', 'coordinator.step_deadline_ms', reason)(read);
};

const quorumCanBe: Rule = (read) =>
  atMost('coordinator.quorum', 'coordinator.max_trainers', 'no step has more trainers')(read);

const exactNeedsNoSketch =
  (field: string): Rule =>
  (read) => {
    const value = numberAt(read, field);
    const type = read('method.refresh.type') ?? (read('method.preset') === 'parity' ? 'exact' : 'sketch');
    if (type !== 'exact' || value === undefined || value === 0) return null;
    return relationFault(
      field,
      value,
      'it must be 0 (or left out) with method.refresh.type: exact, which uses no sketch',
    );
  };

const rankFits: Rule = (read) =>
  read('method.name') === 'full'
    ? null
    : atMost('method.rank', 'model.hidden_size', 'a matrix has no higher rank than its smaller side')(read);

const decayIsUsed: Rule = (read) => {
  const decaySteps = numberAt(read, 'optimizer.schedule.decay_steps');
  const type = read('optimizer.schedule.type');
  if (decaySteps === undefined || type === undefined || type === 'wsd') return null;
  const rule = `it is used only with optimizer.schedule.type: wsd, not ${String(type)}`;
  return relationFault('optimizer.schedule.decay_steps', decaySteps, rule);
};

const phasesFitTheRun: Rule = (read) => {
  const [steps, warmup] = [numberAt(read, 'steps'), numberAt(read, 'optimizer.schedule.warmup_steps')];
  if (read('optimizer.schedule.type') !== 'wsd' || steps === undefined || warmup === undefined) return null;
  const given = numberAt(read, 'optimizer.schedule.decay_steps');
  const decay = given ?? defaultDecaySteps(steps);
  if (warmup + decay <= steps || decay > steps) return null;
  const rule = `it must be at most ${steps - decay}: the last ${decay} of ${steps} steps are the decay (decay_steps)`;
  return relationFault('optimizer.schedule.warmup_steps', warmup, rule);
};

/** Where sites have their own data, `batch_size` is that of each. */
const everyoneHasASequence: Rule = (read) => {
  const start = numberAt(read, 'coordinator.start_trainers');
  const batch = numberAt(read, 'batch_size');
  const localSteps = numberAt(read, 'local_steps.count') ?? 1;
  if (start === undefined || batch === undefined || read('data.local') === true) return null;
  if (start <= batch * localSteps) return null;
  const most =
    localSteps === 1
      ? `batch_size (${batch})`
      : `batch_size (${batch}) times local_steps.count (${localSteps})`;
  const rule = `it must be at most ${most}: every trainer needs at least one sequence of a step`;
  return relationFault('coordinator.start_trainers', start, rule);
};

const localTrainersFit: Rule = (read) => {
  const start = numberAt(read, 'coordinator.start_trainers');
  const local = numberAt(read, 'coordinator.local_trainers');
  // --trainers sets both: one fault is enough.
  if (start === local) return null;
  return atMost(
    'coordinator.local_trainers',
    'coordinator.max_trainers',
    'the others would be turned away',
  )(read);
};

/** Local trainers all have the same address. */
const localConnectionsFit: Rule = atMost(
  'coordinator.local_trainers',
  'coordinator.limits.connections_per_address',
  'they all come from this machine',
);

const stepFitsAMessage: Rule = (read) => {
  if (read('data.local') === true) return null; // no sequences travel
  const batch = numberAt(read, 'batch_size');
  const length = numberAt(read, 'seq_len');
  if (batch === undefined || length === undefined) return null;
  const localSteps = numberAt(read, 'local_steps.count') ?? 1;
  const fitting = maxSequencesPerAssignment(length + 1); // labels are shifted by one
  if (localSteps * batch <= fitting) return null;
  if (fitting < 1) return relationFault('seq_len', length, 'one sequence must fit a message of 1 MiB');
  const largest = Math.floor(fitting / localSteps);
  if (localSteps > 1) {
    const rule = `with seq_len ${length} and local_steps.count ${localSteps} it must be at most ${largest}: the sequences of all local steps travel in one message`;
    return relationFault('batch_size', batch, rule);
  }
  const rule = `with seq_len ${length} it must be at most ${largest}: the sequences of a step travel in one message`;
  return relationFault('batch_size', batch, rule);
};

const RULES: readonly Rule[] = [
  modelIsGiven,
  folderStandsAlone,
  multipleOf('model.hidden_size', 'model.num_attention_heads', 'every head has the same width'),
  headsAreEven,
  multipleOf(
    'model.num_attention_heads',
    'model.num_key_value_heads',
    'every key head serves the same number of heads',
  ),
  vocabularyFits,
  tokenizerHasItsFile,
  modelKeepsItsTokens,
  rankFits,
  ...METHOD_RULES,
  ...POLICY_RULES,
  ...LOCAL_STEP_RULES,
  ...AGGREGATION_RELATIONS,
  ...TASK_RULES,
  exactNeedsNoSketch('method.refresh.power_iterations'),
  exactNeedsNoSketch('method.refresh.oversample'),
  decayIsUsed,
  atMost('optimizer.schedule.decay_steps', 'steps', 'the decay is the end of the run'),
  phasesFitTheRun,
  heartbeatsHaveTime,
  graceIsUsed,
  graceEndsFirst,
  quorumCanBe,
  atMost('coordinator.min_trainers', 'coordinator.start_trainers', 'the run would wait again at once'),
  atMost('coordinator.start_trainers', 'coordinator.max_trainers', 'the run could never start'),
  localTrainersFit,
  atMost(
    'coordinator.max_trainers',
    'coordinator.limits.connections',
    'each of them needs a connection, and another one when it comes back',
  ),
  localConnectionsFit,
  everyoneHasASequence,
  stepFitsAMessage,
];

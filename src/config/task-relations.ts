/** Rules about what is learnt, and from whose data. Pure. */
import { MAX_POSITIONS } from '../protocol/limits.ts';
import { missingFault, relationFault } from './faults.ts';
import type { Rule } from './relations.ts';

/** The coordinator reads data, or every trainer its own. */
const dataIsSomewhere: Rule = (read) => {
  const isLocal = read('data.local') === true;
  const given = ['data.path', 'data.validation_path'].find((field) => read(field) !== undefined);
  if (isLocal && given !== undefined) {
    const rule =
      'it cannot be given with data.local: every trainer names its own file (galore trainer --data)';
    return relationFault(given, read(given), rule);
  }
  if (isLocal || read('data.local') === undefined || given === 'data.path') return null;
  return missingFault('data.path', 'needed: text, or a list of texts (or data.local: true)');
};

/** A tokenizer cannot be trained on data that nobody may collect. */
const sitesShareTokenizer: Rule = (read) => {
  if (read('data.local') !== true || read('tokenizer.type') !== 'bpe') return null;
  const rule = 'with data.local it must be file or byte: a bpe tokenizer is trained on the data';
  return relationFault('tokenizer.type', 'bpe', rule);
};

const labelsAreThere: Rule = (read) => {
  const type = read('task.type');
  const labels = read('task.labels') as readonly string[] | undefined;
  if (type === 'sequence-classification' && labels === undefined) {
    return missingFault('task.labels', 'needed with task.type: sequence-classification');
  }
  if (type === 'causal-lm' && labels !== undefined) {
    return relationFault('task.labels', labels, 'only for task.type sequence-classification');
  }
  const twice = labels?.find((label, i) => labels.indexOf(label) !== i);
  if (twice === undefined) return null;
  return relationFault('task.labels', labels, `the labels must differ; "${twice}" is there twice`);
};

/** A classifier is an encoder that somebody has trained; only a Llama can be made from sizes. */
const classifierIsThere: Rule = (read) => {
  const pooling = read('task.pooling');
  const isWanted = read('task.type') === 'sequence-classification';
  if (!isWanted && pooling !== undefined) {
    return relationFault('task.pooling', pooling, 'only for task.type sequence-classification');
  }
  if (!isWanted || read('model.path') !== undefined) return null;
  return missingFault(
    'model.path',
    'needed with task.type: sequence-classification: a BERT or RoBERTa folder',
  );
};

/** Labelled examples are lines of JSONL. */
const examplesAreJsonl: Rule = (read) => {
  if (read('task.type') !== 'sequence-classification' || read('data.format') !== 'text') return null;
  const rule = 'with task.type sequence-classification it must be auto or jsonl';
  return relationFault('data.format', 'text', rule);
};

/** Their numbers are those of the tokens that a site has. */
const noRowsOfSites: Rule = (read) => {
  if (read('data.local') !== true) return null;
  const groups = (read('method.param_groups') ?? []) as readonly { readonly policy?: unknown }[];
  const index = groups.findIndex(({ policy }) => policy === 'row-sparse');
  if (index < 0) return null;
  const rule =
    'not with data.local: the rows that travel name the tokens of a site; frozen tells nothing of them';
  return relationFault(`method.param_groups[${index}].policy`, 'row-sparse', rule);
};

/** By pace the coordinator's own sequences are shared out, by examples those of sites. */
const sharesAreOfWhatThereIs: Rule = (read) => {
  const isLocal = read('data.local') === true;
  const sharding = read('coordinator.sharding');
  if (sharding !== (isLocal ? 'adaptive' : 'examples')) return null;
  const rule = isLocal
    ? 'with data.local it must be equal or examples: every site has its own data, however fast it is'
    : 'without data.local it must be equal or adaptive: the sequences are those of the coordinator';
  return relationFault('coordinator.sharding', sharding, rule);
};

/** The largest share is at most what all have together. */
const shareFitsAnAssignment: Rule = (read) => {
  if (read('coordinator.sharding') !== 'examples') return null;
  const [batch, most] = [Number(read('batch_size')), Number(read('coordinator.max_trainers'))];
  if (!(batch * most > MAX_POSITIONS)) return null;
  const rule = `with coordinator.sharding: examples it must be at most ${Math.floor(MAX_POSITIONS / most)}: times coordinator.max_trainers (${most}) at most ${MAX_POSITIONS}`;
  return relationFault('batch_size', batch, rule);
};

export const TASK_RULES: readonly Rule[] = [
  dataIsSomewhere,
  sitesShareTokenizer,
  labelsAreThere,
  classifierIsThere,
  examplesAreJsonl,
  noRowsOfSites,
  sharesAreOfWhatThereIs,
  shareFitsAnAssignment,
];

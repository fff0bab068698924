/** Every rule about robust aggregation: the configuration it refuses, the field it blames, and the same mended. */
import test from 'ava';
import { MINIMAL, refusal, resolve } from './parse.ts';
import { testRules, type BrokenRule } from './rule-tests.ts';

const SEVEN = 'coordinator={start_trainers: 7, min_trainers: 7}';
const of = (text: string): string => `coordinator.aggregation={${text}}`;

const LOCAL = ['data={path: , local: true}', 'tokenizer.type=byte'];

const RULES: readonly BrokenRule[] = [
  {
    title: 'Krum needs 2 f + 3 trainers in every step',
    broken: ['coordinator={start_trainers: 7, min_trainers: 6}', of('rule: krum, byzantine: 2')],
    field: 'coordinator.min_trainers',
    words:
      /coordinator\.min_trainers is 6; it must be at least 7 with coordinator\.aggregation\.rule: krum and byzantine: 2: among fewer no one can say which are wrong/,
    mended: [SEVEN, of('rule: krum, byzantine: 2')],
  },
  {
    title: 'the trimmed mean needs 2 f + 1',
    broken: [SEVEN, of('rule: trimmed-mean, byzantine: 4')],
    field: 'coordinator.min_trainers',
    words: /must be at least 9 with coordinator\.aggregation\.rule: trimmed-mean and byzantine: 4/,
    mended: [SEVEN, of('rule: trimmed-mean, byzantine: 3')],
  },
  {
    title: 'the median needs three',
    broken: ['coordinator={start_trainers: 7, min_trainers: 2}', of('rule: median')],
    field: 'coordinator.min_trainers',
    words: /must be at least 3 with coordinator\.aggregation\.rule: median: among fewer/,
    mended: ['coordinator={start_trainers: 7, min_trainers: 3}', of('rule: median')],
  },
  {
    title: 'a share must leave enough for every number of trainers that there can be',
    broken: [SEVEN, 'coordinator.max_trainers=8', of('rule: multi-krum, byzantine: 40%')],
    field: 'coordinator.aggregation.byzantine',
    words:
      /of 8 trainers that is 3, for which multi-krum needs 9; it must be less, or .*max_trainers less than 8/,
    mended: [SEVEN, 'coordinator.max_trainers=7', of('rule: multi-krum, byzantine: 30%')],
  },
  {
    title: 'a quorum must leave enough',
    broken: [SEVEN, 'coordinator.quorum=75%', of('rule: krum, byzantine: 2')],
    field: 'coordinator.quorum',
    words:
      /coordinator\.quorum is 75%; of 7 trainers \(coordinator\.min_trainers\) that lets a step go on with 6; coordinator\.aggregation\.rule: krum and byzantine: 2 needs 7/,
    mended: [SEVEN, 'coordinator.quorum=75%', of('rule: krum')],
  },
  {
    title: 'rows that differ from trainer to trainer cannot be compared',
    broken: [SEVEN, of('rule: median'), 'method.param_groups=[{match: [embed_tokens], policy: row-sparse}]'],
    field: 'coordinator.aggregation.rule',
    words:
      /must be mean or norm-filter with method\.param_groups\[0\]\.policy: row-sparse, .*; give the group policy: dense/,
    mended: [
      SEVEN,
      of('rule: norm-filter'),
      'method.param_groups=[{match: [embed_tokens], policy: row-sparse}]',
    ],
  },
  {
    title: 'averaged moments are judged number by number',
    broken: [SEVEN, of('rule: multi-krum'), 'local_steps={count: 4, moments: averaged}'],
    field: 'coordinator.aggregation.rule',
    words: /must be median or trimmed-mean with local_steps\.moments: averaged/,
    mended: [SEVEN, of('rule: trimmed-mean'), 'local_steps={count: 4, moments: averaged}'],
  },
  {
    title: 'weights that sites declare cannot be believed',
    broken: [SEVEN, of('rule: multi-krum'), 'local_steps.count=4', ...LOCAL],
    field: 'local_steps.weighting',
    words:
      /local_steps\.weighting is examples; it must be equal or targets with coordinator\.aggregation\.rule: multi-krum: .*; median, trimmed-mean and krum count each site once/,
    mended: [SEVEN, of('rule: multi-krum'), 'local_steps={count: 4, weighting: equal}', ...LOCAL],
  },
  {
    title: 'the norm filter leaves out and does not clip',
    broken: [SEVEN, of('rule: norm-filter'), 'coordinator.outliers=clip'],
    field: 'coordinator.outliers',
    words: /must be reject \(or left out\) with coordinator\.aggregation\.rule: norm-filter/,
    mended: [SEVEN, of('rule: norm-filter'), 'coordinator.outliers=reject'],
  },
  {
    title: 'f is read by rules that count',
    broken: [SEVEN, of('rule: median, byzantine: 2')],
    field: 'coordinator.aggregation.byzantine',
    words: /is 2; it is used only with coordinator\.aggregation\.rule: trimmed-mean, krum or multi-krum/,
    mended: [SEVEN, of('rule: krum, byzantine: 2')],
  },
  {
    title: 'the radius is that of centred clipping',
    broken: [SEVEN, of('rule: krum, clip_factor: 2')],
    field: 'coordinator.aggregation.clip_factor',
    words: /it is used only with coordinator\.aggregation\.rule: centred-clipping/,
    mended: [SEVEN, of('rule: centred-clipping, clip_factor: 2, clip_iterations: 1')],
  },
];

testRules(RULES);

test('an unknown rule, a share without a sign and a count of none are refused with what is allowed', (t) => {
  t.regex(refusal(MINIMAL, SEVEN, of('rule: medain')).message, /did you mean median|one of mean, median/);
  t.regex(refusal(MINIMAL, SEVEN, of('rule: krum, byzantine: 0')).message, /byzantine/);
  t.regex(
    refusal(MINIMAL, SEVEN, of('rule: krum, byzantine: "101%"')).message,
    /a share of them such as 25%/,
  );
});

test('the mean is what stands there when nothing is said', (t) => {
  const { aggregation } = resolve(MINIMAL).coordinator;
  t.deepEqual(aggregation, { rule: 'mean', byzantine: 1, clip_factor: 1, clip_iterations: 3 });
});

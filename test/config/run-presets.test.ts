import test from 'ava';
import { parseDocument } from 'yaml';
import { resolvedYaml } from '../../src/config/load.ts';
import { checkResumable } from '../../src/config/resumable.ts';
import { RUN_PRESETS, runPreset } from '../../src/config/run-presets.ts';
import { ConfigError } from '../../src/errors.ts';
import { llamaConfigFromFields } from '../../src/model/llama-config.ts';
import { checkTargets } from '../../src/coordinator/check-targets.ts';
import { buildRunShape } from '../../src/run-shape.ts';
import { MINIMAL, resolve } from './parse.ts';

test('every preset resolves, and what it resolves to loads again as the same', (t) => {
  for (const preset of RUN_PRESETS) {
    const config = resolve(MINIMAL, `preset=${preset}`);
    t.is(config.preset, preset);
    const text = resolvedYaml(config);
    t.deepEqual(resolve(text), config);
    t.is(parseDocument(text).get('preset'), preset);
  }
});

test('a preset fits models with and without tied embeddings', (t) => {
  for (const preset of RUN_PRESETS) {
    for (const isTied of [false, true]) {
      const config = resolve(MINIMAL, `preset=${preset}`);
      const fields = { size: '60m', tie_word_embeddings: isTied } as const;
      const model = llamaConfigFromFields(fields, { vocabSize: 32_000, maxPositionEmbeddings: 256 });
      const shape = buildRunShape(config, model);
      t.notThrows(() => checkTargets(config, shape));
      t.is(
        shape.slots.some(({ name }) => name === 'lm_head.weight'),
        !isTied,
      );
    }
  }
});

test('balanced has power at an eighth of the width, embeddings at a quarter; wan and extreme have less', (t) => {
  const ranks = (['balanced', 'wan', 'extreme'] as const).map((preset) => {
    const config = resolve(MINIMAL, `preset=${preset}`);
    const model = llamaConfigFromFields({ size: '60m' }, { vocabSize: 32_000, maxPositionEmbeddings: 256 });
    const { slots, codecs } = buildRunShape(config, model);
    const layer = slots.find(({ name }) => name.includes('q_proj'))!;
    const head = slots.find(({ name }) => name === 'lm_head.weight')!;
    t.deepEqual([layer.policy, head.policy, layer.rule, head.rule], ['power', 'power', 'power', 'power']);
    t.is(head.scale, 1);
    return [layer.rank, layer.scale ?? config.method.scale, head.rank, codecs[head.index]?.contribution];
  });
  t.deepEqual(ranks, [
    [64, 0.2, 128, 'int8'],
    [39, 0.2, 64, 'int8'],
    [16, 0.12, 28, 'int4'],
  ]);
});

test('what the file says wins over its preset, a list as a whole', (t) => {
  const { method, optimizer, wire } = resolve(
    MINIMAL,
    'preset=balanced',
    'method={rank: 5, param_groups: [{match: [lm_head], scale: 2}]}',
    'optimizer.lr=0.5',
    'wire.update_codec=f32',
  );
  t.is(method.name, 'power');
  t.is(method.rank, 5);
  t.is(method.scale, 0.2);
  t.deepEqual(method.param_groups, [{ match: ['lm_head'], scale: 2 }]);
  t.deepEqual([optimizer.lr, [...optimizer.betas]], [0.5, [0.5, 0.999]]);
  t.deepEqual({ ...wire }, { codec: 'int8', update_codec: 'f32', overlap: 'exact' });
});

test('a preset is the same after configurations were made of it', (t) => {
  const before = JSON.stringify(runPreset('wan'));
  resolve(MINIMAL, 'preset=wan', 'method.rank=1');
  t.is(JSON.stringify(runPreset('wan')), before);
});

test('a run that goes on keeps its preset', (t) => {
  const saved = resolve(MINIMAL, 'preset=balanced');
  const error = t.throws(() => checkResumable(saved, resolve(resolvedYaml(saved), 'preset=wan')), {
    instanceOf: ConfigError,
  });
  t.deepEqual(
    error.faults.map(({ field }) => field),
    ['preset'],
  );
});

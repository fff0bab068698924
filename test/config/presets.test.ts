import test from 'ava';
import { MINIMAL, resolve } from './parse.ts';

test('the recommended preset sketches, transports the moments and forgets faster', (t) => {
  const { method, optimizer } = resolve(MINIMAL);
  t.deepEqual(
    { ...method.refresh },
    { type: 'sketch', oversample: 8, power_iterations: 1, warm_start: true, stagger: true },
  );
  t.is(method.moments, 'transport');
  t.deepEqual([...optimizer.betas, optimizer.eps, optimizer.semantics], [0.9, 0.99, 1e-8, 'torch']);
});

test('the parity preset is what galore-torch does', (t) => {
  const { method, optimizer } = resolve(MINIMAL, 'method.preset=parity');
  t.deepEqual(
    { ...method.refresh },
    { type: 'exact', oversample: 0, power_iterations: 0, warm_start: false, stagger: false },
  );
  t.is(method.moments, 'keep');
  t.deepEqual([...optimizer.betas, optimizer.eps, optimizer.semantics], [0.9, 0.999, 1e-6, 'galore_torch']);
});

test('full rank is plain AdamW under either preset', (t) => {
  for (const preset of ['recommended', 'parity']) {
    const { optimizer } = resolve(MINIMAL, 'method.name=full', `method.preset=${preset}`);
    t.deepEqual([...optimizer.betas, optimizer.eps, optimizer.semantics], [0.9, 0.999, 1e-8, 'torch']);
  }
});

test('explicit fields win over the preset', (t) => {
  const { method, optimizer } = resolve(
    MINIMAL,
    'method={preset: parity, moments: reset, refresh: {stagger: true}}',
    'optimizer={betas: [0.5, 0.6], eps: 0.001, semantics: torch}',
  );
  t.is(method.moments, 'reset');
  t.true(method.refresh.stagger);
  t.is(method.refresh.type, 'exact');
  t.deepEqual([...optimizer.betas, optimizer.eps, optimizer.semantics], [0.5, 0.6, 0.001, 'torch']);
});

test('an exact refresh asked for under the recommended preset has no sketch', (t) => {
  const { refresh } = resolve(MINIMAL, 'method.refresh.type=exact').method;
  t.deepEqual(
    { ...refresh },
    { type: 'exact', oversample: 0, power_iterations: 0, warm_start: false, stagger: true },
  );
});

test('gaussian bases turn or keep the moments where orthonormal ones transport them', (t) => {
  const momentsOf = (...settings: readonly string[]): string => resolve(MINIMAL, ...settings).method.moments;
  t.is(momentsOf('method.basis=gaussian'), 'rotate');
  t.is(momentsOf('method.name=flora'), 'rotate');
  t.is(momentsOf('method={basis: gaussian, preset: parity}'), 'keep');
  t.is(momentsOf('method.name=golore'), 'transport');
  for (const name of ['apollo', 'apollo-mini']) t.is(momentsOf(`method.name=${name}`), 'keep');
  for (const preset of ['recommended', 'parity']) {
    t.is(momentsOf(`method={name: adarankgrad, preset: ${preset}}`), 'transport');
  }
});

import { spawnSync } from 'node:child_process';
import test from 'ava';
import { GrowthWatch } from '../src/heap.ts';

const MB = 1024 * 1024;

test('everything is collected when the heap has grown by so much since it was last done', (t) => {
  const watch = new GrowthWatch();
  const limits = { heapBytes: 4 * MB, totalBytes: null };
  const use = (heapMb: number, outsideMb: number) => ({
    heapBytes: heapMb * MB,
    outsideBytes: outsideMb * MB,
  });
  watch.collected(use(20, 5));
  t.false(watch.hasGrown(use(23, 5), limits));
  t.true(watch.hasGrown(use(24, 5), limits));
  // Frames count where they are said to: 1 MB on the heap and 7 MB outside.
  t.false(watch.hasGrown(use(21, 12), limits));
  t.true(watch.hasGrown(use(21, 12), { ...limits, totalBytes: 8 * MB }));
  // What is left after a collection is no garbage.
  watch.collected(use(24, 5));
  t.false(watch.hasGrown(use(27, 5), limits));
});

test('garbage made while no step ends does not pile up in a coordinator', (t) => {
  // What lives long enough to become old, in a process that looks now and then.
  const heap = JSON.stringify(new URL('../src/heap.js', import.meta.url).href);
  const program = `
    import { collectGrownHeap, keepYoungGenerationSmall } from ${heap};
    keepYoungGenerationSmall();
    collectGrownHeap();
    const before = process.memoryUsage().heapTotal;
    let most = 0, kept = [];
    for (let i = 0; i < 3000; i++) {
      kept.push(Array.from({ length: 1000 }, (_, k) => ({ k })));
      if (kept.length < 100) continue;
      kept = [];
      collectGrownHeap();
      most = Math.max(most, process.memoryUsage().heapTotal);
    }
    console.log(Math.round((most - before) / ${MB}));`;
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
  });
  t.is(stderr, '');
  // 25 MB if V8 alone decides.
  t.true(Number(stdout) <= 12, `the heap grew by ${stdout} MB`);
});
